"""The network that was trained, with the weights it had before: what its architecture alone is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gan_core.randomness import torch_stream

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork

ABOUT = "the same network with random weights (the authors' initialisation)"


def network(name: str, width: float, seed: int) -> LayeredNetwork:
    """The discriminator of a network file, initialised as the authors do, from the stream 'random-network' of `seed`."""
    from gan_core import registry
    from gan_core.networks.base import initialise

    made: LayeredNetwork = registry.load("networks", name).discriminator(width)
    initialise(made, torch_stream(seed, "random-network"))
    return made.eval().requires_grad_(False)
