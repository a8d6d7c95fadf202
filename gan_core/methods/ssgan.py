"""SS-GAN (Chen, Zhai, Ritter, Lucic, Houlsby 2019): the discriminator also predicts rotations.

Output 0 is the logit of realness, outputs 1 to 4 are the logits of 0, 90, 180 and 270 degrees.
Rotated real images train the discriminator (weight 1.0), rotated generated ones the generator
(weight 0.2); only upright images are classified as real or generated. A quarter of the batch is
rotated, in all four ways (google/compare_gan, ssgan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Base, Batch, Chart, Update
from gan_core.methods.losses import bce
from gan_core.networks.layers import frozen

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork
    from gan_core.networks.make import Make

ABOUT = "SS-GAN: the discriminator also predicts how an image was rotated"
TITLE = "SS-GAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("discriminator",)


class Options(Section):
    """SS-GAN's settings."""

    rotation_real: float = Field(1.0, ge=0, description="weight in the discriminator's loss")
    rotation_fake: float = Field(0.2, ge=0, description="weight in the generator's loss")


class Method(Base):
    """See the head of this file."""

    options: Options
    charts = (Chart("Share of rotations that D reads off", "rotation_"),)

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        """A generator, and a discriminator of 1 + 4 outputs."""
        return {"generator": make.generator(), "discriminator": make.discriminator(outputs=5)}

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """A discriminator step, then a generator step from the same generated images."""
        fake = self.nets["generator"](batch.latents())
        real = self.nets["discriminator"](batch.images).float()
        scores = self.nets["discriminator"](fake.detach()).float()
        rotation, accuracy = self.rotation(batch.images)
        adversarial = bce(real[:, :1], 1.0) + bce(scores[:, :1], 0.0)
        loss = adversarial + self.options.rotation_real * rotation
        figures = {
            "loss_discriminator": loss.detach(),
            "score_real": real[:, 0].detach().sigmoid().mean(),
            "score_fake": scores[:, 0].detach().sigmoid().mean(),
            "rotation_accuracy": accuracy,
        }
        yield Update("discriminator", loss, len(batch.images), figures)
        with frozen(self.nets["discriminator"]):
            loss = bce(self.nets["discriminator"](fake)[:, :1], 1.0)
            loss = loss + self.options.rotation_fake * self.rotation(fake)[0]
        yield Update("generator", loss, figures={"loss_generator": loss.detach()})

    def rotation(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy of the rotation of a quarter of the images (at least two)."""
        turned, labels = rotations(images[: max(2, len(images) // 4)])
        scores = self.nets["discriminator"](turned)[:, 1:].float()
        return F.cross_entropy(scores, labels), (scores.argmax(1) == labels).float().mean()


def rotations(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images [n, C, S, S] in all four rotations, [4 n, C, S, S], and their numbers 0 to 3."""
    turned = torch.cat([torch.rot90(images, k, (2, 3)) for k in range(4)])
    return turned, torch.arange(4, device=images.device).repeat_interleave(len(images))
