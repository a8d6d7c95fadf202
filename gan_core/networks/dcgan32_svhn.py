"""The DCGAN authors' 32-pixel SVHN networks (Newmu/dcgan_code, svhn/svhn_semisup_analysis.py): 5x5,
stride 2.
"""

from __future__ import annotations

from gan_core.networks.strided import strided_networks

ABOUT = "DCGAN authors' SVHN net for 32 px, three 5x5 stride-2 convolutions: 7,168 features"
IMAGE_SIZE = 32
LATENT_DIM = 100
PRIOR = "uniform"

generator, discriminator, encoder, joint = strided_networks(
    IMAGE_SIZE, LATENT_DIM, [(64, 2), (128, 2), (256, 2)], kernel=5
)
