"""What passes between the planner, a stage and the store: small frozen models.

A request travels to a child process as JSON (`StageRequest`); each stage reads it as the dataclass
of its own: settings, inputs, and how it is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gan_core.config import (
    CropConfig,
    DedupConfig,
    EvaluateConfig,
    ExtractConfig,
    HashConfig,
    ProbeConfig,
    SourceConfig,
    TrainConfig,
)
from gan_core.devices import cpu_cores, resolve_device

EXTERNAL = "network"  # the name of an external network's features, in ids and tables


class ArtifactRef(BaseModel):
    """Names one version of one artifact, as runs record it and as tasks return it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    key: str = Field(description="32 hex digits: what was asked for")
    digest: str = Field(description="64 hex digits: what came out")
    address: str = Field("", description="where its folder is, relative to the home")


class StageInput(BaseModel):
    """An input of a stage: the artifact and the local folder that holds its files."""

    model_config = ConfigDict(frozen=True)

    ref: ArtifactRef
    path: Path


class StageRequest(BaseModel):
    """All that a stage needs to know. `part` and `inputs` are in the key; `context` never is.

    Attributes:
        stage: the stage's name.
        node: its place in this recipe ('crop:cifar10', 'extract:cifar10:random').
        part: the stage's settings (a section's whole `model_dump`, plus what the planner adds:
            seed, threads, ...).
        inputs: role to inputs; a role may hold several (the crops of several training sources).
        context: device, workers, data paths, max_seconds, state folders, earlier artifacts of the
            same kind.
        work: folder to write into. It may hold what a killed attempt left: use it or overwrite it.
            Files under `work/scratch/` are never published.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    node: str
    key: str
    part: dict[str, Any]
    inputs: dict[str, list[StageInput]] = Field(default_factory=dict)
    context: dict[str, Any] = Field(default_factory=dict)
    work: Path

    def one(self, role: str) -> StageInput:
        """The only input of `role`."""
        (only,) = self.inputs[role]
        return only

    def folders(self, role: str) -> tuple[Path, ...]:
        """The folders of all inputs of `role`; none where it has none."""
        return tuple(entry.path for entry in self.inputs.get(role, ()))

    @property
    def scratch(self) -> Path:
        """A folder for what must survive a kill but not publication; made when asked for."""
        folder = self.work / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class StageOutcome(BaseModel):
    """What a stage reports in addition to its files.

    Attributes:
        counts: rows in and out by status; `in` equals the sum of the others where rows pass
            through.
        summary: small JSON values for the report, the tables and the command line.
        warnings: sentences that a person should read.
        complete: False when a time limit ended the work cleanly; nothing is published, the next run
            continues.
    """

    counts: dict[str, int] = Field(default_factory=dict)
    summary: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    complete: bool = True


@dataclass(frozen=True)
class Execution:
    """How a stage computes.

    Attributes:
        device: 'cpu', 'cuda' or 'cuda:1'.
        threads: of the computation, at least 1; sums depend on it, so it is in the keys.
        workers: threads that read files.
        share: (k, n): make the k-th of n shares alone; shares: n, when others made them.
    """

    device: str
    threads: int
    workers: int
    share: tuple[int, int] | None = None
    shares: int = 0

    @classmethod
    def of(cls, request: StageRequest) -> Execution:
        """As a request asks for it."""
        context = request.context
        share = context.get("share")
        return cls(
            resolve_device(str(context.get("device") or "auto")),
            int(request.part.get("threads") or 0) or cpu_cores(),
            int(context.get("workers") or 0) or cpu_cores(),
            (int(share[0]), int(share[1])) if share else None,
            int(context.get("shares") or 0),
        )


def _seed(request: StageRequest) -> int:
    return int(request.part.get("seed", 0))


def _path(value: Any) -> Path | None:
    return Path(value) if value else None


@dataclass(frozen=True)
class IngestRequest:
    """Attributes: location: the source's place, None where it comes with a package; memory: a
    folder that remembers contents by file stamp; rehash: read every file again.
    """

    settings: SourceConfig
    location: Path | None
    memory: Path | None
    rehash: bool
    execution: Execution

    @classmethod
    def of(cls, request: StageRequest) -> IngestRequest:
        """Read from JSON."""
        return cls(
            SourceConfig.model_validate(request.part["source"]),
            _path(request.context.get("location")),
            _path(request.context.get("state")),
            bool(request.context.get("rehash")),
            Execution.of(request),
        )


@dataclass(frozen=True)
class CropRequest:
    """Attributes: images: what ingest made; earlier: artifacts whose crops may be copied."""

    settings: CropConfig
    source: SourceConfig
    location: Path | None
    images: Path
    earlier: tuple[Path, ...]
    execution: Execution

    @classmethod
    def of(cls, request: StageRequest) -> CropRequest:
        """Read from JSON."""
        return cls(
            CropConfig.model_validate(request.part["crop"]),
            SourceConfig.model_validate(request.context["source"]),
            _path(request.context.get("location")),
            request.one("images").path,
            tuple(Path(folder) for folder in request.context.get("earlier") or ()),
            Execution.of(request),
        )


@dataclass(frozen=True)
class HashRequest:
    """Attributes: crops: of all training sources."""

    settings: HashConfig
    seed: int
    crops: tuple[Path, ...]
    execution: Execution

    @classmethod
    def of(cls, request: StageRequest) -> HashRequest:
        """Read from JSON."""
        settings = HashConfig.model_validate(request.part.get("hash", {}))
        return cls(settings, _seed(request), request.folders("crops"), Execution.of(request))


@dataclass(frozen=True)
class DedupRequest:
    """Attributes: codes: what hash made for the crops."""

    settings: DedupConfig
    crops: tuple[Path, ...]
    codes: tuple[Path, ...]
    execution: Execution

    @classmethod
    def of(cls, request: StageRequest) -> DedupRequest:
        """Read from JSON."""
        settings = DedupConfig.model_validate(request.part.get("dedup", {}))
        crops, codes = request.folders("crops"), request.folders("codes")
        return cls(settings, crops, codes, Execution.of(request))


@dataclass(frozen=True)
class PackRequest:
    """Attributes: duplicates: what dedup made; empty where nothing is left out."""

    crops: tuple[Path, ...]
    duplicates: tuple[Path, ...]

    @classmethod
    def of(cls, request: StageRequest) -> PackRequest:
        """Read from JSON."""
        return cls(request.folders("crops"), request.folders("duplicates"))


@dataclass(frozen=True)
class WarmStart:
    """The training that this one continues: folder of its checkpoints, and the images that it has
    shown.
    """

    state: Path
    images: int


@dataclass(frozen=True)
class TrainRequest:
    """Attributes:
    state: folder of the checkpoints, which outlives an attempt.
    max_seconds: training ends cleanly after this time; None: no limit.
    start: file of the snapshot to start from; its digest is in the settings.
    continues: whether it continues another training; continued: that training, if its checkpoints
        are still there.
    """

    settings: TrainConfig
    seed: int
    pack: Path
    state: Path
    max_seconds: float | None
    start: Path | None
    continues: bool
    continued: WarmStart | None
    execution: Execution

    @classmethod
    def of(cls, request: StageRequest) -> TrainRequest:
        """Read from JSON."""
        limit, parent = request.context.get("max_seconds"), request.context.get("continues")
        return cls(
            TrainConfig.model_validate(request.part["train"]),
            _seed(request),
            request.one("pack").path,
            _path(request.context.get("state")) or request.scratch / "state",
            None if limit is None else float(limit),
            _path(request.context.get("start")),
            "continued" in request.part,
            WarmStart(Path(parent["state"]), int(parent["images"])) if parent else None,
            Execution.of(request),
        )


@dataclass(frozen=True)
class InspectRequest:
    """Attributes: allow: modules of the recipe's network and method, which the snapshot may import;
    packs: training images; features, crops: of the source that is evaluated, for inspections that
    need them.
    """

    name: str
    options: dict[str, Any]
    seed: int
    allow: tuple[str, ...]
    snapshot: Path
    packs: tuple[Path, ...]
    features: Path | None
    crops: Path | None
    execution: Execution

    @classmethod
    def of(cls, request: StageRequest) -> InspectRequest:
        """Read from JSON."""
        wanted = request.part["inspection"]
        features, crops = request.folders("features"), request.folders("crops")
        return cls(
            str(wanted["name"]),
            dict(wanted.get("options", {})),
            _seed(request),
            tuple(request.context.get("allow") or ()),
            request.one("snapshot").path,
            request.folders("pack"),
            features[0] if features else None,
            crops[0] if crops else None,
            Execution.of(request),
        )


@dataclass(frozen=True)
class ExtractRequest:
    """Attributes:
    features: a role of the snapshot, `EXTERNAL`, or the name of a baseline.
    options: of the baseline.
    network: the recipe's section, for an untrained network; training: the method that builds it
        and its options, where they are not the defaults.
    allow: modules of the recipe's network and method, which the snapshot may import.
    external: the fingerprint of an external network, None without one; search: where its code and
        weights lie.
    duplicates: what dedup found; packs: training images.
    work, scratch: folders to write to.
    """

    features: str
    settings: ExtractConfig
    options: dict[str, Any]
    seed: int
    network: dict[str, Any]
    training: dict[str, Any]
    allow: tuple[str, ...]
    external: dict[str, Any] | None
    search: dict[str, Any]
    crops: Path
    duplicates: tuple[Path, ...]
    packs: tuple[Path, ...]
    snapshot: Path | None
    inputs: dict[str, list[str]]
    work: Path
    scratch: Path
    execution: Execution

    @classmethod
    def of(cls, request: StageRequest) -> ExtractRequest:
        """Read from JSON."""
        part, snapshots = request.part, request.folders("snapshot")
        return cls(
            str(part["features"]),
            ExtractConfig.model_validate(part.get("extract", {})),
            dict(part.get("options", {})),
            _seed(request),
            dict(part.get("network", {})),
            dict(part.get("training", {})),
            tuple(request.context.get("allow") or ()),
            part.get("external"),
            request.context,
            request.one("crops").path,
            request.folders("duplicates"),
            request.folders("pack"),
            snapshots[0] if snapshots else None,
            {
                role: sorted(entry.ref.digest for entry in entries)
                for role, entries in sorted(request.inputs.items())
            },
            request.work,
            request.scratch,
            Execution.of(request),
        )


@dataclass(frozen=True)
class EvaluateRequest:
    """Attributes: name: of the features; leaked: what dedup found of the test split in the training
    split; empty where it was not asked for.
    """

    settings: EvaluateConfig
    probe: ProbeConfig
    name: str
    seed: int
    features: Path
    leaked: tuple[Path, ...]
    execution: Execution

    @classmethod
    def of(cls, request: StageRequest) -> EvaluateRequest:
        """Read from JSON."""
        return cls(
            EvaluateConfig.model_validate(request.part.get("protocol", {})),
            ProbeConfig.model_validate(request.part["probe"]),
            str(request.part["features"]),
            _seed(request),
            request.one("features").path,
            request.folders("leaked"),
            Execution.of(request),
        )
