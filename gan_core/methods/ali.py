"""ALI (Dumoulin et al. 2017): adversarially learned inference, with a stochastic encoder.

    the discriminator tells (x, z ~ q(z | x)) from (G(z), z); q is normal with diagonal deviations,
    drawn by z = mean + deviation * noise, so that the gradient reaches the encoder

Both losses come from the same networks, then both optimisers step at once, with swapped labels for
G and E instead of the negated loss. `stochastic: false` is the deterministic encoder, BiGAN's.
Features as in the paper: the last hidden layers of the encoder joined with its mean (extract.mode
`ali`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Batch, Inputs, Update, WithEncoder
from gan_core.methods.losses import swapped_pairs
from gan_core.methods.optimisers import Rule

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork
    from gan_core.networks.make import Make

ABOUT = "ALI: generator and stochastic encoder against a discriminator of pairs (x, z)"
TITLE = "ALI"
VERSION = 1
USES_LABELS = False
FEATURES = ("encoder", "discriminator", "generator")


class Options(Section):
    """ALI's settings."""

    stochastic: bool = Field(True, description="false: a deterministic encoder")


class Method(WithEncoder):
    """See the head of this file."""

    options: Options
    optimised: Mapping[str, Rule] = {
        "discriminator": Rule(("discriminator",)),
        "generator": Rule(("generator", "encoder")),
    }

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        """An encoder of means and log deviations, a generator, a joint discriminator."""
        self.dim = make.latent_dim
        return {
            "encoder": make.encoder((1 + self.options.stochastic) * self.dim),
            "generator": make.generator(),
            "discriminator": make.joint(),
        }

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of images, [n, dim]: the mean, or a draw where noise [n, dim] is given."""
        out: Tensor = self.nets["encoder"](images).float()
        if noise is None or not self.options.stochastic:
            return out[:, : self.dim]
        return out[:, : self.dim] + out[:, self.dim :].clamp(-6, 3).exp() * noise

    def noise(self, batch: Batch) -> Tensor:
        """Standard normal noise, [n, dim], this process's share of the batch's."""
        rank, processes = batch.share
        shape = (len(batch.images) * processes, self.dim)
        whole = torch.randn(shape, generator=batch.random, device=batch.images.device)
        return whole[rank::processes]

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """One simultaneous step of both optimisers."""
        z = batch.latents()
        code, fake = self.encode(batch.images, self.noise(batch)), self.nets["generator"](z)
        yield swapped_pairs(self.nets["discriminator"], batch.images, code, fake, z)

    def calibration(
        self, role: str, images: Tensor, latents: Tensor, labels: Tensor | None
    ) -> Inputs:
        """The joint discriminator sees images with their codes."""
        if role == "discriminator":
            return images, None, self.encode(images)
        return super().calibration(role, images, latents, labels)

    def feature_inputs(self, role: str, images: Tensor) -> Inputs:
        """The generator is run at the mean code."""
        if role == "generator":
            return self.encode(images), None, None
        return super().feature_inputs(role, images)
