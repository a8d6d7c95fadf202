"""A node: one stage at one place of a recipe, its key, and what the store has for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gan_core import registry
from gan_core.artifacts.manifest import Manifest, make_key
from gan_core.contract import EXTERNAL as EXTERNAL
from gan_core.contract import ArtifactRef
from gan_core.specs import spec_of

Inputs = dict[str, tuple[str, ...]]  # role to node ids


@dataclass(frozen=True)
class Node:
    """One stage at one place of the recipe.

    Attributes:
        id: 'crop:cifar10', 'train', 'evaluate:cifar10:random:linear_svm', ...
        part: all settings of the stage; `key_part`: those of them that are in the key.
        inputs: role to node ids.
        context: settings outside the key.
        pinned: the artifact that is used whatever the inputs are: a training that is kept although
            its set has grown.
    """

    id: str
    stage: str
    part: dict[str, Any]
    key_part: dict[str, Any]
    inputs: Inputs = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    pinned: ArtifactRef | None = None

    @property
    def input_ids(self) -> list[str]:
        """The nodes that this one reads, each once."""
        return list(dict.fromkeys(name for ids in self.inputs.values() for name in ids))


@dataclass(frozen=True)
class Start:
    """The snapshot that a training starts from. Its digest (SHA-256) is in the key, its place is
    not.
    """

    path: Path
    digest: str


@dataclass(frozen=True)
class Settings:
    """What a run is given in addition to its recipe; of it only the digest of `start` enters a key.

    Attributes:
        locations: source name to the place of its files (None: comes with a package).
        max_seconds: training ends cleanly after this time, counted from its own start; None:
            no limit.
        refresh: stages that are made again although the store has them.
        start: the snapshot of `train.start`.
        verify: what the store has is compared byte by byte with its manifests.
    """

    device: str = "cpu"
    locations: dict[str, Path | None] = field(default_factory=dict)
    rehash: bool = False
    verify: bool = False
    max_seconds: float | None = None
    refresh: frozenset[str] = frozenset()
    start: Start | None = None


@dataclass(frozen=True)
class NodeStatus:
    """What the store has for a node.

    Attributes:
        state: 'cached'; 'to do': its inputs are known and nothing is there; 'after': an input has
            to be made first.
        why: why it is not cached.
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


def key_of(node: Node, digests: dict[str, str]) -> str:
    """The node's key, given the digests of the nodes that it reads."""
    inputs = {role: [digests[name] for name in ids] for role, ids in node.inputs.items()}
    spec = spec_of(node.stage)
    return make_key(spec.name, spec.version, node.key_part, inputs)


def imported_key(name: str) -> str:
    """The key under which `discern import` keeps a snapshot (`train.snapshot` of a recipe)."""
    return make_key("train", spec_of("train").version, {"snapshot": name}, {})


def plugins(*used: tuple[str, str]) -> dict[str, Any]:
    """The versions above 1 of the plug-ins (kind, name) that a node uses, for its key."""
    versions = {f"{kind}/{name}": registry.version(kind, name) for kind, name in used}
    above = {name: version for name, version in versions.items() if version > 1}
    return {"plugins": above} if above else {}


def up_to(nodes: list[Node], stage: str) -> list[Node]:
    """The part of a plan that ends with a stage: its nodes and all that they read."""
    by_id = {node.id: node for node in nodes}
    wanted: set[str] = set()
    waiting = [node.id for node in nodes if node.stage == stage]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += by_id[name].input_ids
    return [node for node in nodes if node.id in wanted]
