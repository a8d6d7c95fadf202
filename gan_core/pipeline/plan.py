"""The plan: which nodes a recipe needs, inputs first, and what the store has of each.

Pure and light: no torch, no Prefect, no images. The command line, `status`, `--dry-run` and the
flows all use it, so that they agree about every key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from gan_core.artifacts.manifest import Manifest, problems
from gan_core.artifacts.store import Store
from gan_core.config import Recipe
from gan_core.contract import ArtifactRef
from gan_core.features.external.fingerprint import Stamp
from gan_core.pipeline import chain as stages
from gan_core.pipeline.chain import Chain
from gan_core.pipeline.data_growth import Growth, decide
from gan_core.pipeline.nodes import Node, NodeStatus, Settings, key_of
from gan_core.specs import spec_of

BEFORE_TRAINING = ("ingest", "crop", "hash", "dedup", "pack")


@dataclass
class Plan:
    """Nodes with what the store has for them, in an order in which inputs come first.

    Attributes:
        store: None plans as if nothing had been made, and every source had labels.
        verify: compares what is there byte by byte with its manifest.
        growth: what was decided about a training set that has grown; `note`: in words.
    """

    store: Store | None = None
    refresh: frozenset[str] = frozenset()
    verify: bool = False
    statuses: dict[str, NodeStatus] = field(default_factory=dict)
    growth: Growth | None = None
    note: str = ""

    @property
    def nodes(self) -> list[Node]:
        """The nodes in order."""
        return [status.node for status in self.statuses.values()]

    def add(self, node: Node) -> NodeStatus:
        """Adds a node to the plan with what the store has for it."""
        found = self.statuses[node.id] = self._status_of(node)
        return found

    def _status_of(self, node: Node) -> NodeStatus:
        if self.store is None:
            return NodeStatus(node, "to do")
        if node.pinned is not None:
            return _pinned(self.store, node, node.pinned, verify=self.verify)
        inputs = {name: self.statuses[name].ref for name in node.input_ids}
        missing = [name for name, ref in inputs.items() if ref is None]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return NodeStatus(node, "after", why=f"after {missing[0]}{more}")
        digests = {name: ref.digest for name, ref in inputs.items() if ref}
        key = key_of(node, digests)
        manifest = self.store.find(node.stage, key)
        damage = self.store.damage(manifest.ref()) if manifest and self.verify else []
        if damage:
            return NodeStatus(node, "to do", key, None, f"damaged: {damage[0]}")
        if manifest is not None and node.stage not in self.refresh:
            return NodeStatus(node, "cached", key, manifest)
        why = "to be refreshed" if manifest else explain(self.store, node, digests)
        return NodeStatus(node, "to do", key, None, why)

    def has_labels(self, source: str) -> bool:
        """Whether a source has labels, as far as it is ingested: without them nothing is scored."""
        manifest = self.statuses[f"ingest:{source}"].manifest
        return manifest is None or bool(manifest.outcome.summary.get("labelled", True))


def make_plan(
    recipe: Recipe,
    fingerprints: dict[str, str],
    settings: Settings,
    *,
    external: Stamp | None = None,
    store: Store | None = None,
    until: str = "report",
) -> Plan:
    """The plan of a recipe.

    Args:
        fingerprints: source name to fingerprint.
        external: the external network whose features are extracted; then no GAN is trained.
        until: the last stage wanted: before `train` nothing is decided about a grown training set.
    """
    refresh = settings.refresh | ({"ingest"} if settings.rehash else frozenset())
    plan = Plan(store, refresh, settings.verify)
    chain = Chain(recipe, fingerprints, settings, external)
    for source in recipe.all_sources():
        plan.add(stages.ingest(chain, source))
        plan.add(stages.crop(chain, source))
    if chain.dedups:
        plan.add(stages.hash_crops(chain))
        plan.add(stages.dedup(chain))
    plan.add(stages.pack(chain))
    if external is None:
        chain = _add_training(plan, chain, until)
    for one in recipe.evaluated():
        features = [stages.extract(chain, one.name, role) for role in recipe.extract.roles]
        if plan.has_labels(one.name):
            baselines = recipe.evaluate.baselines
            features += [stages.extract_baseline(chain, one.name, base) for base in baselines]
        _add_all(plan, features)
        if plan.has_labels(one.name):
            probes = recipe.evaluate.probes
            _add_all(plan, (stages.evaluate(chain, node, p) for node in features for p in probes))
            _add_all(plan, stages.reference_cells(chain, features))
    if external is None:
        inspections = recipe.inspections().items()
        _add_all(plan, (stages.inspect(chain, name, options) for name, options in inspections))
    plan.add(stages.report(chain, list(plan.statuses)))
    return plan


def build_plan(
    recipe: Recipe,
    fingerprints: dict[str, str],
    settings: Settings,
    external: Stamp | None = None,
) -> list[Node]:
    """The nodes of a recipe as if nothing had been made, and every source had labels."""
    return make_plan(recipe, fingerprints, settings, external=external).nodes


def _add_all(plan: Plan, nodes: Iterable[Node]) -> None:
    for node in nodes:
        plan.add(node)


def _add_training(plan: Plan, chain: Chain, until: str) -> Chain:
    """Adds the training; returns the chain, which knows the set of a training that is kept."""
    training = plan.add(stages.train(chain))
    wanted = until not in BEFORE_TRAINING and "train" not in plan.refresh
    if plan.store is not None and wanted:
        plan.growth, plan.note = decide(plan.store, chain.recipe, plan.statuses)
    if plan.growth is not None:
        del plan.statuses["train"]
        if plan.growth.kept_set is not None:
            chain = replace(chain, kept_set=plan.growth.kept_set)
            plan.add(stages.pack_of_kept_training(chain))
        plan.add(plan.growth.applied(training.node))
    return chain


def _pinned(store: Store, node: Node, ref: ArtifactRef, *, verify: bool) -> NodeStatus:
    manifest = store.artifacts.get(ref)
    if manifest is None or problems(store.path(ref), manifest, deep=verify, byproducts=False):
        return NodeStatus(node, "to do", ref.key, None, "its artifact is gone or damaged")
    return NodeStatus(node, "cached", ref.key, manifest)


def explain(store: Store, node: Node, digests: dict[str, str]) -> str:
    """Why a node has to be made: what differs from the artifact of the same place that differs
    least, the newest of several.
    """
    manifests = (store.artifacts.get(ref) for ref in store.artifacts.refs(node.stage))
    made = [manifest for manifest in manifests if manifest and manifest.node == node.id]
    if not made:
        return "not made before"
    changes = {one.key: _changes(one, node, digests) for one in made}
    nearest = max(made, key=lambda one: (-len(changes[one.key]), one.made.get("at", "")))
    version = spec_of(node.stage).version
    if nearest.version != version:
        return f"the stage's version went from {nearest.version} to {version}"
    changed = changes[nearest.key]
    if any(not text.startswith("version of ") for text in changed):
        # With other settings another plug-in may be in a place: its version says nothing.
        changed = [text for text in changed if not text.startswith("version of ")]
    return "changed: " + ", ".join(changed) if changed else "its artifact is gone or damaged"


def _changes(manifest: Manifest, node: Node, digests: dict[str, str]) -> list[str]:
    """Settings, inputs and versions in which a node differs from an artifact."""
    old, new = dict(manifest.part), dict(node.key_part)
    before, after = old.pop("plugins", {}), new.pop("plugins", {})
    changed = _differences(old, new)
    for role, ids in node.inputs.items():
        used = [ref.digest for ref in manifest.inputs.get(role, [])]
        if used != [digests[name] for name in ids]:
            changed.append(f"input {role} ({', '.join(ids)})")
    for name in sorted({*before, *after}):
        versions = before.get(name, 1), after.get(name, 1)  # version 1 is in no key
        if versions[0] != versions[1]:
            changed.append(f"version of {name} ({versions[0]} to {versions[1]})")
    if manifest.version != spec_of(node.stage).version:
        changed.append("version of the stage")
    return changed


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            out += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            out.append(f"{prefix}{key}")
    return out
