"""The DCGAN authors' 64-pixel networks for faces and LSUN (Newmu/dcgan_code,
faces/train_uncond_dcgan.py): 5x5, stride 2.
"""

from __future__ import annotations

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import Layer, conv, deconv, head, image, project, scaled

ABOUT = (
    "DCGAN authors' net for 64 px faces and bedrooms, four 5x5 stride-2 convolutions: 30,720 "
    "features"
)
IMAGE_SIZE = 64
LATENT_DIM = 100
PRIOR = "uniform"


def generator(
    width: float = 1.0, latent_dim: int | None = None, classes: int = 0
) -> LayeredNetwork:
    """Latents [N, 100] to images [N, 3, 64, 64] in [-1, 1]. With `classes` above 0
    the class joins every layer as further channels, as in the authors' MNIST networks.
    """
    dim = latent_dim or LATENT_DIM
    a, b, c, d = (scaled(maps, width) for maps in (1024, 512, 256, 128))
    layers: list[Layer] = [
        project("project", dim, a, 4, classes),
        deconv("deconv1", a, b, 8, kernel=5, stride=2, classes=classes),
        deconv("deconv2", b, c, 16, kernel=5, stride=2, classes=classes),
        deconv("deconv3", c, d, 32, kernel=5, stride=2, classes=classes),
        image("image", d, 64, kernel=5, stride=2, classes=classes),
    ]
    return LayeredNetwork(layers, (dim,))


def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
    """Images [N, 3, 64, 64] in [-1, 1] to logits [N, outputs]."""
    return _convolutions(width, outputs)


def encoder(width: float = 1.0, outputs: int = LATENT_DIM) -> LayeredNetwork:
    """Images [N, 3, 64, 64] in [-1, 1] to codes [N, outputs]: the discriminator's layers (ours)."""
    return _convolutions(width, outputs)


def joint(width: float = 1.0, latent_dim: int | None = None, outputs: int = 1) -> LayeredNetwork:
    """Images and latents to logits [N, outputs]: the discriminator's layers, the latent embedded
    linearly and added at each, as BiGAN's authors do (jeffdonahue/bigan).
    """
    return _convolutions(width, outputs, latent_dim or LATENT_DIM)


def _convolutions(width: float, outputs: int, latents: int = 0) -> LayeredNetwork:
    """The authors' discriminator with so many outputs; with `latents` a joint one."""
    a, b, c, d = (scaled(maps, width) for maps in (128, 256, 512, 1024))
    layers: list[Layer] = [
        conv("conv1", 3, a, 32, kernel=5, stride=2, norm=False, latents=latents),
        conv("conv2", a, b, 16, kernel=5, stride=2, latents=latents),
        conv("conv3", b, c, 8, kernel=5, stride=2, latents=latents),
        conv("conv4", c, d, 4, kernel=5, stride=2, latents=latents),
        head("head", d * 16, outputs, latents=latents),
    ]
    return LayeredNetwork(layers, (3, IMAGE_SIZE, IMAGE_SIZE))
