"""Averaged networks: exponential moving averages of the weights, with their half-life in kimg."""

from __future__ import annotations

import copy

import torch

from gan_core.networks.base import LayeredNetwork

RAMP = 0.1  # early on the half-life is at most this share of the images seen, so that the first
# weights are soon forgotten


class Average:
    """A copy of `source` that follows it."""

    def __init__(self, source: LayeredNetwork, half_life_images: float) -> None:
        self.source = source
        self.network = copy.deepcopy(source).requires_grad_(False)
        self._half_life = half_life_images

    def weight(self, images: int, step: int) -> float:
        """Share of the newest weights in the average after `step` more images, `images` in all."""
        half_life = max(1.0, min(self._half_life, RAMP * images))
        return 1.0 - float(0.5 ** (step / half_life))

    @torch.no_grad()
    def update(self, images: int, step: int) -> None:
        """Moves the average towards the source's weights; buffers are copied."""
        torch._foreach_lerp_(
            list(self.network.parameters()),
            list(self.source.parameters()),
            self.weight(images, step),
        )
        for mine, its in zip(self.network.buffers(), self.source.buffers(), strict=True):
            mine.copy_(its)
