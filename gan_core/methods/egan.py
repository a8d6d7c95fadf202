"""E-GAN (Wang et al. 2019): a population of one generator whose children are trained on different
losses; the fittest becomes the next parent.

    minimax         1/2 E log(1 - D(G(z)))
    heuristic       -1/2 E log D(G(z))
    least_squares   E (D(G(z)) - 1)^2
    fitness         E D(G(z)) - gamma log |grad_D(L_D)|, on latents that all children share

All children of a generation start from the parent's weights and Adam moments: siblings, as in the
paper. (The authors' Theano code aliases the parent's list, so that there each child continues from
the one before.) The discriminator is then updated on `discriminator_steps` minibatches with the
survivor's images; the first of them also feeds the evolution. Batch norm of D does not track while
fitness is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Base, Batch, Chart, Update
from gan_core.methods.losses import bce, probability
from gan_core.methods.optimisers import Rule
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import frozen
from gan_core.networks.make import Make

ABOUT = "E-GAN: children trained on three losses, the fittest is the next generator"
TITLE = "E-GAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("discriminator",)

Mutation = Literal["minimax", "heuristic", "least_squares"]
# losses of D's logits on generated images, the paper's section 3.2
MUTATIONS: dict[Mutation, Callable[[Tensor], Tensor]] = {
    "minimax": lambda logits: -0.5 * F.softplus(logits.float()).mean(),
    "heuristic": lambda logits: 0.5 * F.softplus(-logits.float()).mean(),
    "least_squares": lambda logits: (logits.float().sigmoid() - 1).square().mean(),
}


class Options(Section):
    """Settings of E-GAN; the defaults are those of the authors' CIFAR-10 script."""

    mutations: list[Mutation] = Field(
        list(get_args(Mutation)),
        min_length=1,
        description="losses, one child for each; with one alone nothing is selected",
    )
    gamma: float = Field(
        0.004,
        ge=0,
        description="weight of diversity in the fitness (authors: 2 x 2e-3 on CIFAR-10)",
    )
    discriminator_steps: int = Field(
        3, ge=1, description="minibatches, each one update of D, per generation"
    )


class Method(Base):
    """A generator with one child for each mutation, and a discriminator."""

    options: Options
    charts = (Chart("Share of generations that a child survived", "survivor_"),)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.period = options.discriminator_steps
        self.mutations = tuple(dict.fromkeys(options.mutations))
        self.scratch = self.mutations
        self.optimised = {
            "discriminator": Rule(("discriminator",)),
            "generator": Rule(("generator",)),
            **{name: Rule((name,)) for name in self.mutations},
        }

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        children: dict[str, LayeredNetwork] = {n: make.generator() for n in self.mutations}
        return {
            "generator": make.generator(),
            "discriminator": make.discriminator(),
            **children,
        }

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """See the head of this file."""
        self._survivor: dict[str, Tensor] = {}
        if batch.index % self.period == 0:
            yield from self.evolve(batch)
        with torch.no_grad():
            fake = self.nets["generator"](batch.latents())
        on_real, on_fake = (self.nets["discriminator"](x) for x in (batch.images, fake))
        loss = bce(on_real, 1.0) + bce(on_fake, 0.0)
        figures = {
            "loss_discriminator": loss.detach(),
            "score_real": probability(on_real),
            "score_fake": probability(on_fake),
            **self._survivor,
        }
        yield Update("discriminator", loss, len(batch.images), figures)

    def evolve(self, batch: Batch) -> Iterator[Update]:
        """One step of each child from the parent, then the fittest in the parent's place."""
        d, parent = self.nets["discriminator"], self.optimisers["generator"].all_tensors()
        z = batch.latents()
        for name in self.mutations:
            copy_into(self.optimisers[name].all_tensors(), parent)
            with frozen(d):
                child_loss = MUTATIONS[name](d(self.nets[name](z)))
            yield Update(name, child_loss, figures={f"loss_{name}": child_loss.detach()})
        if len(self.mutations) == 1:
            copy_into(parent, self.optimisers[self.mutations[0]].all_tensors())
            return
        scores = batch.mean(self.fitness(batch.images, batch.latents()))
        best = scores.argmax()  # a tensor: all processes choose alike, and no host waits for it
        children = [self.optimisers[name].all_tensors() for name in self.mutations]
        with torch.no_grad():
            for into, *candidates in zip(parent, *children, strict=True):
                into.copy_(torch.stack(candidates).index_select(0, best[None])[0])
        self._survivor = {
            f"survivor_{name}": (best == k).float() for k, name in enumerate(self.mutations)
        }

    def fitness(self, images: Tensor, latents: Tensor) -> Tensor:
        """Quality plus gamma times diversity of every child: [children], without gradient."""
        d = self.nets["discriminator"]
        weights = list(d.parameters())
        on_real = torch.autograd.grad(bce(d(images), 1.0), weights)
        found = []
        for name in self.mutations:
            with torch.no_grad():
                fake = self.nets[name](latents)
            logits = d(fake)
            on_fake = torch.autograd.grad(bce(logits, 0.0), weights)
            squares = [
                (a + b).float().square().sum() for a, b in zip(on_real, on_fake, strict=True)
            ]
            diversity = -torch.stack(squares).sum().sqrt().clamp_min(1e-12).log()
            found.append(probability(logits) + self.options.gamma * diversity)
        return torch.stack(found)


@torch.no_grad()
def copy_into(target: list[Tensor], source: list[Tensor]) -> None:
    """Copies weights, buffers and moments of one optimiser into another's."""
    for into, value in zip(target, source, strict=True):
        into.copy_(value)
