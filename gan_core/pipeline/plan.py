"""The plan: which stages a recipe needs, in order, with their settings and inputs; and what the
store already has of them.

Pure and light: no torch, no Prefect, no images. The command line, `status`, `--dry-run` and the
flows all use it, so that they agree about every key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core import registry
from gan_core.artifacts.manifest import Manifest, make_key, problems
from gan_core.artifacts.store import Store
from gan_core.config import BaselineConfig, InspectConfig, ProbeConfig, Recipe, TrainConfig
from gan_core.contract import ArtifactRef
from gan_core.devices import bf16_units, resolve_compile, resolve_processes
from gan_core.features.external.fingerprint import Stamp
from gan_core.specs import REPORT_ROLES, spec_of

if TYPE_CHECKING:
    from gan_core.pipeline.data_growth import Growth

# What a recipe says of a source for people and for finding it: no image depends on it.
_SAID_OF_SOURCES = frozenset({"folder", "layout", "images"})
OUTSIDE = "network"  # the name of features of somebody's own network, in ids and tables
# Settings of the train section that say which training is used, not how one is done: no training is
# told them, no key has them.
_CHOOSING = ("on_new_data", "min_new_share", "continue_kimg")


@dataclass(frozen=True)
class Node:
    """One stage at one place of the recipe.

    Attributes:
        id: 'crop:cifar10', 'train', 'evaluate:cifar10:random:linear_svm', ...
        part: all settings the stage is told; `key_part`: those of them that are in the key.
        inputs: role to node ids.
        context: settings outside the key.
        pinned: the artifact that stands here whatever the inputs are: a training that is kept
            although its set has grown.
    """

    id: str
    stage: str
    part: dict[str, Any]
    key_part: dict[str, Any]
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    pinned: ArtifactRef | None = None


@dataclass(frozen=True)
class Settings:
    """What a run is given beside its recipe; none of it enters a key.

    Attributes:
        locations: source name to the place of its files (None: comes with a package).
        max_seconds: training ends cleanly after so long, counted from its own start; None: no
            limit.
    """

    device: str = "cpu"
    locations: dict[str, Path | None] = field(default_factory=dict)
    rehash: bool = False
    max_seconds: float | None = None
    refresh: frozenset[str] = frozenset()


def build_plan(
    recipe: Recipe,
    fingerprints: dict[str, str],
    settings: Settings,
    labelled: dict[str, bool] | None = None,
    outside: Stamp | None = None,
    growth: Growth | None = None,
) -> list[Node]:
    """The nodes of a recipe in an order in which inputs come first.

    Args:
        fingerprints: source name to fingerprint.
        labelled: source name to whether it has labels, as far as known from its ingest; without
            labels nothing is evaluated.
        outside: the network that features are taken of, where it is somebody's own
            (`features.stamp`): then no GAN is trained.
        growth: what was decided about a training set that has grown
            (`gan_core.pipeline.data_growth`); None: it is trained on as it is.
    """
    return _Planner(recipe, fingerprints, settings, labelled or {}, outside, growth).nodes()


def plugins(*used: tuple[str, str]) -> dict[str, Any]:
    """The versions above 1 of the plug-ins (kind, name) that a node uses, for its key."""
    versions = {f"{kind}/{name}": registry.version(kind, name) for kind, name in used}
    above = {name: version for name, version in versions.items() if version > 1}
    return {"plugins": above} if above else {}


class _Planner:
    def __init__(
        self,
        recipe: Recipe,
        fingerprints: dict[str, str],
        settings: Settings,
        labelled: dict[str, bool],
        outside: Stamp | None,
        growth: Growth | None,
    ) -> None:
        self.recipe = recipe
        self.outside = outside
        self.duplicates = (
            {"duplicates": ("dedup",)} if outside is None or recipe.dedup.mode != "off" else {}
        )
        self.fingerprints = fingerprints
        self.settings = settings
        self.labelled = labelled
        self.growth = growth
        # What reads the set that the snapshot was trained on; where that is not the present one,
        # its lineage names both.
        older = growth is not None and growth.kept_set is not None
        self.trained_on: dict[str, tuple[str, ...]] = (
            {"pack": ("pack:trained",), "grown": ("pack",)} if older else {"pack": ("pack",)}
        )
        self.common = {"seed": recipe.seed, "threads": recipe.threads}
        self.device = {"device": settings.device}
        self.train_crops = tuple(f"crop:{source.name}" for source in recipe.sources.train)

    def nodes(self) -> list[Node]:
        made = [*self._sources(), *self._training_set(), *([] if self.outside else self._network())]
        evaluated = self._evaluation()
        made += evaluated
        made.append(self._report([node.id for node in made]))
        return made

    def _sources(self) -> list[Node]:
        made = []
        crop = self.recipe.crop
        for source in self.recipe.all_sources():
            location = self.settings.locations.get(source.name)
            where = {"location": str(location) if location else None}
            dumped = source.model_dump(mode="json")
            stamp = {"fingerprint": self.fingerprints[source.name]}
            dataset = plugins(("datasets", source.dataset))
            keyed = {
                key: value
                for key, value in source.key_part().items()
                if key not in _SAID_OF_SOURCES
            }
            made.append(
                Node(
                    f"ingest:{source.name}",
                    "ingest",
                    {"source": dumped, **stamp},
                    {"source": keyed, **stamp, **dataset},
                    context={**where, "rehash": self.settings.rehash},
                )
            )
            made.append(
                Node(
                    f"crop:{source.name}",
                    "crop",
                    {"crop": crop.model_dump(mode="json")},
                    {"crop": crop.key_part(), **dataset},
                    {"images": (f"ingest:{source.name}",)},
                    {**where, "source": dumped},
                )
            )
        return made

    def _training_set(self) -> list[Node]:
        recipe = self.recipe
        pack = Node("pack", "pack", {}, {}, {"crops": self.train_crops, **self.duplicates})
        if (
            not self.duplicates
        ):  # nobody needs codes: no GAN is trained, and duplicates are not looked for
            return [pack]
        hashing = {"hash": recipe.hash.model_dump(mode="json"), **self.common}
        return [
            Node(
                "hash",
                "hash",
                hashing,
                {"hash": recipe.hash.key_part(), **self.common},
                {"crops": self.train_crops},
                self.device,
            ),
            Node(
                "dedup",
                "dedup",
                {"dedup": recipe.dedup.model_dump(mode="json"), "threads": recipe.threads},
                {"dedup": recipe.dedup.key_part(), "threads": recipe.threads},
                {"codes": ("hash",), "crops": self.train_crops},
            ),
            pack,
        ]

    def _network(self) -> list[Node]:
        recipe = self.recipe
        extra = {**self.common, "image_size": recipe.crop.size}
        used = (("methods", recipe.train.method), ("networks", recipe.train.network.name))
        precision = recipe.train.precision
        if precision == "auto":
            precision = "bf16" if bf16_units(self.settings.device) else "float32"
        compiled = resolve_compile(recipe.train.compile, self.settings.device)
        processes = resolve_processes(
            recipe.train.processes, self.settings.device
        )  # in the key like threads: sums depend on it
        resolved = {"precision": precision, "processes": processes, "compile": compiled}
        defaults = TrainConfig()
        train = recipe.train.model_copy(
            update={**resolved, **{name: getattr(defaults, name) for name in _CHOOSING}}
        )
        # With rollback, how often training looks and saves decides where it goes back to: then both
        # are in the key.
        keyless = (
            frozenset({"grid_kimg", "probe_kimg"})
            if train.on_divergence == "rollback"
            else spec_of("train").keyless
        )
        if train.choose == "best_probe":  # and where the probe looks decides which weights go on
            keyless -= {"probe_kimg", "log_kimg"}
        keyed = {key: value for key, value in train.key_part().items() if key not in keyless}
        if compiled == resolve_compile(
            "auto", self.settings.device
        ):  # follows from the device, which is in no key
            keyed.pop("compile", None)
        if recipe.train.snapshot is not None:
            named = {"snapshot": recipe.train.snapshot}
            training = Node("train", "train", named, named, {}, self.device)
        else:
            training = Node(
                "train",
                "train",
                {"train": train.model_dump(mode="json"), **extra},
                {"train": keyed, **extra, **plugins(*used)},
                {"pack": ("pack",), "codes": ("hash",)},
                {**self.device, "max_seconds": self.settings.max_seconds},
            )
        trained_on: list[Node] = []
        if self.growth is not None:
            training = self.growth.applied(training)
            if self.growth.kept_set is not None:
                trained_on = [Node("pack:trained", "pack", {}, {}, pinned=self.growth.kept_set)]
        return [*trained_on, training, *self._inspections()]

    def _inspections(self) -> list[Node]:
        recipe = self.recipe
        context = {**self.device, "network": recipe.train.network.name}
        pack = self.trained_on["pack"]
        if not registry.names("inspection"):
            whole = {"inspect": InspectConfig().model_dump(mode="json"), **self.common}
            keyed = {"inspect": {}, **self.common}
            inputs = {"snapshot": ("train",), "pack": pack}
            return [Node("inspect", "inspect", whole, keyed, inputs, context)]
        made = []
        for name, options in recipe.inspections().items():
            part = {"inspection": {"name": name, "options": options}, **self.common}
            used = (("inspection", name), ("networks", recipe.train.network.name))
            inputs = {"snapshot": ("train",), "pack": pack}
            if "codes" in registry.literal("inspection", name, "NEEDS", ()):
                inputs["codes"] = ("hash",)
            keyed = {**part, **plugins(*used)}
            made.append(Node(f"inspect:{name}", "inspect", part, keyed, inputs, context))
        return made

    def _evaluation(self) -> list[Node]:
        made = []
        for source in self.recipe.evaluated():
            labelled = self.labelled.get(source.name, True)
            network = OUTSIDE if self.outside else self.recipe.extract.network
            made.append(self._extract(source.name, network))
            baselines = self.recipe.evaluate.baselines if labelled else []
            made += [self._baseline(source.name, baseline) for baseline in baselines]
            kinds = [network, *(baseline.name for baseline in baselines)]
            if labelled:
                made += [
                    self._cell(source.name, kind, probe)
                    for kind in kinds
                    for probe in self.recipe.evaluate.probes
                ]
                made += self._references(source.name, kinds)
        return made

    def _extract(self, source: str, kind: str) -> Node:
        """Features of the trained network, or of an external one."""
        recipe = self.recipe
        part: dict[str, Any] = {"features": kind, **self.common}
        key_part = {**part, "extract": self._activations()}
        part["extract"] = recipe.extract.model_dump(mode="json")
        inputs = {"crops": (f"crop:{source}",), **self.duplicates, **self.trained_on}
        context: dict[str, Any] = self.device
        if self.outside:
            part["outside"] = key_part["outside"] = self.outside.part(weights=True)
            context = {**context, **self.outside.context(weights=True)}
        else:
            inputs["snapshot"] = ("train",)
            # a dotted one is imported only if the recipe names it
            context = {**context, "network": recipe.train.network.name}
            key_part |= plugins(("networks", recipe.train.network.name))
        return Node(f"extract:{source}:{kind}", "extract", part, key_part, inputs, context)

    def _activations(self) -> dict[str, Any]:
        """The settings of extract in a key: the weights' place is not, their digest is."""
        settings = self.recipe.extract.key_part()
        return {name: value for name, value in settings.items() if name != "weights"}

    def _baseline(self, source: str, baseline: BaselineConfig) -> Node:
        """Features of a baseline. Its file's `NEEDS` says what it reads beside the crops: 'pack'
        (training images) and 'network' (the architecture, the settings of extract)."""
        recipe, name = self.recipe, baseline.name
        needs = registry.literal("baselines", name, "NEEDS", ("pack",))
        used = [("baselines", name)]
        part: dict[str, Any] = {"features": name, "options": baseline.options, **self.common}
        key_part = dict(part)
        inputs: dict[str, tuple[str, ...]] = {"crops": (f"crop:{source}",), **self.duplicates}
        inputs |= self.trained_on if "pack" in needs else {}
        context: dict[str, Any] = self.device if needs else {"device": "cpu"}
        if "network" in needs:
            part["extract"] = recipe.extract.model_dump(mode="json")
            key_part["extract"] = self._activations()
            if self.outside:
                part["outside"] = key_part["outside"] = self.outside.part(weights=False)
                context = {**context, **self.outside.context(weights=False)}
            else:
                network, size = recipe.train.network, {"image_size": recipe.crop.size}
                part |= {"network": network.model_dump(mode="json"), **size}
                key_part |= {"network": network.key_part(), **size}
                used.append(("networks", network.name))
        key_part |= plugins(*used)
        return Node(f"extract:{source}:{name}", "extract", part, key_part, inputs, context)

    def _references(self, source: str, kinds: list[str]) -> list[Node]:
        """Cells of the probes that need no features (chance): on those that are read fastest."""
        small = [
            baseline.name
            for baseline in self.recipe.evaluate.baselines
            if not registry.literal("baselines", baseline.name, "NEEDS", ("pack",))
        ]
        return [
            self._cell(source, next(iter([*small, *kinds])), ProbeConfig(name=name))
            for name in registry.names("probes")
            if registry.literal("probes", name, "REFERENCE", False)
        ]

    def _cell(self, source: str, kind: str, chosen: ProbeConfig) -> Node:
        evaluate = self.recipe.evaluate
        # The values that are tried on these features, and no others: another grid for some features
        # re-runs the cells of these alone.
        probe: dict[str, Any] = {"name": chosen.name, "grid": chosen.values(kind)}
        if chosen.options:
            probe["options"] = chosen.options
        protocol = evaluate.model_dump(mode="json")
        # Whether leaked images are left out shows as an input, or does not.
        apart = {"probes", "baselines", "exclude_leaked"}
        keyed = {key: value for key, value in evaluate.key_part().items() if key not in apart}
        inputs: dict[str, tuple[str, ...]] = {"features": (f"extract:{source}:{kind}",)}
        if evaluate.exclude_leaked is not False and self.recipe.looks_for_leaks(source):
            inputs["leaked"] = ("dedup",)
        common = {"probe": probe, "features": kind, **self.common}
        return Node(
            f"evaluate:{source}:{kind}:{probe['name']}",
            "evaluate",
            {**common, "protocol": protocol},
            {**common, "protocol": keyed, **plugins(("probes", chosen.name))},
            inputs,
            self.device,
        )

    def _report(self, nodes: list[str]) -> Node:
        inputs: dict[str, list[str]] = {role: [] for role in REPORT_ROLES.values()}
        for node in nodes:
            inputs[REPORT_ROLES[node.split(":")[0]]].append(node)
        part = {
            "report": self.recipe.report.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
        }
        key_part = {"recipe": self.recipe.key_part()}
        key_part["recipe"].get("extract", {}).pop(
            "weights", None
        )  # a place; what lies there is in the features' digest
        return Node(
            "report",
            "report",
            part,
            key_part,
            {role: tuple(ids) for role, ids in inputs.items() if ids},
        )


