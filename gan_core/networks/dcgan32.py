"""The DCGAN authors' 32-pixel ImageNet networks (Newmu/dcgan_code, imagenet/load_pretrained.py).

Discriminator: six 3x3 convolutions and a linear head; pooled to 4x4 its layers give the paper's
    28,672 features (section 5.1).
"""

from __future__ import annotations

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import Layer, conv, deconv, head, image, project, scaled

ABOUT = (
    "DCGAN authors' 7-layer 3x3 net for 32 px, trained on ImageNet in the paper: 28,672 features"
)
IMAGE_SIZE = 32
LATENT_DIM = 256
PRIOR = "uniform"


def generator(
    width: float = 1.0, latent_dim: int | None = None, classes: int = 0
) -> LayeredNetwork:
    """Latents [N, 256] to images [N, 3, 32, 32] in [-1, 1]. With `classes` above 0
    the class joins every layer as further channels, as in the authors' MNIST networks.
    """
    dim = latent_dim or LATENT_DIM
    a, b, c = (scaled(maps, width) for maps in (512, 256, 128))
    layers: list[Layer] = [
        project("project", dim, a, 4, classes),
        deconv("deconv1", a, a, 8, kernel=3, stride=2, classes=classes),
        deconv("deconv2", a, b, 8, kernel=3, stride=1, classes=classes),
        deconv("deconv3", b, b, 16, kernel=3, stride=2, classes=classes),
        deconv("deconv4", b, c, 16, kernel=3, stride=1, classes=classes),
        deconv("deconv5", c, c, 32, kernel=3, stride=2, classes=classes),
        image("image", c, 32, kernel=3, stride=1, classes=classes),
    ]
    return LayeredNetwork(layers, (dim,))


def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
    """Images [N, 3, 32, 32] in [-1, 1] to logits [N, outputs]."""
    return _convolutions(width, outputs)


def encoder(width: float = 1.0, outputs: int = LATENT_DIM) -> LayeredNetwork:
    """Images [N, 3, 32, 32] in [-1, 1] to codes [N, outputs]: the discriminator's layers (ours)."""
    return _convolutions(width, outputs)


def joint(width: float = 1.0, latent_dim: int | None = None, outputs: int = 1) -> LayeredNetwork:
    """Images and latents to logits [N, outputs]: the discriminator's layers, the latent embedded
    linearly and added at each, as BiGAN's authors do (jeffdonahue/bigan).
    """
    return _convolutions(width, outputs, latent_dim or LATENT_DIM)


def _convolutions(width: float, outputs: int, latents: int = 0) -> LayeredNetwork:
    """The authors' discriminator with so many outputs; with `latents` a joint one."""
    a, b, c = (scaled(maps, width) for maps in (128, 256, 512))
    layers: list[Layer] = [
        conv("conv1", 3, a, 32, kernel=3, stride=1, norm=False, latents=latents),
        conv("conv2", a, a, 16, kernel=3, stride=2, latents=latents),
        conv("conv3", a, b, 16, kernel=3, stride=1, latents=latents),
        conv("conv4", b, b, 8, kernel=3, stride=2, latents=latents),
        conv("conv5", b, c, 8, kernel=3, stride=1, latents=latents),
        conv("conv6", c, c, 4, kernel=3, stride=2, latents=latents),
        head("head", c * 16, outputs, latents=latents),
    ]
    return LayeredNetwork(layers, (3, IMAGE_SIZE, IMAGE_SIZE))
