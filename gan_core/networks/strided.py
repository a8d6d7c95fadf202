"""Networks of strided convolutions as the DCGAN authors build them: a discriminator, a generator
that mirrors it, and an encoder and a joint discriminator of the discriminator's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import Layer, conv, deconv, head, image, project, scaled

Build = Callable[..., LayeredNetwork]


def strided_networks(
    size: int, latent_dim: int, convolutions: Sequence[tuple[int, int]], kernel: int
) -> tuple[Build, Build, Build, Build]:
    """The functions generator, discriminator, encoder and joint of a network file.

    Args:
        size: side of the images in pixels.
        latent_dim: values per latent when the recipe does not say.
        convolutions: (maps at width 1, stride) of the discriminator's layers; the last one puts
            out 4 x 4 maps.
        kernel: side of every kernel.
    """
    default = latent_dim

    def generator(
        width: float = 1.0, latent_dim: int | None = None, classes: int = 0
    ) -> LayeredNetwork:
        """Latents [N, latent_dim] to images [N, 3, size, size] in [-1, 1]. With `classes` above 0
        the class joins every layer as further channels, as in the authors' MNIST networks.
        """
        return strided_generator(size, latent_dim or default, convolutions, kernel, width, classes)

    def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
        """Images [N, 3, size, size] in [-1, 1] to logits [N, outputs]."""
        return _convolutions(size, convolutions, kernel, width, outputs)

    def encoder(width: float = 1.0, outputs: int = latent_dim) -> LayeredNetwork:
        """Images [N, 3, size, size] in [-1, 1] to codes [N, outputs] (ours)."""
        return _convolutions(size, convolutions, kernel, width, outputs)

    def joint(
        width: float = 1.0, latent_dim: int | None = None, outputs: int = 1
    ) -> LayeredNetwork:
        """Images and latents to logits [N, outputs]: the latent is embedded linearly and added at
        each layer, as BiGAN's authors do (jeffdonahue/bigan).
        """
        return _convolutions(size, convolutions, kernel, width, outputs, latent_dim or default)

    return generator, discriminator, encoder, joint


def strided_generator(
    size: int,
    latent_dim: int,
    convolutions: Sequence[tuple[int, int]],
    kernel: int,
    width: float = 1.0,
    classes: int = 0,
) -> LayeredNetwork:
    """The discriminator's layers mirrored, from a projection to 4 x 4 maps. Args: as in
    `strided_networks`.
    """
    maps, strides = _scaled(convolutions, width)
    layers: list[Layer] = [project("project", latent_dim, maps[-1], 4, classes)]
    side = 4
    for number in range(1, len(maps)):
        side *= strides[-number]
        layers.append(
            deconv(
                f"deconv{number}",
                maps[-number],
                maps[-number - 1],
                side,
                kernel=kernel,
                stride=strides[-number],
                classes=classes,
            )
        )
    layers.append(image("image", maps[0], size, kernel=kernel, stride=strides[0], classes=classes))
    return LayeredNetwork(layers, (latent_dim,))


def _convolutions(
    size: int,
    convolutions: Sequence[tuple[int, int]],
    kernel: int,
    width: float,
    outputs: int,
    latents: int = 0,
) -> LayeredNetwork:
    maps, strides = _scaled(convolutions, width)
    layers: list[Layer] = []
    side = size
    for number, (before, after) in enumerate(zip([3, *maps], maps, strict=False), start=1):
        side //= strides[number - 1]
        layers.append(
            conv(
                f"conv{number}",
                before,
                after,
                side,
                kernel=kernel,
                stride=strides[number - 1],
                norm=number > 1,
                latents=latents,
            )
        )
    layers.append(head("head", maps[-1] * side * side, outputs, latents=latents))
    return LayeredNetwork(layers, (3, size, size))


def _scaled(convolutions: Sequence[tuple[int, int]], width: float) -> tuple[list[int], list[int]]:
    return [scaled(maps, width) for maps, _ in convolutions], [s for _, s in convolutions]
