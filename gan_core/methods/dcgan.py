"""DCGAN (Radford, Metz, Chintala 2015): losses and the two update rules.

    L_D = BCE(D(x), 1) + BCE(D(G(z)), 0)        L_G = BCE(D(G(z)), 1)        means over the batch,
    D's output as a logit

mode paper: the authors' loop (faces/train_uncond_dcgan.py): each minibatch feeds either one update
of G or one of D, G first (`n_updates % 2 == 0`), so an epoch of theirs shows the discriminator half
of the images. mode modern: each minibatch feeds one update of D and one of G, both from the same
generated images; the loop averages G. In both, D sees real and generated images in separate passes,
so that batch norm takes their statistics separately.

Modern mode's options: differentiable augmentation of all that D sees; R1, the penalty r1 / 2 * mean
|dD(x)/dx|^2 on real images (Mescheder et al. 2018). Conditional networks get the real images'
labels for both, as the authors' MNIST script does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.config import TrainConfig
from gan_core.methods._augment import augment
from gan_core.methods.base import Batch, Update
from gan_core.networks.base import LayeredNetwork, frozen

ABOUT = (
    "DCGAN: non-saturating loss, alternating updates (paper) or both per batch with an "
    "averaged generator (modern)"
)
ROLES = ("generator", "discriminator")
USES_LABELS = False


def bce(logits: Tensor, target: float) -> Tensor:
    """Mean binary cross-entropy of logits [N, 1] against one target for all, in float32."""
    logits = logits.float()
    return F.softplus(-logits).mean() if target == 1.0 else F.softplus(logits).mean()


class Method:
    """DCGAN bound to a generator and a discriminator."""

    optimised: Mapping[str, tuple[str, ...]] = {
        "discriminator": ("discriminator",),
        "generator": ("generator",),
    }

    def __init__(self, settings: TrainConfig, networks: Mapping[str, LayeredNetwork]) -> None:
        self.settings = settings
        self.period = 2 if settings.mode == "paper" else 1
        self.generator, self.discriminator = networks["generator"], networks["discriminator"]

    def updates(self, batch: Batch) -> Iterator[Update]:
        """See the head of this file."""
        labels = batch.labels if self.generator.classes else None
        if self.settings.mode == "paper":
            if batch.index % 2 == 0:
                yield self.generator_update(self.generator(batch.latents(), labels), labels, batch)
            else:
                with torch.no_grad():
                    fake = self.generator(batch.latents(), labels)
                yield self.discriminator_update(batch.images, fake, labels, batch)
        else:
            fake = self.generator(batch.latents(), labels)
            yield self.discriminator_update(batch.images, fake.detach(), labels, batch)
            yield self.generator_update(fake, labels, batch)

    def seen(self, pictures: Tensor, batch: Batch) -> Tensor:
        """Images as the discriminator gets to see them."""
        kinds = self.settings.augment
        return augment(pictures.float(), kinds, batch.random, batch.share) if kinds else pictures

    def discriminator_update(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, batch: Batch
    ) -> Update:
        """Args: real, fake: [N, 3, S, S] in [-1, 1]; no gradient flows into `fake`."""
        shown = self.seen(real, batch)
        on_real = self.discriminator(shown, labels)
        on_fake = self.discriminator(self.seen(fake, batch), labels)
        loss = bce(on_real, 1.0) + bce(on_fake, 0.0)
        figures = {
            "loss_discriminator": loss.detach(),
            "score_real": on_real.detach().float().sigmoid().mean(),
            "score_fake": on_fake.detach().float().sigmoid().mean(),
        }
        if self.settings.r1:
            penalty = r1_penalty(self.discriminator, shown, labels)
            loss = loss + self.settings.r1 / 2 * penalty
            figures["r1"] = penalty.detach()
        return Update("discriminator", loss, len(real), figures)

    def generator_update(self, fake: Tensor, labels: Tensor | None, batch: Batch) -> Update:
        """Args: fake: [N, 3, S, S] with its graph. The discriminator passes the gradient on and
        gets none of its own.
        """
        with frozen(self.discriminator):
            loss = bce(self.discriminator(self.seen(fake, batch), labels), 1.0)
        return Update("generator", loss, figures={"loss_generator": loss.detach()})


def r1_penalty(
    discriminator: LayeredNetwork, pictures: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Mean over images [N, C, S, S] of the squared length of the score's gradient by the image, in
    float32.
    """
    x = pictures.detach().float().requires_grad_(True)
    with torch.autocast(x.device.type, enabled=False):
        scores = discriminator(x, labels)
        (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()
