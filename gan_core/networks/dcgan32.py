"""The DCGAN authors' 32-pixel ImageNet networks (Newmu/dcgan_code, imagenet/load_pretrained.py).

Discriminator: six 3x3 convolutions and a linear head; pooled to 4x4 its layers give the paper's
    28,672 features (section 5.1).
"""

from __future__ import annotations

from gan_core.networks.strided import strided_networks

ABOUT = (
    "DCGAN authors' 7-layer 3x3 net for 32 px, trained on ImageNet in the paper: 28,672 features"
)
IMAGE_SIZE = 32
LATENT_DIM = 256
PRIOR = "uniform"

generator, discriminator, encoder, joint = strided_networks(
    IMAGE_SIZE, LATENT_DIM, [(128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)], kernel=3
)
