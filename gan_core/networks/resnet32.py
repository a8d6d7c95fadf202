"""BigGAN's residual networks for 32 px (ajbrock/BigGAN-PyTorch, BigGAN.py), and an encoder.

Channels are those of that code at 64 base channels; self-attention is left out. The encoder is the
discriminator's body with batch norm and a mean over places.
"""

from __future__ import annotations

from gan_core.networks.residual import big_networks, orthogonal

ABOUT = "BigGAN's residual networks for 32 px: hierarchical latents, spectral norm, an encoder"
VERSION = 1
IMAGE_SIZE = 32
LATENT_DIM = 128
PRIOR = "normal"

generator, discriminator, encoder = big_networks(
    IMAGE_SIZE,
    LATENT_DIM,
    generator=(256, 256, 256, 256),
    discriminator=(256, 256, 256, 256),
    downs=2,
)
initialise = orthogonal
