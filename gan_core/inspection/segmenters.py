"""Segmenters: which class each pixel of an image shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gan_core.config import SegmenterConfig
from gan_core.inspection.base import Context, NotApplicable


@dataclass(frozen=True)
class Segmenter:
    """Images float [n, 3, S, S] in [-1, 1] to classes int64 [n, S, S]; names of the classes."""

    segment: Callable[[Tensor], Tensor]
    classes: Sequence[str]

    def __call__(self, images: Tensor) -> Tensor:
        return self.segment(images)

    def after(self, change: Callable[[Tensor], Tensor]) -> Segmenter:
        """The same on images that were changed before."""
        return replace(self, segment=lambda images: self.segment(change(images)))


def of_context(context: Context, config: SegmenterConfig) -> Segmenter:
    """The segmenter of the options, for images with the contrast of training images.

    Raises: NotApplicable: none is given.
    """
    if config.palette:
        return by_colour(config.palette)
    raise NotApplicable("A segmenter is needed: give segmenter.palette.")


def by_colour(palette: Mapping[str, Sequence[int]]) -> Segmenter:
    """Each pixel's class is that of the nearest colour. Args: palette: class to RGB, 0 to 255."""
    colours = torch.tensor([list(colour) for colour in palette.values()]) / 127.5 - 1

    def segment(images: Tensor) -> Tensor:
        places = images.permute(0, 2, 3, 1).flatten(0, 2)
        nearest = torch.cdist(places, colours.to(places)).argmin(1)
        return nearest.view(len(images), *images.shape[2:])

    return Segmenter(segment, list(palette))
