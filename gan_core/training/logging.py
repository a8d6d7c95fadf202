"""What training says of itself while it runs: figures averaged over an interval, TensorBoard,
sample grids as PNG.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan_core.files import kimg_label
from gan_core.training.checkpoint import Position
from gan_core.vision.sheets import sheet
from gan_core.vision.tensors import to_uint8

logger = logging.getLogger(__name__)


def crossed(before: int, after: int, every_kimg: float) -> bool:
    """Whether a multiple of `every_kimg` lies in (before, after], both in images."""
    return every_kimg > 0 and after // (every_kimg * 1000) > before // (every_kimg * 1000)


class Figures:
    """Means of named scalars over an interval. Sums stay on the device: adding never waits
    for it.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, Tensor]:
        return {name: self.sums[name] / self.counts[name] for name in sorted(self.sums)}

    def share(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Puts the mean over processes in place of this process's sums, so that a state holds the
        figures of all.
        """
        if self.sums:
            shared = mean(torch.stack([value.float() for value in self.sums.values()]))
            self.sums = dict(zip(self.sums, shared.unbind(), strict=True))

    def clear(self) -> None:
        self.sums, self.counts = {}, {}


class Pace:
    """How fast a training runs, from now on.

    Attributes: first: images at which it begins.
    """

    def __init__(self, at: Position) -> None:
        self.first = self._last = at.images
        self._before = at.seconds
        self._started = self._logged = time.monotonic()

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def interval(self, at: Position) -> float:
        """Images per second since the last call; the position takes the seconds of training."""
        now = time.monotonic()
        rate = (at.images - self._last) / max(now - self._logged, 1e-9)
        self._logged, self._last = now, at.images
        at.seconds = self._before + now - self._started
        return rate

    def restart(self, images: int) -> None:
        """The next interval counts from `images` on."""
        self._last = images

    def figures(self, images: int, target: int) -> dict[str, float]:
        """Images per second since the beginning, and the minutes to `target` at this pace."""
        rate = max(images - self.first, 1) / max(self.seconds(), 1e-9)
        return {"images_per_second": rate, "minutes_left": max(target - images, 0) / rate / 60}


class Board:
    """TensorBoard events under `folder`; silent where tensorboard is not installed."""

    def __init__(self, folder: Path, images: int) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=images or None)
        except ImportError:
            logger.info("tensorboard is not installed; statistics go to stats.jsonl only")

    def scalars(self, line: Mapping[str, Any], images: int) -> None:
        for name, value in line.items():
            if self._writer is not None and isinstance(value, float):
                self._writer.add_scalar(name, value, images)

    def grid(self, pixels: np.ndarray[Any, Any], images: int, name: str) -> None:
        if self._writer is not None:
            self._writer.add_image(name, pixels, images, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def tile(images: Tensor, columns: int = 8, gap: int = 2) -> np.ndarray[Any, Any]:
    """Images [n, C, S, S] in [-1, 1] (C 1 or 3) side by side: uint8 [rows * (S + gap) + gap,
    columns * (S + gap) + gap, 3].
    """
    pixels = to_uint8(images).cpu().numpy()
    return sheet(np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels, columns, gap)


def reached(images: int, every_kimg: float) -> float:
    """The last multiple of `every_kimg` at or before `images`, in kimg: the place that a snapshot
    or grid was asked for.
    """
    return images // (every_kimg * 1000) * every_kimg


def grid_name(kimg: float, kind: str = "grid") -> str:
    """File name of a grid of images."""
    return f"{kind}-{kimg_label(kimg)}.png"


@torch.no_grad()
def weight_norm(parameters: list[Tensor]) -> Tensor:
    """Euclidean norm of all weights together."""
    total: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parameters)))
    return total
