"""ContraD (Jeong, Shin 2021): contrastive losses shape the discriminator, the GAN reads it.

The discriminator is a trunk f whose output h is the feature. Three small heads read h: two
projections to 128 values and the score of realness.

    L+    NT-Xent on the first projection of two views of each real image, temperature 0.1
    L-    supervised contrast on the second projection: anchors are the generated images, positives
          the other generated images, and all views of real images stand in the denominator
    L_dis non-saturating logistic loss of the score of realness on *detached* h: it never shapes f
    L_D = L+ + L- + L_dis          L_G = softplus(-score(h(T(G(z)))))

Every image passes a random view T; real and generated ones the same kind. `views` above two takes
so many small crops per image instead and pulls each to their mean (multi-crop).

Two ablations that any claim for either part needs: `adversarial: false` trains L+ alone, without a
generator; `contrastive: false` trains an ordinary GAN on the same views, whose L_dis reads all
views and shapes f.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Base, Batch, Update
from gan_core.methods.losses import bce, float32_of
from gan_core.methods.optimisers import Rule
from gan_core.methods.views import View, draw_view
from gan_core.networks.layers import frozen

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork
    from gan_core.networks.make import Make

ABOUT = "ContraD: a contrastive discriminator with an adversarial head on detached features"
TITLE = "ContraD"
VERSION = 2
USES_LABELS = False
FEATURES = ("discriminator",)
PROJECTION = 128


class Options(Section):
    """ContraD's settings."""

    units: int = Field(512, ge=8, description="values of the trunk's output h")
    temperature: float = Field(0.1, gt=0)
    negative_weight: float = Field(1.0, ge=0, description="weight of L-")
    adversarial: bool = Field(True, description="false: L+ alone, without a generator's images")
    contrastive: bool = Field(True, description="false: L_dis alone, and it shapes the trunk")
    views: int = Field(2, ge=2, le=64, description="views of each real image")
    crop: int = Field(0, ge=0, description="side in pixels of small native crops; 0: full views")
    generator_every: int = Field(1, ge=1, le=16, description="minibatches per generator step")
    generator_rate: float = Field(
        1.0, gt=0, description="generator's rate over train.learning_rate"
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Options:
        if not (self.adversarial or self.contrastive):
            raise ValueError("adversarial and contrastive are both off: there is no loss")
        return self


class Method(Base):
    """See the head of this file."""

    scratch = ("projection_real", "projection_fake")
    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options or Options())
        self.period = self.options.generator_every
        trained = ("discriminator", "projection_real", "projection_fake", "score")
        self.optimised: Mapping[str, Rule] = {
            "discriminator": Rule(trained, weight_decay=0.0),
            "generator": Rule(("generator",), rate=self.options.generator_rate, weight_decay=0.0),
        }

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        """A generator, the trunk, two projections and the score of realness."""
        units = self.options.units
        return {
            "generator": make.generator(),
            "discriminator": make.discriminator(outputs=units),
            "projection_real": make.mlp(units, [units], PROJECTION),
            "projection_fake": make.mlp(units, [units], PROJECTION),
            "score": make.mlp(units, [units], 1),
        }

    def view(self, images: Tensor, batch: Batch) -> Tensor:
        """A random view of images, differentiable."""
        with float32_of(images):
            return draw_view(images, View(crop=self.options.crop), batch.random, batch.share)

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """A step of trunk and heads; on every `generator_every`-th minibatch one of G."""
        options = self.options
        real = [self.features(batch.images, batch) for _ in range(options.views)]
        loss, figures = batch.images.new_zeros(()), {}
        if options.contrastive:
            loss = contrast(self.projected("projection_real", real, batch), options.temperature)
            figures["loss_contrast"] = loss.detach()
        if options.adversarial:
            with torch.no_grad():
                images = self.nets["generator"](batch.latents())
            fake = self.features(images, batch)
            if options.contrastive:
                negative = self.projected("projection_fake", real, batch).flatten(0, 1)
                (anchors,) = self.projected("projection_fake", [fake], batch)
                apart = separate(anchors, negative, options.temperature)
                loss = loss + options.negative_weight * apart
                figures["loss_separate"] = apart.detach()
                real, fake = [real[0].detach()], fake.detach()
            score_real = self.nets["score"](torch.cat(real)).float()
            score_fake = self.nets["score"](fake).float()
            loss = loss + (bce(score_real, 1.0) + bce(score_fake, 0.0))
            figures |= {
                "loss_discriminator": loss.detach(),
                "score_real": score_real.detach().sigmoid().mean(),
                "score_fake": score_fake.detach().sigmoid().mean(),
            }
        yield Update("discriminator", loss, len(batch.images), figures)
        if options.adversarial and batch.index % self.period == self.period - 1:
            with frozen(self.nets["discriminator"], self.nets["score"]):
                images = self.nets["generator"](batch.latents())
                loss = bce(self.nets["score"](self.features(images, batch)), 1.0)
            yield Update("generator", loss, figures={"loss_generator": loss.detach()})

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """The trunk's output for a random view of images, [n, units]."""
        features: Tensor = self.nets["discriminator"](self.view(images, batch))
        return features

    def projected(self, head: str, views: list[Tensor], batch: Batch) -> Tensor:
        """Normalised projections of features, of all processes: [views, n, PROJECTION]."""
        ahead = [F.normalize(self.nets[head](h).float(), dim=1) for h in views]
        return torch.stack([batch.gather(one) for one in ahead])

    def realness(self, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """The score of h(x), [n]."""
        score: Tensor = self.nets["score"](self.nets["discriminator"](images))
        return score[:, 0]


def contrast(views: Tensor, temperature: float) -> Tensor:
    """NT-Xent of normalised projections [v, n, d]: every pair of views of one image is positive,
    all views of the other images are negative. With two views it is SimCLR's loss.
    """
    v, n, _ = views.shape
    rows = views.flatten(0, 1)
    with float32_of(rows):  # bf16 logits of up to 1 / temperature are too coarse
        logits = rows @ rows.T / temperature
    image = torch.arange(n, device=rows.device).repeat(v)
    same = image[:, None] == image[None, :]
    itself = torch.eye(v * n, dtype=torch.bool, device=rows.device)
    # SimCLR: each positive in turn, its denominator all negatives and that positive
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    loss = torch.logaddexp(logits, negatives) - logits
    positive = same & ~itself
    return torch.where(positive, loss, 0.0).sum() / positive.sum()


def separate(generated: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Supervised contrast of generated images against real ones, of normalised projections.

    Args: generated: [n, d], the anchors; real: [m, d], all views of real images.
    """
    n = len(generated)
    with float32_of(generated):
        logits = generated @ torch.cat([generated, real]).T / temperature
    itself = torch.eye(n, n + len(real), dtype=torch.bool, device=generated.device)
    log = F.log_softmax(logits.masked_fill(itself, -torch.inf), 1)[:, :n]
    others = ~torch.eye(n, dtype=torch.bool, device=generated.device)
    return -torch.where(others, log, 0.0).sum() / others.sum()
