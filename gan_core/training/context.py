"""Where and with what a training runs, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gan_core.config import TrainConfig
from gan_core.training.distributed import Processes
from gan_core.training.trainer_state import TrainerState

# settings that change no weight
REPORTING = {"kimg", "log_kimg", "grid_kimg", "snapshot_kimg", "state_kimg", "probe_kimg"}


@dataclass(frozen=True)
class Context:
    """Where and with what a training runs.

    Attributes:
        settings: the recipe's section.
        folder: the checkpoint folder of this trajectory.
        image_size: side of the training images in pixels.
        device, precision: resolved ('cpu', 'cuda:0'; 'float32', 'bf16').
        max_seconds: stop cleanly after this time; None: no limit.
        compiled: 'off' or 'graphs'; `train` sets it by what the settings ask and the machine can.
        classes: number of classes in the training set, 0 without labels.
        start: file of the snapshot whose weights the training begins with.
    """

    settings: TrainConfig
    folder: Path
    image_size: int
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    max_seconds: float | None = None
    processes: Processes = field(default_factory=Processes)
    compiled: str = "off"
    classes: int = 0
    start: Path | None = None


@dataclass
class Trained:
    """How a training ended.

    Attributes:
        complete: False when time ran out.
        stats: the lines of stats.jsonl.
        products: snapshots and grids of this training; a longer one may have left others there.
        started_at: images at which this start began; seconds: what it took.
        compiled: 'off' or 'graphs': how the steps ran.
        findings: signs of divergence: {kimg, sign, sentence}, those that were rolled back included.
    """

    state: TrainerState
    complete: bool
    stats: list[dict[str, Any]]
    products: list[Path]
    started_at: int = 0
    seconds: float = 0.0
    compiled: str = "off"
    findings: list[dict[str, Any]] = field(default_factory=list)
