"""What passes between the planner, a stage and the store: small frozen models, JSON on the way to a
child process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


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
    """All that a stage is told. `part` and `inputs` are in the key; `context` never is.

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

    @property
    def scratch(self) -> Path:
        """A folder for what must survive a kill but not publication; made when asked for."""
        folder = self.work / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class StageOutcome(BaseModel):
    """What a stage says of itself beside its files.

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
