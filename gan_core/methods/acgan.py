"""AC-GAN (Odena, Olah, Shlens 2017): a conditional generator, and a discriminator with two heads.

    L_S = E log P(real | x) + E log P(generated | G(z, c))      source
    L_C = E log P(c | x) + E log P(c | G(z, c))                 class
    the discriminator maximises L_S + L_C, the generator L_C - L_S (non-saturating: as code below)

Output 0 of the discriminator is the source logit, the others are class logits; the class loss is a
log-softmax of logits (some published code takes it of probabilities). Features of this
discriminator saw labels, and every result says so. `adversarial: false` is the method's own
baseline: the same discriminator, trained on real images and their labels alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

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

ABOUT = "AC-GAN: class-conditional generator, discriminator that also classifies; uses labels"
TITLE = "AC-GAN"
VERSION = 1
USES_LABELS = True
FEATURES = ("discriminator",)


class Options(Section):
    """AC-GAN's settings."""

    class_weight: float = Field(1.0, ge=0, description="weight of the class loss in both updates")
    adversarial: bool = Field(
        True, description="false: the baseline, the same discriminator trained as a classifier"
    )


class Method(Base):
    """See the head of this file."""

    options: Options
    charts = (
        Chart("Classes that D reads off samples, last", "class_share_", "bars"),
        Chart("Entropy of the classes of samples, in nats", "class_entropy_"),
    )

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        """A conditional generator, and a discriminator of 1 + classes outputs."""
        return {
            "generator": make.generator(classes=make.classes),
            "discriminator": make.discriminator(outputs=1 + make.classes),
        }

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """A discriminator step, then a generator step from the same generated images."""
        assert batch.labels is not None, "AC-GAN needs the labels of the training images"
        real, loss_class = self.on_real(batch.images, batch.labels)
        figures = {
            "loss_class_real": loss_class.detach(),
            "accuracy_real": (real[:, 1:].argmax(1) == batch.labels).float().mean(),
        }
        if not self.options.adversarial:
            yield Update("discriminator", loss_class, len(batch.images), figures)
            return
        labels = batch.draw_labels()
        fake = self.nets["generator"](batch.latents(), labels)
        scores = self.nets["discriminator"](fake.detach()).float()
        source = bce(real[:, :1], 1.0) + bce(scores[:, :1], 0.0)
        classes = loss_class + F.cross_entropy(scores[:, 1:], labels)
        loss = source + self.options.class_weight * classes
        figures |= {
            "loss_discriminator": loss.detach(),
            "score_real": real[:, 0].detach().sigmoid().mean(),
            "score_fake": scores[:, 0].detach().sigmoid().mean(),
            **class_spread(scores[:, 1:].detach()),
        }
        yield Update("discriminator", loss, len(batch.images), figures)
        with frozen(self.nets["discriminator"]):
            scores = self.nets["discriminator"](fake).float()
            loss = bce(scores[:, :1], 1.0) + self.options.class_weight * F.cross_entropy(
                scores[:, 1:], labels
            )
        yield Update("generator", loss, figures={"loss_generator": loss.detach()})

    def diagnostics(
        self, images: Tensor, latents: Tensor, labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Share of the samples that the discriminator reads each class off: asked for evenly."""
        if not self.options.adversarial:
            return {}
        samples = self.nets["generator"](latents, labels)
        read = self.nets["discriminator"](samples)[:, 1:].argmax(1)
        shares = F.one_hot(read, self.nets["generator"].classes).float().mean(0)
        return {f"class_share_{number}": share for number, share in enumerate(shares)}

    def on_real(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs for real images, float32 [n, 1 + classes], and their class loss."""
        scores = self.nets["discriminator"](images).float()
        return scores, F.cross_entropy(scores[:, 1:], labels)


def class_spread(logits: Tensor) -> dict[str, Tensor]:
    """How the classes of generated images spread: entropy (nats) of the mean prediction, and the
    share of its most frequent class. Collapse to few classes shows as low entropy.

    Args: logits: [n, classes].
    """
    mean = logits.softmax(1).mean(0)
    return {
        "class_entropy_fake": -(mean * mean.clamp(min=1e-12).log()).sum(),
        "class_largest_fake": mean.max(),
    }
