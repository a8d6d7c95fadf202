"""A 128-pixel sibling of the DCGAN authors' 64-pixel networks: one stage more at half the maps.

Ours: the authors published no network for 128 px. Layers, kernels (5x5, stride 2) and norms follow
    their 64-pixel one.
"""

from __future__ import annotations

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import Layer, conv, deconv, head, image, project, scaled

ABOUT = (
    "Our 128 px sibling of the DCGAN authors' faces net, five 5x5 stride-2 convolutions: "
    "31,744 features"
)
IMAGE_SIZE = 128
LATENT_DIM = 100
PRIOR = "uniform"


def generator(
    width: float = 1.0, latent_dim: int | None = None, classes: int = 0
) -> LayeredNetwork:
    """Latents [N, 100] to images [N, 3, 128, 128] in [-1, 1]. With `classes` above 0
    the class joins every layer as further channels, as in the authors' MNIST networks.
    """
    dim = latent_dim or LATENT_DIM
    maps = [scaled(count, width) for count in (1024, 512, 256, 128, 64)]
    layers: list[Layer] = [project("project", dim, maps[0], 4, classes)]
    for number, (before, after) in enumerate(zip(maps, maps[1:], strict=False), start=1):
        layers.append(
            deconv(
                f"deconv{number}", before, after, 4 * 2**number, kernel=5, stride=2, classes=classes
            )
        )
    layers.append(image("image", maps[-1], IMAGE_SIZE, kernel=5, stride=2, classes=classes))
    return LayeredNetwork(layers, (dim,))


def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
    """Images [N, 3, 128, 128] in [-1, 1] to logits [N, outputs]."""
    return _convolutions(width, outputs)


def encoder(width: float = 1.0, outputs: int = LATENT_DIM) -> LayeredNetwork:
    """Images [N, 3, 128, 128] in [-1, 1] to codes [N, outputs]: the discriminator's layers (ours)."""  # noqa: E501
    return _convolutions(width, outputs)


def joint(width: float = 1.0, latent_dim: int | None = None, outputs: int = 1) -> LayeredNetwork:
    """Images and latents to logits [N, outputs]: the discriminator's layers, the latent embedded
    linearly and added at each, as BiGAN's authors do (jeffdonahue/bigan).
    """
    return _convolutions(width, outputs, latent_dim or LATENT_DIM)


def _convolutions(width: float, outputs: int, latents: int = 0) -> LayeredNetwork:
    """The authors' discriminator with so many outputs; with `latents` a joint one."""
    maps = [scaled(count, width) for count in (64, 128, 256, 512, 1024)]
    layers: list[Layer] = []
    for number, (before, after) in enumerate(zip([3, *maps], maps, strict=False), start=1):
        layers.append(
            conv(
                f"conv{number}",
                before,
                after,
                IMAGE_SIZE // 2**number,
                kernel=5,
                stride=2,
                norm=number > 1,
                latents=latents,
            )
        )
    layers.append(head("head", maps[-1] * 16, outputs, latents=latents))
    return LayeredNetwork(layers, (3, IMAGE_SIZE, IMAGE_SIZE))
