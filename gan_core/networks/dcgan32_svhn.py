"""The DCGAN authors' 32-pixel SVHN networks (Newmu/dcgan_code, svhn/svhn_semisup_analysis.py): 5x5,
stride 2.
"""

from __future__ import annotations

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import Layer, conv, deconv, head, image, project, scaled

ABOUT = "DCGAN authors' SVHN net for 32 px, three 5x5 stride-2 convolutions: 7,168 features"
IMAGE_SIZE = 32
LATENT_DIM = 100
PRIOR = "uniform"


def generator(width: float = 1.0, latent_dim: int | None = None) -> LayeredNetwork:
    """Latents [N, 100] to images [N, 3, 32, 32] in [-1, 1]."""
    dim = latent_dim or LATENT_DIM
    a, b, c = (scaled(maps, width) for maps in (256, 128, 64))
    layers: list[Layer] = [
        project("project", dim, a, 4),
        deconv("deconv1", a, b, 8, kernel=5, stride=2),
        deconv("deconv2", b, c, 16, kernel=5, stride=2),
        image("image", c, 32, kernel=5, stride=2),
    ]
    return LayeredNetwork(layers, (dim,))


def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
    """Images [N, 3, 32, 32] in [-1, 1] to logits [N, outputs]."""
    a, b, c = (scaled(maps, width) for maps in (64, 128, 256))
    layers: list[Layer] = [
        conv("conv1", 3, a, 16, kernel=5, stride=2, norm=False),
        conv("conv2", a, b, 8, kernel=5, stride=2),
        conv("conv3", b, c, 4, kernel=5, stride=2),
        head("head", c * 16, outputs),
    ]
    return LayeredNetwork(layers, (3, IMAGE_SIZE, IMAGE_SIZE))
