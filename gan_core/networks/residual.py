"""Residual networks at any side: BigGAN's generator and discriminator, an encoder, CIFAR ResNets.

Sources: ajbrock/BigGAN-PyTorch (layers.py, BigGAN.py) for blocks and channels; He et al. 2016 for
the CIFAR ResNets. RevNet, which BigBiGAN also uses as encoder, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import (
    NO_CONDITION,
    BatchNorm,
    Block,
    Condition,
    Layer,
    LayerInfo,
    scaled,
)
from gan_core.networks.strided import Build, strided_generator

EPS = 1e-5
EMBEDDING = 32  # values of the shared class embedding (BigGAN: 128 for 1,000 classes)
LEAK = 0.1


class ModulatedBatchNorm(BatchNorm):
    """Batch norm whose gain and bias are linear in a vector (a chunk of the latent, a class)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__(channels, affine=False, eps=EPS)
        self.gain = nn.Linear(size, channels, bias=False)
        self.shift = nn.Linear(size, channels, bias=False)

    def modulate(self, x: Tensor, vector: Tensor) -> Tensor:
        """Normalises [N, C, H, W], then scales by 1 + gain and shifts, of vectors [N, size]."""
        gain, shift = self.gain(vector)[:, :, None, None], self.shift(vector)[:, :, None, None]
        out: Tensor = self(x) * (1 + gain).to(x.dtype) + shift.to(x.dtype)
        return out


