"""ContraD (Jeong, Shin 2021): contrastive losses shape the discriminator, the GAN reads it.

The discriminator is a trunk f whose output h is the feature. Three small heads read h: two
projections to 128 values and the score of realness.

    L+    NT-Xent on the first projection of two views of each real image, temperature 0.1
    L-    supervised contrast on the second projection: anchors are the generated images, positives
          the other generated images, and all views of real images stand in the denominator
    L_dis non-saturating logistic loss of the score of realness on *detached* h: it never shapes f
    L_D = L+ + L- + L_dis          L_G = softplus(-score(h(T(G(z)))))

Every image passes a random view T; real and generated ones the same kind. `views` above two takes
so many small crops per image instead and pulls each to their mean (multi-crop). `adversarial:
false` trains L+ alone, the ablation that any claim for the GAN's part needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Base, Batch, Rule, Update
from gan_core.methods.losses import bce, float32_of
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
    views: int = Field(2, ge=2, le=64, description="views of each real image")
    crop: int = Field(0, ge=0, description="side in pixels of small native crops; 0: full views")
    generator_every: int = Field(1, ge=1, le=16, description="minibatches per generator step")
    generator_rate: float = Field(
        1.0, gt=0, description="generator's rate over train.learning_rate"
    )


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
        trunk, options = self.nets["discriminator"], self.options
        features = [trunk(self.view(batch.images, batch)) for _ in range(options.views)]
        ahead = [self.nets["projection_real"](h) for h in features]
        real = torch.stack([batch.gather(F.normalize(p.float(), dim=1)) for p in ahead])
        loss = contrast(real, options.temperature)
        figures = {"loss_contrast": loss.detach()}
        if not options.adversarial:
            yield Update("discriminator", loss, len(batch.images), figures)
            return
        with torch.no_grad():
            fake = self.nets["generator"](batch.latents())
        of_fake = trunk(self.view(fake, batch))
        project = self.nets["projection_fake"]
        negative = [batch.gather(F.normalize(project(h).float(), dim=1)) for h in features]
        generated = batch.gather(F.normalize(project(of_fake).float(), dim=1))
        apart = separate(generated, torch.cat(negative), options.temperature)
        score_real = self.nets["score"](features[0].detach()).float()
        score_fake = self.nets["score"](of_fake.detach()).float()
        adversarial = bce(score_real, 1.0) + bce(score_fake, 0.0)
        loss = loss + options.negative_weight * apart + adversarial
        figures |= {
            "loss_discriminator": loss.detach(),
            "loss_separate": apart.detach(),
            "score_real": score_real.detach().sigmoid().mean(),
            "score_fake": score_fake.detach().sigmoid().mean(),
        }
        yield Update("discriminator", loss, len(batch.images), figures)
        if batch.index % options.generator_every == options.generator_every - 1:
            with frozen(trunk, self.nets["score"]):
                fake = self.nets["generator"](batch.latents())
                loss = bce(self.nets["score"](trunk(self.view(fake, batch))), 1.0)
            yield Update("generator", loss, figures={"loss_generator": loss.detach()})

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
