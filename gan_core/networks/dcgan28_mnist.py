"""The DCGAN authors' conditional MNIST networks (Newmu/dcgan_code, mnist/train_cond_dcgan.py).

The class joins every layer's input as ten further channels (one-hot); batch norm has neither gain
nor bias; one grey channel, which the authors keep in [0, 1] with a sigmoid. Outside, images are in
[-1, 1] as everywhere; the first and the last layer convert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import BatchNorm, Layer, LayerInfo, scaled

ABOUT = "DCGAN authors' conditional MNIST net for 28 px: the class joins every layer"
IMAGE_SIZE = 28
LATENT_DIM = 100
PRIOR = "uniform"
CONDITIONAL = True


class _ToUnit(nn.Module):
    """Images [N, 1 or 3, H, W] in [-1, 1] to grey ones in [0, 1], then the convolution."""

    def __init__(self, convolution: nn.Conv2d, classes: int) -> None:
        super().__init__()
        self.convolution, self.classes = convolution, classes

    def forward(self, x: Tensor) -> Tensor:
        """The first channels are the image, the last ones the class."""
        image, classes = x[:, : -self.classes], x[:, -self.classes :]
        grey = (image.mean(1, keepdim=True) + 1) / 2
        out: Tensor = self.convolution(torch.cat([grey, classes], 1))
        return out


class _FromUnit(nn.Module):
    """Sigmoid, then [0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid() * 2 - 1


def _linear(
    name: str,
    units_in: int,
    units: int,
    activation: nn.Module,
    classes: int,
    shape: tuple[int, int, int] | None = None,
) -> Layer:
    kind = "linear" if shape is None else "project"
    return Layer(
        nn.Linear(units_in + classes, units, bias=False),
        LayerInfo(name, shape or (units, 1, 1), kind),
        norm=BatchNorm(units, affine=False),
        activation=activation,
        classes=classes,
    )


def generator(
    width: float = 1.0, latent_dim: int | None = None, classes: int = 10
) -> LayeredNetwork:
    """Latents [N, 100] and labels [N] to images [N, 1, 28, 28] in [-1, 1]."""
    dim = latent_dim or LATENT_DIM
    units, a, b = scaled(1024, width), scaled(128, width), scaled(64, width)
    layers = [
        _linear("linear", dim, units, nn.ReLU(), classes),
        _linear("project", units, a * 49, nn.ReLU(), classes, (a, 7, 7)),
        Layer(
            nn.ConvTranspose2d(a + classes, b, 5, 2, 2, 1, bias=False),
            LayerInfo("deconv1", (b, 14, 14), "deconv"),
            norm=BatchNorm(b, affine=False),
            activation=nn.ReLU(),
            classes=classes,
        ),
        Layer(
            nn.ConvTranspose2d(b + classes, 1, 5, 2, 2, 1, bias=False),
            LayerInfo("image", (1, IMAGE_SIZE, IMAGE_SIZE), "image"),
            activation=_FromUnit(),
            classes=classes,
        ),
    ]
    return LayeredNetwork(layers, (dim,))


def discriminator(width: float = 1.0, outputs: int = 1, classes: int = 10) -> LayeredNetwork:
    """Images [N, 1 or 3, 28, 28] in [-1, 1] and labels [N] to logits [N, outputs]."""
    units, a, b = scaled(1024, width), scaled(64, width), scaled(128, width)
    layers = [
        Layer(
            _ToUnit(nn.Conv2d(1 + classes, a, 5, 2, 2, bias=False), classes),
            LayerInfo("conv1", (a, 14, 14), "conv"),
            activation=nn.LeakyReLU(0.2),
            classes=classes,
        ),
        Layer(
            nn.Conv2d(a + classes, b, 5, 2, 2, bias=False),
            LayerInfo("conv2", (b, 7, 7), "conv"),
            norm=BatchNorm(b, affine=False),
            activation=nn.LeakyReLU(0.2),
            classes=classes,
        ),
        _linear("linear", b * 49, units, nn.LeakyReLU(0.2), classes),
        Layer(
            nn.Linear(units + classes, outputs, bias=False),
            LayerInfo("head", (outputs, 1, 1), "head"),
            classes=classes,
        ),
    ]
    return LayeredNetwork(layers, (1, IMAGE_SIZE, IMAGE_SIZE))
