"""The averaged generator: an exponential moving average of the weights, with its half-life in kimg."""

from __future__ import annotations

import copy

import torch

from gan_core.networks.base import LayeredNetwork

# early on the half-life is at most this share of the images seen, so that the first weights are
# soon forgotten
RAMP = 0.1


class Average:
    """A copy of `source` that follows it."""

    def __init__(self, source: LayeredNetwork, half_life_images: float) -> None:
        self.network = copy.deepcopy(source).requires_grad_(False)
        self._half_life = half_life_images

    def weight(self, images: int, step: int) -> float:
        """Share of the newest weights in the average after `step` more images, `images` in all."""
        half_life = max(1.0, min(self._half_life, RAMP * images))
        return 1.0 - float(0.5 ** (step / half_life))

    @torch.no_grad()
    def follow(self, source: LayeredNetwork, images: int, step: int) -> None:
        """Moves the average towards the source's weights."""
        torch._foreach_lerp_(
            list(self.network.parameters()), list(source.parameters()), self.weight(images, step)
        )