@dataclass(frozen=True)
class Standing:
    """What the store has for a node: 'cached', 'to do' (inputs known, nothing there) or 'after' (an
    input has to be made first).
    """

    node: Node
    state: str
    key: str | None = None
    manifest: Manifest | None = None
    why: str = ""

    @property
    def ref(self) -> ArtifactRef | None:
        """The artifact in use, when cached."""
        return self.manifest.ref() if self.manifest else None


def imported_key(name: str) -> str:
    """The key under which `discern import` keeps a snapshot, and recipes find it by
    `train.snapshot`.
    """
    return make_key("train", spec_of("train").version, {"snapshot": name}, {})


def key_of(node: Node, digests: dict[str, str]) -> str:
    """The node's key, given the digests of the nodes that it reads."""
    inputs = {role: [digests[name] for name in ids] for role, ids in node.inputs.items()}
    spec = spec_of(node.stage)
    return make_key(spec.name, spec.version, node.key_part, inputs)


def look_up(
    store: Store, nodes: list[Node], refresh: frozenset[str] = frozenset()
) -> dict[str, Standing]:
    """Node id to what the store has, in the plan's order. `refresh`: stages to be made again even
    when they are there.
    """
    found: dict[str, Standing] = {}
    digests: dict[str, str] = {}
    for node in nodes:
        if node.pinned is not None:
            found[node.id] = _pinned(store, node, node.pinned)
            digests[node.id] = node.pinned.digest
            continue
        missing = [name for ids in node.inputs.values() for name in ids if name not in digests]
        if missing:
            others = len(set(missing)) - 1
            found[node.id] = Standing(
                node, "after", why=f"after {missing[0]}" + (f" and {others} more" if others else "")
            )
            continue
        key = key_of(node, digests)
        manifest = store.find(node.stage, key)
        if manifest is not None and node.stage not in refresh:
            digests[node.id] = manifest.digest
            found[node.id] = Standing(node, "cached", key, manifest)
        else:
            found[node.id] = Standing(
                node,
                "to do",
                key,
                None,
                "to be refreshed" if manifest else explain(store, node, digests),
            )
    return found


