"""DCGAN (Radford, Metz, Chintala 2015): losses and the two update rules.

    L_D = BCE(D(x), 1) + BCE(D(G(z)), 0)        L_G = BCE(D(G(z)), 1)

Means over the batch, D's output as a logit. Mode paper: the authors' loop
(faces/train_uncond_dcgan.py): each minibatch feeds either one update of G or one of D, G first
(`n_updates % 2 == 0`), so an epoch of theirs shows the discriminator half of the images. Mode
modern: each minibatch feeds one update of D and one of G, both from the same generated images; the
trainer averages G. In both, D sees real and generated images in separate passes, so that batch norm
takes their statistics separately. Conditional networks get the real images' labels for both, as the
authors' MNIST script does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gan_core.config import Section
from gan_core.methods.base import Base, Batch, Update
from gan_core.methods.losses import bce, gradient_penalty, probability
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import frozen
from gan_core.networks.make import Make

ABOUT = (
    "DCGAN: non-saturating loss, alternating updates (paper) or both per batch with an averaged "
    "generator (modern)"
)
TITLE = "DCGAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("discriminator",)
# options for the contract tests
EXAMPLES: tuple[dict[str, object], ...] = ({"mode": "paper"}, {}, {"first_bias": True})


class Options(Section):
    """Settings of DCGAN; all but `mode` belong to mode modern."""

    mode: Literal["paper", "modern"] = Field(
        "modern",
        description="paper: a minibatch feeds either a D or a G update; modern: both, with an "
        "averaged generator",
    )
    augment: list[Literal["color", "translation", "cutout"]] = Field(
        default_factory=list,
        description="differentiable augmentation of real and generated images alike",
    )
    r1: float = Field(0.0, ge=0, description="weight of the R1 gradient penalty")
    spectral_norm: bool = Field(
        False,
        description="divide the discriminator's weights by their largest singular value; layers "
        "with batch norm undo it",
    )
    first_bias: bool = Field(
        False,
        description="a bias in the discriminator's first layer: without one the authors' networks "
        "give an image and the same image at another contrast the same features",
    )

    @model_validator(mode="after")
    def _options_of_modern_mode(self) -> Options:
        names = ("augment", "r1", "spectral_norm", "first_bias")
        given = [name for name in names if getattr(self, name)]
        if self.mode == "paper" and given:
            raise ValueError(
                f"{', '.join(given)} belong to mode 'modern'; mode 'paper' trains as the authors "
                "did"
            )
        return self


class Method(Base):
    """DCGAN on a generator and a discriminator."""

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.period = 2 if options.mode == "paper" else 1
        self.averaged = () if options.mode == "paper" else ("generator",)

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        classes = make.classes if make.conditional else 0
        discriminator = make.discriminator(
            classes=classes, spectral_norm=self.options.spectral_norm
        )
        if self.options.first_bias:
            add_first_bias(discriminator)
        return {"generator": make.generator(classes=classes), "discriminator": discriminator}

    def updates(self, batch: Batch) -> Iterator[Update]:
        """See the head of this file."""
        generator = self.nets["generator"]
        labels = batch.labels if generator.classes else None
        if self.options.mode == "paper":
            if batch.index % 2 == 0:
                yield self.generator_update(generator(batch.latents(), labels), labels, batch)
            else:
                with torch.no_grad():
                    fake = generator(batch.latents(), labels)
                yield self.discriminator_update(batch.images, fake, labels, batch)
        else:
            fake = generator(batch.latents(), labels)
            yield self.discriminator_update(batch.images, fake.detach(), labels, batch)
            yield self.generator_update(fake, labels, batch)

    def discriminator_update(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, batch: Batch
    ) -> Update:
        """Args: real, fake: [N, 3, S, S] in [-1, 1]; no gradient flows into `fake`."""
        discriminator = self.nets["discriminator"]
        shown = batch.augment(real, self.options.augment)
        on_real = discriminator(shown, labels)
        on_fake = discriminator(batch.augment(fake, self.options.augment), labels)
        loss = bce(on_real, 1.0) + bce(on_fake, 0.0)
        figures = {
            "loss_discriminator": loss.detach(),
            "score_real": probability(on_real),
            "score_fake": probability(on_fake),
        }
        if self.options.r1:
            penalty = gradient_penalty(discriminator, shown, labels)
            loss = loss + self.options.r1 / 2 * penalty
            figures["r1"] = penalty.detach()
        return Update("discriminator", loss, len(real), figures)

    def generator_update(self, fake: Tensor, labels: Tensor | None, batch: Batch) -> Update:
        """Args: fake: [N, 3, S, S] with its graph. The discriminator passes the gradient on and
        gets none of its own.
        """
        discriminator = self.nets["discriminator"]
        with frozen(discriminator):
            loss = bce(discriminator(batch.augment(fake, self.options.augment), labels), 1.0)
        return Update("generator", loss, figures={"loss_generator": loss.detach()})


def add_first_bias(network: LayeredNetwork) -> None:
    """Gives the first convolution a bias, 0 at first, where it has none."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros(module.out_channels))
            return
