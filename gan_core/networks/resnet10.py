"""A CIFAR ResNet-10 as discriminator, with a small transposed-convolution generator, for 32 px.

The discriminator is fully convolutional up to a mean over places, so that it also takes smaller
crops at native resolution (method contrad). The generator is SNDCGAN's in size (ContraD's code).
"""

from __future__ import annotations

import torch
from torch import nn

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import Layer, deconv, image, project, scaled
from gan_core.networks.residual import cifar_resnet, kaiming

ABOUT = "CIFAR ResNet-10 discriminator for 32 px that also takes smaller crops; small generator"
VERSION = 1
IMAGE_SIZE = 32
LATENT_DIM = 128
PRIOR = "uniform"
BLOCKS = (1, 1, 1, 1)


def generator(width: float = 1.0, latent_dim: int | None = None) -> LayeredNetwork:
    """Latents [N, 128] to images [N, 3, 32, 32] in [-1, 1]."""
    dim = latent_dim or LATENT_DIM
    a, b, c = (scaled(maps, width) for maps in (512, 256, 128))
    layers: list[Layer] = [
        project("project", dim, a, 4),
        deconv("deconv1", a, b, 8, kernel=5, stride=2),
        deconv("deconv2", b, c, 16, kernel=5, stride=2),
        image("image", c, 32, kernel=5, stride=2),
    ]
    return LayeredNetwork(layers, (dim,))


def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
    """Images [N, 3, s, s] in [-1, 1] to logits [N, outputs]."""
    return cifar_resnet(BLOCKS, IMAGE_SIZE, width, outputs)


def encoder(width: float = 1.0, outputs: int = LATENT_DIM) -> LayeredNetwork:
    """Images [N, 3, s, s] in [-1, 1] to codes [N, outputs]."""
    return cifar_resnet(BLOCKS, IMAGE_SIZE, width, outputs)


def initialise(network: nn.Module, random: torch.Generator) -> None:
    """He et al.'s initialisation."""
    kaiming(network, random)