class UpBlock(Block):
    """BigGAN's generator block: norm, ReLU, upsampling, two 3x3 convolutions; 1x1 on the skip.

    Args:
        chunk: (start, size) of the latent values that modulate its norms (hierarchical latents).
    """

    def __init__(
        self, name: str, maps_in: int, maps: int, size: int, chunk: tuple[int, int], classes: int
    ) -> None:
        super().__init__(LayerInfo(name, (maps, size, size), "deconv"), classes)
        self.chunk = chunk
        self.embed = nn.Linear(classes, EMBEDDING, bias=False) if classes else None
        vector = chunk[1] + (EMBEDDING if classes else 0)
        self.norm1, self.norm2 = (
            ModulatedBatchNorm(maps_in, vector),
            ModulatedBatchNorm(maps, vector),
        )
        self.conv1, self.conv2 = nn.Conv2d(maps_in, maps, 3, 1, 1), nn.Conv2d(maps, maps, 3, 1, 1)
        self.skip, self.activation = nn.Conv2d(maps_in, maps, 1), nn.ReLU()

    def forward(self, x: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """[N, maps_in, size / 2, size / 2] to [N, maps, size, size]."""
        if condition.latents is None:
            raise ValueError(f"layer {self.info.name} needs the latents")
        start, count = self.chunk
        vector = condition.latents[:, start : start + count]
        if self.embed is not None:
            vector = torch.cat([vector, self.embed(self.one_hot(condition, vector))], 1)
        inner = _double(self.activation(self.norm1.modulate(x, vector)))
        inner = self.conv2(self.activation(self.norm2.modulate(self.conv1(inner), vector)))
        out: Tensor = inner + self.skip(_double(x))
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class FirstChunk(Layer):
    """The projection of the first chunk of the latent to maps; no norm (BigGAN)."""

    def __init__(self, name: str, chunk: int, maps: int, size: int) -> None:
        info = LayerInfo(name, (maps, size, size), "project")
        super().__init__(nn.Linear(chunk, maps * size * size), info)
        self.chunk = chunk

    def forward(self, x: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """Latents [N, dim] to [N, maps, size, size]."""
        return super().forward(x[:, : self.chunk], condition)


class DownBlock(Block):
    """BigGAN's discriminator block: ReLU, two 3x3 convolutions, average pooling; 1x1 on the skip.

    Args:
        first: the image's own block starts without a ReLU. norm: batch norm, for encoders.
    """

    def __init__(
        self,
        name: str,
        maps_in: int,
        maps: int,
        size: int,
        *,
        down: bool,
        first: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__(LayerInfo(name, (maps, size, size), "conv"))
        self.down, self.first = down, first
        self.norm1 = BatchNorm(maps_in, eps=EPS) if norm and not first else None
        self.norm2 = BatchNorm(maps, eps=EPS) if norm else None
        self.conv1, self.conv2 = nn.Conv2d(maps_in, maps, 3, 1, 1), nn.Conv2d(maps, maps, 3, 1, 1)
        self.skip = nn.Conv2d(maps_in, maps, 1) if down or maps_in != maps else None
        self.activation = nn.ReLU()

    def forward(self, x: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """[N, maps_in, s, s] to [N, maps, size, size], half as large where it pools."""
        inner = x if self.norm1 is None else self.norm1(x)
        inner = self.conv1(inner if self.first else self.activation(inner))
        inner = self.conv2(self.activation(inner if self.norm2 is None else self.norm2(inner)))
        if self.down:
            inner, x = F.avg_pool2d(inner, 2), F.avg_pool2d(x, 2)
        out: Tensor = inner + (x if self.skip is None else self.skip(x))
        return out


class Pooled(Block):
    """ReLU and the sum (BigGAN) or mean over places: [N, maps, s, s] to [N, maps]."""

    def __init__(self, name: str, maps: int, *, mean: bool) -> None:
        super().__init__(LayerInfo(name, (maps, 1, 1), "linear"))
        self.mean, self.activation = mean, nn.ReLU()

    def forward(self, x: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """Maps of any side."""
        x = self.activation(x)
        return x.mean((2, 3)) if self.mean else x.sum((2, 3))


class BasicBlock(Block):
    """A CIFAR ResNet's block: two 3x3 convolutions with batch norm, LeakyReLU after the sum."""

    def __init__(self, name: str, maps_in: int, maps: int, size: int, stride: int) -> None:
        super().__init__(LayerInfo(name, (maps, size, size), "conv"))
        self.conv1 = nn.Conv2d(maps_in, maps, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(maps, maps, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = BatchNorm(maps, eps=EPS), BatchNorm(maps, eps=EPS)
        changes = stride != 1 or maps_in != maps
        self.skip = nn.Conv2d(maps_in, maps, 1, stride, bias=False) if changes else None
        self.norm_skip = BatchNorm(maps, eps=EPS) if changes else None
        self.activation = nn.LeakyReLU(LEAK)

    def forward(self, x: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """[N, maps_in, s, s] to [N, maps, s / stride, s / stride]."""
        inner = self.activation(self.norm1(self.conv1(x)))
        inner = self.norm2(self.conv2(inner))
        if self.skip is not None and self.norm_skip is not None:
            x = self.norm_skip(self.skip(x))
        out: Tensor = self.activation(inner + x)
        return out


def big_networks(
    size: int,
    latent_dim: int,
    *,
    generator: Sequence[int],
    discriminator: Sequence[int],
    downs: int,
) -> tuple[Build, Build, Build]:
    """The functions generator, discriminator and encoder of a network file of BigGAN's kind.

    Args:
        size: side of the images. latent_dim: values per latent when the recipe does not say.
        generator: maps before the first block and after each, at width 1.
        discriminator: maps of each block at width 1. downs: how many blocks halve the side.
    """
    default, up, down = latent_dim, generator, discriminator

    def make_generator(
        width: float = 1.0, latent_dim: int | None = None, classes: int = 0
    ) -> LayeredNetwork:
        """Latents [N, latent_dim] to images [N, 3, size, size] in [-1, 1]."""
        return big_generator(up, size, width, latent_dim or default, classes)

    def make_discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
        """Images [N, 3, size, size] in [-1, 1] to logits [N, outputs]."""
        return big_discriminator(down, downs, size, width, outputs, encoder=False)

    def make_encoder(width: float = 1.0, outputs: int = default) -> LayeredNetwork:
        """Images [N, 3, size, size] in [-1, 1] to codes [N, outputs]."""
        return big_discriminator(down, downs, size, width, outputs, encoder=True)

    return make_generator, make_discriminator, make_encoder


def cifar_networks(
    size: int, latent_dim: int, *, blocks: Sequence[int]
) -> tuple[Build, Build, Build]:
    """The functions generator, discriminator and encoder of a network file: a CIFAR ResNet, and a
    generator of SNDCGAN's size (ContraD's code).

    Args: blocks: basic blocks of each stage.
    """
    default = latent_dim

    def generator(width: float = 1.0, latent_dim: int | None = None) -> LayeredNetwork:
        """Latents [N, latent_dim] to images [N, 3, size, size] in [-1, 1]."""
        convolutions = [(128, 2), (256, 2), (512, 2)]
        return strided_generator(size, latent_dim or default, convolutions, 5, width)

    def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
        """Images [N, 3, s, s] of any side in [-1, 1] to logits [N, outputs]."""
        return cifar_resnet(blocks, size, width, outputs)

    def encoder(width: float = 1.0, outputs: int = default) -> LayeredNetwork:
        """Images [N, 3, s, s] of any side in [-1, 1] to codes [N, outputs]."""
        return cifar_resnet(blocks, size, width, outputs)

    return generator, discriminator, encoder


def big_generator(
    channels: Sequence[int], size: int, width: float, latent_dim: int, classes: int
) -> LayeredNetwork:
    """Latents [N, latent_dim] to images [N, 3, size, size] in [-1, 1], by up blocks from 4 x 4.

    The latent is cut into equal chunks: one for the first layer, one for each block.

    Args: channels: maps before the first block and after each, at width 1.
    """
    maps = [scaled(count, width) for count in channels]
    count = len(maps) - 1
    chunk = latent_dim // (count + 1)
    first = latent_dim - count * chunk
    layers: list[Block] = [FirstChunk("project", first, maps[0], size >> count)]
    for number in range(count):
        place = (first + number * chunk, chunk)
        side = size >> (count - number - 1)
        name = f"block{number + 1}"
        layers.append(UpBlock(name, maps[number], maps[number + 1], side, place, classes))
    layers.append(ToImage("image", maps[-1], size))
    return LayeredNetwork(layers, (latent_dim,))


class ToImage(Block):
    """Batch norm, ReLU, a 3x3 convolution and tanh: [N, maps, s, s] to images in [-1, 1]."""

    def __init__(self, name: str, maps: int, size: int) -> None:
        super().__init__(LayerInfo(name, (3, size, size), "image"))
        self.norm, self.conv = BatchNorm(maps, eps=EPS), nn.Conv2d(maps, 3, 3, 1, 1)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """[N, maps, size, size] to [N, 3, size, size]."""
        return torch.tanh(self.conv(self.activation(self.norm(x))))


def big_discriminator(
    channels: Sequence[int], downs: int, size: int, width: float, outputs: int, *, encoder: bool
) -> LayeredNetwork:
    """Images [N, 3, size, size] to [N, outputs]: a discriminator with spectral norm and a sum over
    places, or an encoder with batch norm and their mean.

    Args:
        channels: maps of each block at width 1. downs: how many blocks halve the side.
    """
    layers: list[Block] = []
    maps_in, side = 3, size
    for number, count in enumerate(channels):
        maps, down = scaled(count, width), number < downs
        side = side // 2 if down else side
        layers.append(
            DownBlock(
                f"block{number + 1}",
                maps_in,
                maps,
                side,
                down=down,
                first=number == 0,
                norm=encoder,
            )
        )
        maps_in = maps
    layers += [Pooled("pool", maps_in, mean=encoder), _head(maps_in, outputs)]
    made = LayeredNetwork(layers, (3, size, size))
    made.spectral_norm = not encoder
    return made


def cifar_resnet(
    blocks: Sequence[int], size: int, width: float, outputs: int, *, stem: int = 64
) -> LayeredNetwork:
    """Images [N, 3, s, s] of any side to [N, outputs]: a 3x3 stem, stages of basic blocks that
    double the maps and, from the second on, halve the side; mean over places, linear head.
    """
    maps_in = scaled(stem, width)
    layers: list[Block] = [
        Layer(
            nn.Conv2d(3, maps_in, 3, 1, 1, bias=False),
            LayerInfo("stem", (maps_in, size, size), "conv"),
            norm=BatchNorm(maps_in, eps=EPS),
            activation=nn.LeakyReLU(LEAK),
        )
    ]
    for stage, count in enumerate(blocks):
        maps = scaled(stem * 2**stage, width)
        size = size if stage == 0 else (size + 1) // 2
        for number in range(count):
            stride = 2 if stage and not number else 1
            name = f"stage{stage + 1}_{number + 1}"
            layers.append(BasicBlock(name, maps_in, maps, size, stride))
            maps_in = maps
    layers += [Pooled("pool", maps_in, mean=True), _head(maps_in, outputs)]
    return LayeredNetwork(layers, (3, layers[0].info.shape[1], layers[0].info.shape[2]))


def _head(maps: int, outputs: int) -> Layer:
    return Layer(nn.Linear(maps, outputs), LayerInfo("head", (outputs, 1, 1), "head"))


def orthogonal(network: nn.Module, random: torch.Generator) -> None:
    """BigGAN's initialisation: orthogonal weights, no biases; gains of modulated norms at 0."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(module.weight, generator=random)
                if module.bias is not None:
                    module.bias.zero_()
        for module in network.modules():
            if isinstance(module, ModulatedBatchNorm):
                module.gain.weight.mul_(0.1)
                module.shift.weight.mul_(0.1)


def kaiming(network: nn.Module, random: torch.Generator) -> None:
    """He et al.'s initialisation for LeakyReLU networks; gains 1, biases 0."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(
                    module.weight, LEAK, nonlinearity="leaky_relu", generator=random
                )
                if module.bias is not None:
                    module.bias.zero_()
