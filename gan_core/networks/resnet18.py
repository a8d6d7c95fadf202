"""A CIFAR ResNet-18 as discriminator, with a small transposed-convolution generator, for 32 px.

The discriminator is fully convolutional up to a mean over places, so that it also takes smaller
crops at native resolution (method contrad). The generator is SNDCGAN's in size (ContraD's code).
"""

from __future__ import annotations

from gan_core.networks.residual import cifar_networks, kaiming

ABOUT = "CIFAR ResNet-18 discriminator for 32 px that also takes smaller crops; small generator"
VERSION = 1
IMAGE_SIZE = 32
LATENT_DIM = 128
PRIOR = "uniform"

generator, discriminator, encoder = cifar_networks(IMAGE_SIZE, LATENT_DIM, blocks=(2, 2, 2, 2))
initialise = kaiming
