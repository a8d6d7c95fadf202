"""Latent regression (Donahue et al. 2017, section 4): an encoder fitted to a finished generator.

    L_E = mean |z - E(G(z))|^2

The baseline of BiGAN and ALI: the encoder sees generated images only, and nothing else is trained.
The generator comes from another training (`train.start`), averaged where that one kept an average,
and runs with its stored batch-norm statistics: the same latent gives the same image at every step.
No discriminator is shown real images, so kimg counts generated ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gan_core.methods.base import Batch, Update, WithEncoder
from gan_core.methods.optimisers import Rule

if TYPE_CHECKING:
    from gan_core.methods.optimisers import Optimiser
    from gan_core.networks.base import LayeredNetwork
    from gan_core.networks.make import Make

ABOUT = "latent regression: an encoder fitted to a finished generator, the baseline of BiGAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("encoder", "generator")
STARTS_FROM = ("generator",)


class Method(WithEncoder):
    """See the head of this file."""

    averaged = ()
    optimised: Mapping[str, Rule] = {"encoder": Rule(("encoder",))}

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        """An encoder, and the generator that it inverts."""
        return {"encoder": make.encoder(), "generator": make.generator()}

    def bind(
        self, networks: Mapping[str, LayeredNetwork], optimisers: Mapping[str, Optimiser]
    ) -> None:
        """The generator goes into evaluation mode."""
        super().bind(networks, optimisers)
        self.nets["generator"].eval()

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """One step of the encoder on fresh generated images."""
        z = batch.latents()
        with torch.no_grad():
            fake = self.nets["generator"](z)
        loss = (z - self.nets["encoder"](fake).float()).square().mean()
        yield Update("encoder", loss, len(z), {"loss_encoder": loss.detach()})

    def realness(self, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """None: there is no discriminator."""
        return None
