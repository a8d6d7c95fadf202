"""BiGAN (Donahue, Krähenbühl, Darrell 2017): a discriminator of pairs, (x, E(x)) against (G(z), z).

    L_D  = BCE(D(x, E(x)), 1) + BCE(D(G(z), z), 0)
    L_GE = BCE(D(x, E(x)), 0) + BCE(D(G(z), z), 1)

G and E are trained on swapped labels (the inverse objective of section 3.4), not on minus L_D, and
all networks move in one simultaneous step (jeffdonahue/bigan, train_gan.py). Features are the
encoder's, the joint discriminator's at (x, E(x)), or the generator's at E(x).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gan_core.methods.base import Batch, Inputs, Update, WithEncoder
from gan_core.methods.losses import swapped_pairs
from gan_core.methods.optimisers import Rule
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.make import Make

ABOUT = "BiGAN: an encoder learned against a discriminator of pairs of image and latent"
TITLE = "BiGAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("encoder", "discriminator", "generator")


class Method(WithEncoder):
    """A generator, an encoder, and a discriminator of both their pairs."""

    averaged = ("generator", "encoder")
    optimised = {
        "discriminator": Rule(("discriminator",)),
        "generator": Rule(("generator", "encoder")),
    }

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        return {
            "encoder": make.encoder(),
            "generator": make.generator(),
            "discriminator": make.joint(),
        }

    def encode(self, images: Tensor) -> Tensor:
        """Latents [n, dim] of images."""
        code: Tensor = self.nets["encoder"](images)
        return code

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """See the head of this file."""
        z = batch.latents()
        code, fake = self.encode(batch.images), self.nets["generator"](z)
        yield swapped_pairs(self.nets["discriminator"], batch.images, code, fake, z)

    def calibration(
        self, role: str, images: Tensor, latents: Tensor, labels: Tensor | None
    ) -> Inputs:
        """The discriminator's pairs are (x, E(x))."""
        if role == "discriminator":
            return images, None, self.encode(images)
        return super().calibration(role, images, latents, labels)
