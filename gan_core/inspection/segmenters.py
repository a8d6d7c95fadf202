"""Segmenters: which class each pixel of a generated image shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gan_core.inspection.base import match_contrast


@dataclass(frozen=True)
class Segmenter:
    """Images float [n, 3, S, S] in [-1, 1] to classes int64 [n, S, S]; names of the classes."""

    segment: Callable[[Tensor], Tensor]
    classes: Sequence[str]

    def __call__(self, images: Tensor) -> Tensor:
        return self.segment(images)


def by_colour(palette: Mapping[str, Sequence[int]], real: Tensor | None = None) -> Segmenter:
    """Each pixel's class is that of the nearest colour of a palette.

    Args:
        palette: class to its colour, RGB from 0 to 255.
        real: training images whose contrast generated images get first, channel by channel.
    """
    colours = torch.tensor([list(colour) for colour in palette.values()]) / 127.5 - 1

    def segment(images: Tensor) -> Tensor:
        shown = images if real is None else match_contrast(images, real)
        places = shown.permute(0, 2, 3, 1).flatten(0, 2)
        nearest = torch.cdist(places, colours.to(places)).argmin(1)
        return nearest.view(len(images), *images.shape[2:])

    return Segmenter(segment, list(palette))
