"""BigBiGAN (Donahue, Simonyan 2019): BigGAN with an encoder, a joint and two unary scores.

    s_x = theta_x F(x)      s_z = theta_z H(z)      s_xz = theta_xz J(F(x), H(z))
    pairs: (x, E(x)) with side +1, (G(z), z) with side -1
    L_D = E of h(side s_x) + h(side s_z) + h(side s_xz), each hinged by itself, h(t) = relu(1 - t)
    L_EG = E of side (s_x + s_z + s_xz)

The encoder is stochastic: z = mean + deviation * noise, the deviation a softplus. F is the image
network of the recipe, whose output here are features; H and J are small MLPs. In L_EG each of E and
G gets its gradient from its own pair. Both unary scores have a switch. The published code divides
the discriminator's loss by the number of scores, as here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.methods.base import Batch, Inputs, Update, WithEncoder
from gan_core.methods.optimisers import Rule
from gan_core.networks.layers import frozen

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork
    from gan_core.networks.make import Make

ABOUT = "BigBiGAN: BigGAN with an encoder, a joint discriminator and unary scores"
TITLE = "BigBiGAN"
VERSION = 1
USES_LABELS = False
FEATURES = ("encoder", "discriminator")
FEATURE_UNITS = 256  # values of F(x) and H(z); ours


class Options(Section):
    """BigBiGAN's settings."""

    unary_images: bool = Field(True, description="the score of images alone")
    unary_latents: bool = Field(True, description="the score of latents alone")
    steps: int = Field(2, ge=1, le=16, description="discriminator updates per update of E and G")


class Method(WithEncoder):
    """See the head of this file."""

    averaged = ("generator", "encoder")
    optimised: Mapping[str, Rule] = {
        "discriminator": Rule(
            ("discriminator", "latents", "joint", "unary_images", "unary_latents"),
            beta1=0.0,
            eps=1e-6,
            weight_decay=0.0,
        ),
        "generator": Rule(
            ("generator", "encoder"), rate=0.25, beta1=0.0, eps=1e-6, weight_decay=0.0
        ),
    }
    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options or Options())
        self.period = self.options.steps

    def networks(self, make: Make) -> dict[str, LayeredNetwork]:
        """G, a stochastic E, F (`discriminator`), H (`latents`), J and the unary heads."""
        units, dim = FEATURE_UNITS, make.latent_dim
        return {
            "generator": make.generator(),
            "encoder": make.encoder(outputs=2 * dim),
            "discriminator": make.discriminator(outputs=units),
            "latents": make.mlp(dim, [units, units], units),
            "joint": make.mlp(2 * units, [units, units], 1),
            "unary_images": make.mlp(units, [], 1),
            "unary_latents": make.mlp(units, [], 1),
        }

    def scores(self, images: Tensor, latents: Tensor) -> dict[str, Tensor]:
        """The scores of pairs by name, float32 [n, 1]: images, latents, joint."""
        of_images = self.nets["discriminator"](images)
        of_latents = self.nets["latents"](latents)
        found = {"joint": self.nets["joint"](torch.cat([of_images, of_latents], 1)).float()}
        if self.options.unary_images:
            found["images"] = self.nets["unary_images"](of_images).float()
        if self.options.unary_latents:
            found["latents"] = self.nets["unary_latents"](of_latents).float()
        return found

    def encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        """E(x), [n, dim]: its mean, or a draw where noise [n, dim] is given."""
        mean, spread = self.nets["encoder"](images).float().chunk(2, 1)
        code: Tensor = mean if noise is None else mean + F.softplus(spread) * noise
        return code

    def noise(self, batch: Batch) -> Tensor:
        """Standard normal noise for the encoder, [n, dim]."""
        like = batch.latents()
        rank, processes = batch.share
        shape = (len(like) * processes, like.shape[1])
        whole = torch.randn(shape, generator=batch.random, device=like.device)
        return whole[rank::processes]

    def updates(self, batch: Batch) -> Iterator[Update | list[Update]]:
        """A discriminator step; on every `steps`-th minibatch a step of E and G after it."""
        x, z, noise = batch.images, batch.latents(), self.noise(batch)
        with torch.no_grad():
            encoded, fake = self.encode(x, noise), self.nets["generator"](z)
        real, generated = self.scores(x, encoded), self.scores(fake, z)
        loss = hinged(real, generated)
        figures = {
            "loss_discriminator": loss.detach(),
            "score_real": real["joint"].detach().sigmoid().mean(),
            "score_fake": generated["joint"].detach().sigmoid().mean(),
        }
        yield Update("discriminator", loss, len(x), figures)
        if batch.index % self.options.steps == self.options.steps - 1:
            readers = [self.nets[name] for name in self.optimised["discriminator"].roles]
            with frozen(*readers):
                real = self.scores(x, self.encode(x, noise))
                generated = self.scores(self.nets["generator"](z), z)
            loss = sum_scores(real) - sum_scores(generated)
            yield Update("generator", loss, figures={"loss_generator": loss.detach()})

    def calibration(
        self, role: str, images: Tensor, latents: Tensor, labels: Tensor | None
    ) -> Inputs:
        """Inputs for batch-norm statistics: F and E see images, the MLPs what feeds them."""
        if role in ("generator", "latents"):
            return latents, None, None
        if role in ("discriminator", "encoder"):
            return images, None, None
        of_images = self.nets["discriminator"](images)
        of_latents = self.nets["latents"](self.encode(images, None))
        inputs = {"unary_images": of_images, "unary_latents": of_latents}
        return inputs.get(role, torch.cat([of_images, of_latents], 1)), None, None

    def feature_inputs(self, role: str, images: Tensor) -> Inputs:
        """The generator is run at the mean of E(x)."""
        return (self.encode(images, None) if role == "generator" else images), None, None

    def realness(self, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """The joint score of (x, E(x)), [n]."""
        return self.scores(images, self.encode(images, None))["joint"][:, 0]


def hinged(real: Mapping[str, Tensor], generated: Mapping[str, Tensor]) -> Tensor:
    """Mean over scores of relu(1 - s) on real pairs and relu(1 + s) on generated ones, each score
    hinged by itself.
    """
    losses = [F.relu(1 - real[name]).mean() + F.relu(1 + generated[name]).mean() for name in real]
    return torch.stack(losses).mean()


def sum_scores(scores: Mapping[str, Tensor]) -> Tensor:
    """The mean over pairs of the sum of their scores."""
    return torch.stack([score.mean() for score in scores.values()]).sum()
