"""BigGAN's residual networks for 64 px (ajbrock/BigGAN-PyTorch, BigGAN.py), and an encoder.

Channels are those of that code at 64 base channels; self-attention is left out. The encoder is the
discriminator's body with batch norm and a mean over places.
"""

from __future__ import annotations

import torch
from torch import nn

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.residual import big_discriminator, big_generator, orthogonal

ABOUT = "BigGAN's residual networks for 64 px: hierarchical latents, spectral norm, an encoder"
VERSION = 1
IMAGE_SIZE = 64
LATENT_DIM = 120
PRIOR = "normal"
GENERATOR = (1024, 1024, 512, 256, 128)  # maps before the first block and after each
DISCRIMINATOR = (64, 128, 256, 512, 1024)
DOWN_BLOCKS = 4


def generator(
    width: float = 1.0, latent_dim: int | None = None, classes: int = 0
) -> LayeredNetwork:
    """Latents [N, 120] to images [N, 3, 64, 64] in [-1, 1]."""
    return big_generator(GENERATOR, IMAGE_SIZE, width, latent_dim or LATENT_DIM, classes)


def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
    """Images [N, 3, 64, 64] in [-1, 1] to logits [N, outputs]."""
    return big_discriminator(DISCRIMINATOR, DOWN_BLOCKS, IMAGE_SIZE, width, outputs, encoder=False)


def encoder(width: float = 1.0, outputs: int = LATENT_DIM) -> LayeredNetwork:
    """Images [N, 3, 64, 64] in [-1, 1] to codes [N, outputs]."""
    return big_discriminator(DISCRIMINATOR, DOWN_BLOCKS, IMAGE_SIZE, width, outputs, encoder=True)


def initialise(network: nn.Module, random: torch.Generator) -> None:
    """Orthogonal weights."""
    orthogonal(network, random)
