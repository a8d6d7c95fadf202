"""A 128-pixel sibling of the DCGAN authors' 64-pixel networks: one stage more at half the maps.

Ours: the authors published no network for 128 px. Layers, kernels (5x5, stride 2) and norms follow
    their 64-pixel one.
"""

from __future__ import annotations

from gan_core.networks.strided import strided_networks

ABOUT = (
    "Our 128 px sibling of the DCGAN authors' faces net, five 5x5 stride-2 convolutions: "
    "31,744 features"
)
IMAGE_SIZE = 128
LATENT_DIM = 100
PRIOR = "uniform"

generator, discriminator, encoder, joint = strided_networks(
    IMAGE_SIZE, LATENT_DIM, [(64, 2), (128, 2), (256, 2), (512, 2), (1024, 2)], kernel=5
)
