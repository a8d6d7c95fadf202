"""The DCGAN authors' 64-pixel networks for faces and LSUN (Newmu/dcgan_code,
faces/train_uncond_dcgan.py): 5x5, stride 2.
"""

from __future__ import annotations

from gan_core.networks.strided import strided_networks

ABOUT = (
    "DCGAN authors' net for 64 px faces and bedrooms, four 5x5 stride-2 convolutions: 30,720 "
    "features"
)
IMAGE_SIZE = 64
LATENT_DIM = 100
PRIOR = "uniform"

generator, discriminator, encoder, joint = strided_networks(
    IMAGE_SIZE, LATENT_DIM, [(128, 2), (256, 2), (512, 2), (1024, 2)], kernel=5
)
