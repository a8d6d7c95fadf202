"""R3GAN's loss (Huang, Gokaslan, Kuleshov, Tompkin 2024): relativistic pairing with R1 and R2.

    L_D = E softplus(D(G(z)) - D(x)) + gamma / 2 (E |grad D(x)|^2 + E |grad D(G(z))|^2)
    L_G = E softplus(D(x) - D(G(z)))

Each generated image is compared with one real image of the batch. The paper's networks are
ConvNets of its own without normalisation; the loss serves any network here without batch norm
across images best, since both penalties are per image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Base, Batch, Update
from gan_core.methods.losses import gradient_penalty
from gan_core.methods.optimisers import Rule
from gan_core.networks.layers import frozen

ABOUT = "R3GAN: relativistic pairing loss with gradient penalties on real and generated images"
TITLE = "R3GAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("discriminator",)


class Options(Section):
    """R3GAN's settings."""

    gamma: float = Field(1.0, ge=0, description="weight of both gradient penalties")


class Method(Base):
    """See the head of this file."""

    optimised: Mapping[str, Rule] = {
        "discriminator": Rule(("discriminator",), beta1=0.0),
        "generator": Rule(("generator",), beta1=0.0),
    }
    options: Options

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """A discriminator step, then a generator step on the same pairs."""
        discriminator = self.nets["discriminator"]
        fake = self.nets["generator"](batch.latents())
        real, scores = discriminator(batch.images).float(), discriminator(fake.detach()).float()
        loss = paired(real, scores)
        figures = {
            "score_real": real.detach().sigmoid().mean(),
            "score_fake": scores.detach().sigmoid().mean(),
        }
        if self.options.gamma:
            r1 = gradient_penalty(discriminator, batch.images)
            r2 = gradient_penalty(discriminator, fake)
            loss = loss + self.options.gamma / 2 * (r1 + r2)
            figures |= {"r1": r1.detach(), "r2": r2.detach()}
        figures["loss_discriminator"] = loss.detach()
        yield Update("discriminator", loss, len(batch.images), figures)
        with torch.no_grad():
            real = discriminator(batch.images).float()
        with frozen(discriminator):
            loss = paired(discriminator(fake).float(), real)
        yield Update("generator", loss, figures={"loss_generator": loss.detach()})


def paired(higher: Tensor, lower: Tensor) -> Tensor:
    """Mean softplus(lower - higher) of paired logits [n, 1]: small where `higher` is above."""
    return F.softplus(lower - higher).mean()
