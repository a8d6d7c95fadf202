"""The network that was trained, with the weights it had before: what its architecture alone is
worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gan_core.config import Section
from gan_core.randomness import torch_stream

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork

ABOUT = "the same network with random weights (the authors' initialisation)"

TITLE = "random weights"
NEEDS = ("pack", "network")


class Options(Section):
    """None: the settings of `extract` hold for these features too."""


def dims(options: Options, size: int, network: int) -> int:
    """How many features an image has. Args: network: those of the trained network."""
    return network


def network(
    name: str, width: float, seed: int, role: str = "discriminator", latent_dim: int | None = None
) -> LayeredNetwork:
    """The discriminator (or encoder) of a network file, initialised as it says, from the stream
    'random-network' of `seed`.
    """
    from gan_core.networks.make import Make

    make = Make({"name": name, "width": width, "latent_dim": latent_dim})
    made: LayeredNetwork = getattr(make, role)()
    make.initialise(made, torch_stream(seed, "random-network"))
    return made.eval().requires_grad_(False)
