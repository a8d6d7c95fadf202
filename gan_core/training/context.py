"""Where and with what a training runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gan_core.config import TrainConfig
from gan_core.training.distributed import Processes


@dataclass(frozen=True)
class Setting:
    """Where and with what a training runs.

    Attributes:
        settings: the recipe's section.
        folder: the state folder of this trajectory.
        image_size: side of the training images in pixels.
        device, precision: resolved ('cpu', 'cuda:0'; 'float32', 'bf16').
        max_seconds: stop cleanly after so long; None: no limit.
        classes: number of classes in the training set, 0 without labels.
        compiled: 'off', 'graphs', 'on' or 'reduce-overhead'; `train` sets it by what the settings
            wish and the machine can.
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
