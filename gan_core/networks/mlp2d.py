"""Small perceptrons for points in the plane: the toys on which mode collapse can be seen and
counted (benchmarks/toys.py)."""

from __future__ import annotations

import torch
from torch import nn

from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import Layer, LayerInfo, linear, scaled

ABOUT = "Perceptrons of two hidden layers for 2-D points (ring and grid of Gaussians)"
IMAGE_SIZE = 0
LATENT_DIM = 2
PRIOR = "normal"
UNITS = 128


def generator(
    width: float = 1.0, latent_dim: int | None = None, classes: int = 0
) -> LayeredNetwork:
    """Latents [N, 2] to points [N, 2]; with `classes` above 0 the class joins every layer's
    input.
    """
    return _perceptron(latent_dim or LATENT_DIM, 2, width, classes=classes)


def discriminator(width: float = 1.0, outputs: int = 1) -> LayeredNetwork:
    """Points [N, 2] to logits [N, outputs]."""
    return _perceptron(2, outputs, width)


def encoder(width: float = 1.0, outputs: int = LATENT_DIM) -> LayeredNetwork:
    """Points [N, 2] to codes [N, outputs]."""
    return _perceptron(2, outputs, width)


def joint(width: float = 1.0, latent_dim: int | None = None, outputs: int = 1) -> LayeredNetwork:
    """Points [N, 2] and latents to logits [N, outputs]."""
    return _perceptron(2, outputs, width, latent_dim or LATENT_DIM)


def _perceptron(
    inputs: int, outputs: int, width: float, latents: int = 0, classes: int = 0
) -> LayeredNetwork:
    units = scaled(UNITS, width)
    layers = [
        Layer(
            nn.Linear(before + classes, units),
            LayerInfo(f"linear{number}", (units, 1, 1), "linear"),
            activation=nn.LeakyReLU(0.2),
            latents=latents,
            classes=classes,
        )
        for number, before in enumerate((inputs, units), start=1)
    ]
    return LayeredNetwork([*layers, linear("head", units, outputs, slope=None)], (inputs,))


def initialise(network: nn.Module, random: torch.Generator) -> None:
    """Weights uniform in +-1/sqrt(fan in), biases 0."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                module.weight.uniform_(-bound, bound, generator=random)
                if module.bias is not None:
                    module.bias.zero_()