def _pinned(store: Store, node: Node, ref: ArtifactRef) -> Standing:
    manifest = store.artifacts.get(ref)
    if manifest is None or problems(store.path(ref), manifest, deep=False):
        return Standing(node, "to do", ref.key, None, "its artifact is gone or damaged")
    return Standing(node, "cached", ref.key, manifest)


def explain(store: Store, node: Node, digests: dict[str, str]) -> str:
    """Why a node has to be made: what differs from the artifact that was made last at the same
    place of a recipe.
    """
    latest: Manifest | None = None
    for ref in store.artifacts.refs(node.stage):
        manifest = store.artifacts.get(ref)
        if (
            manifest
            and manifest.node == node.id
            and (not latest or manifest.made.get("at", "") > latest.made.get("at", ""))
        ):
            latest = manifest
    if latest is None:
        return "not made before"
    spec = spec_of(node.stage)
    if latest.version != spec.version:
        return f"the stage's version went from {latest.version} to {spec.version}"
    changed = _differences(latest.part, node.key_part)
    for role, ids in node.inputs.items():
        before = [ref.digest for ref in latest.inputs.get(role, [])]
        if before != [digests[name] for name in ids]:
            changed.append(f"input {role} ({', '.join(ids)})")
    return "changed: " + ", ".join(changed) if changed else "its artifact is gone or damaged"


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    out = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            out += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            out.append(f"{prefix}{key}")
    return out


def up_to(nodes: list[Node], stage: str) -> list[Node]:
    """The part of a plan that ends with a stage: its nodes and all that they stand on."""
    by_id = {node.id: node for node in nodes}
    wanted: set[str] = set()
    waiting = [node.id for node in nodes if node.stage == stage]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += [inner for ids in by_id[name].inputs.values() for inner in ids]
    return [node for node in nodes if node.id in wanted]
