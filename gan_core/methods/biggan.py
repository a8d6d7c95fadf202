"""BigGAN (Brock, Donahue, Simonyan 2019): hinge loss, a slow generator, averaged weights.

    L_D = E relu(1 - D(x)) + E relu(1 + D(G(z)))        L_G = -E D(G(z))

The rates are the paper's where `train.learning_rate` is 2e-4: the generator's is a quarter, 5e-5;
betas (0, 0.999), eps 1e-6. `steps` discriminator updates feed on one minibatch each before a
generator update. Without labels the generator is unconditional, as its features here need none.
`orthogonal` is the off-diagonal orthogonal regularisation of the generator (section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Base, Batch, Update
from gan_core.methods.optimisers import Rule
from gan_core.networks.layers import frozen

ABOUT = "BigGAN: hinge loss, slower generator, averaged weights; unconditional unless asked"
TITLE = "BigGAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("discriminator",)


class Options(Section):
    """BigGAN's settings."""

    steps: int = Field(2, ge=1, le=16, description="discriminator updates per generator update")
    orthogonal: float = Field(
        0.0, ge=0, description="weight of the generator's orthogonal regularisation (paper: 1e-4)"
    )


class Method(Base):
    """See the head of this file."""

    optimised: Mapping[str, Rule] = {
        "discriminator": Rule(("discriminator",), beta1=0.0, eps=1e-6, weight_decay=0.0),
        "generator": Rule(("generator",), rate=0.25, beta1=0.0, eps=1e-6, weight_decay=0.0),
    }
    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options or Options())
        self.period = self.options.steps

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """A discriminator step; on every `steps`-th minibatch a generator step after it."""
        discriminator = self.nets["discriminator"]
        with torch.no_grad():
            fake = self.nets["generator"](batch.latents())
        real, scores = discriminator(batch.images).float(), discriminator(fake).float()
        loss = hinge(real, 1.0) + hinge(scores, -1.0)
        figures = {
            "loss_discriminator": loss.detach(),
            "score_real": real.detach().sigmoid().mean(),
            "score_fake": scores.detach().sigmoid().mean(),
        }
        yield Update("discriminator", loss, len(batch.images), figures)
        if batch.index % self.options.steps == self.options.steps - 1:
            with frozen(discriminator):
                loss = -discriminator(self.nets["generator"](batch.latents())).float().mean()
            figures = {"loss_generator": loss.detach()}
            if self.options.orthogonal:
                penalty = off_diagonal(self.nets["generator"])
                loss = loss + self.options.orthogonal * penalty
            yield Update("generator", loss, figures=figures)


def hinge(scores: Tensor, side: float) -> Tensor:
    """Mean relu(1 - side * score) of float32 scores; side: 1 for real, -1 for generated."""
    return F.relu(1.0 - side * scores).mean()


def off_diagonal(network: torch.nn.Module) -> Tensor:
    """Sum over weight matrices of |W W^T without its diagonal|^2 (BigGAN, equation 3)."""
    total = torch.zeros((), device=next(network.parameters()).device)
    for weight in network.parameters():
        if weight.dim() > 1:
            rows = weight.flatten(1)
            gram = rows @ rows.T
            total = total + (gram - gram.diagonal().diag()).square().sum()
    return total
