"""Segmenters: which class each pixel of a generated image shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gan_core.inspection.base import moments


@dataclass(frozen=True)
class Segmenter:
    """Images float [n, 3, S, S] in [-1, 1] to classes int64 [n, S, S]; names of the classes."""

    segment: Callable[[Tensor], Tensor]
    classes: Sequence[str]

    def __call__(self, images: Tensor) -> Tensor:
        return self.segment(images)


def by_colour(
    palette: Mapping[str, Sequence[int]],
    real: Tensor | None = None,
    generated: Tensor | None = None,
) -> Segmenter:
    """Each pixel's class is that of the nearest colour of a palette.

    Args:
        palette: class to its colour, RGB from 0 to 255.
        real, generated: training images, and samples before any intervention. Images then get the
            mean and contrast of real ones by the map that fits these samples, channel by channel;
            it is fitted once, so that an intervention cannot change it.
    """
    colours = torch.tensor([list(colour) for colour in palette.values()]) / 127.5 - 1
    scale, shift = torch.ones(3), torch.zeros(3)
    if real is not None and generated is not None:
        (mean, spread), (goal, wanted) = moments(generated), moments(real)
        scale = wanted / spread.clamp(min=1e-6)
        shift = goal - mean * scale

    def segment(images: Tensor) -> Tensor:
        places = images.permute(0, 2, 3, 1).flatten(0, 2)
        matched = (places * scale.to(places) + shift.to(places)).clamp(-1, 1)
        nearest = torch.cdist(matched, colours.to(places)).argmin(1)
        return nearest.view(len(images), *images.shape[2:])

    return Segmenter(segment, list(palette))
