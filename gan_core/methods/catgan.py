"""CatGAN (Springenberg 2016): a discriminator of K classes and no real-or-generated output.

    D: certain of real images, uncertain of generated ones, and all K classes equally used
       minimise  -H[mean p(x)] + E H[p(x)] - E H[p(G(z))]
    G: images of which D is certain, and all K classes equally used
       minimise  -H[mean p(G(z))] + E H[p(G(z))]

The marginal is over the whole batch of all processes: over few images it is biased towards 0. The
discriminator's loss is at least -2 log K (real images certain and balanced, generated ones
uniform). K clusters are found without labels; with `train.probe_kimg` they are matched to the
classes of training images (`probe_cluster_accuracy`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Base, Batch, Chart, Update
from gan_core.networks.layers import frozen

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork
    from gan_core.networks.make import Make

ABOUT = "CatGAN: a K-way discriminator, certain of real and uncertain of generated images"
TITLE = "CatGAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("discriminator",)


class Options(Section):
    """CatGAN's settings."""

    clusters: int = Field(10, ge=2, description="K, the discriminator's outputs")


class Method(Base):
    """See the head of this file."""

    options: Options
    charts = (
        Chart("Entropy of the K outputs, in nats", "entropy_"),
        Chart("Entropy of the outputs' mean, in nats", "marginal_entropy_"),
    )

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        """A generator, and a discriminator of K outputs."""
        return {
            "generator": make.generator(),
            "discriminator": make.discriminator(outputs=self.options.clusters),
        }

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """A discriminator step, then a generator step from the same generated images."""
        fake = self.nets["generator"](batch.latents())
        real = batch.gather(self.nets["discriminator"](batch.images).float())
        generated = batch.gather(self.nets["discriminator"](fake.detach()).float())
        loss = discriminator_loss(real, generated)
        figures = {
            "loss_discriminator": loss.detach(),
            "entropy_real": entropy(real).mean().detach(),
            "entropy_fake": entropy(generated).mean().detach(),
            "marginal_entropy_real": marginal_entropy(real).detach(),
        }
        yield Update("discriminator", loss, len(batch.images), figures)
        with frozen(self.nets["discriminator"]):
            loss = generator_loss(batch.gather(self.nets["discriminator"](fake).float()))
        yield Update("generator", loss, figures={"loss_generator": loss.detach()})

    def clusters(self, images: Tensor) -> Tensor | None:
        """The K outputs."""
        scores: Tensor = self.nets["discriminator"](images)
        return scores

    def realness(self, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """None: no output says how real an image is."""
        return None


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each row's softmax: [n, K] to [n]."""
    log = F.log_softmax(logits, 1)
    return -(log.exp() * log).sum(1)


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the mean softmax over rows [n, K]."""
    mean = logits.softmax(1).mean(0)
    return -(mean * mean.clamp(min=1e-12).log()).sum()


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """-H[mean p(x)] + E H[p(x)] - E H[p(G(z))] of logits [n, K]; at least -2 log K."""
    return -marginal_entropy(real) + entropy(real).mean() - entropy(generated).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """-H[mean p(G(z))] + E H[p(G(z))] of logits [n, K]; at least -log K."""
    return -marginal_entropy(generated) + entropy(generated).mean()
