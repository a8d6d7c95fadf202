"""Losses that several methods share: float32 scalars from logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.methods.base import Update
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import frozen


def bce(logits: Tensor, target: float) -> Tensor:
    """Mean binary cross-entropy of logits against one target (0 or 1) for all, in float32."""
    logits = logits.float()
    return F.softplus(-logits).mean() if target == 1.0 else F.softplus(logits).mean()


def hinge(scores: Tensor, sign: float) -> Tensor:
    """Mean of max(0, 1 - sign * score), in float32: sign 1 for real images, -1 for generated."""
    return F.relu(1.0 - sign * scores.float()).mean()


def probability(logits: Tensor) -> Tensor:
    """Mean sigmoid of logits, detached: the figures `score_real` and `score_fake`."""
    return logits.detach().float().sigmoid().mean()


def float32_of(x: Tensor) -> torch.autocast:
    """Within it operations on x's device keep float32 under autocast, too."""
    kind = "cuda" if x.device.type == "cuda" else "cpu"  # the meta device has no autocast
    return torch.autocast(kind, enabled=False)


def gradient_penalty(
    discriminator: LayeredNetwork, images: Tensor, labels: Tensor | None = None
) -> Tensor:
    """Mean over images [N, C, S, S] of the squared length of the score's gradient by the image, in
    float32: R1 on real images, R2 on generated ones (Mescheder et al. 2018).
    """
    x = images.detach().float().requires_grad_(True)
    with float32_of(x):
        scores = discriminator(x, labels)
        (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().sum(tuple(range(1, x.dim()))).mean()


def swapped_pairs(
    discriminator: LayeredNetwork, images: Tensor, codes: Tensor, fake: Tensor, latents: Tensor
) -> list[Update]:
    """The simultaneous step of BiGAN and ALI: pairs (x, E(x)) against (G(z), z), swapped labels for
    generator and encoder.

    Args: images: [n, C, S, S]; codes: E(x) [n, dim]; fake: G(z); latents: z [n, dim].
    """
    on_real = discriminator(images, latents=codes.detach())
    on_fake = discriminator(fake.detach(), latents=latents)
    loss = bce(on_real, 1.0) + bce(on_fake, 0.0)
    with frozen(discriminator):
        swapped = bce(discriminator(images, latents=codes), 0.0)
        swapped = swapped + bce(discriminator(fake, latents=latents), 1.0)
    figures = {
        "loss_discriminator": loss.detach(),
        "score_real": probability(on_real),
        "score_fake": probability(on_fake),
    }
    return [
        Update("discriminator", loss, len(images), figures),
        Update("generator", swapped, figures={"loss_generator": swapped.detach()}),
    ]
