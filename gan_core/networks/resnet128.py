"""BigGAN's residual networks for 128 px (ajbrock/BigGAN-PyTorch, BigGAN.py), and an encoder.

Channels are those of that code at 64 base channels; self-attention is left out. The encoder is the
discriminator's body with batch norm and a mean over places.
"""

from __future__ import annotations

from gan_core.networks.residual import big_networks, orthogonal

ABOUT = "BigGAN's residual networks for 128 px: hierarchical latents, spectral norm, an encoder"
VERSION = 1
IMAGE_SIZE = 128
LATENT_DIM = 120
PRIOR = "normal"

generator, discriminator, encoder = big_networks(
    IMAGE_SIZE,
    LATENT_DIM,
    generator=(1024, 1024, 512, 256, 128, 64),
    discriminator=(64, 128, 256, 512, 1024, 1024),
    downs=5,
)
initialise = orthogonal
