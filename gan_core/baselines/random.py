"""The network that was trained, with the weights it had before: what its architecture alone is
worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gan_core.config import Section
from gan_core.contract import ExtractRequest
from gan_core.features.extractor import Extractor, network_extractor
from gan_core.progress import Progress
from gan_core.randomness import torch_stream
from gan_core.shards import PixelShards

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork

ABOUT = "the same network with random weights (the authors' initialisation)"

TITLE = "random weights"
VERSION = 1
NEEDS = ("pack", "network")


class Options(Section):
    """None: the settings of `extract` hold for these features too."""


def dims(options: Options, size: int, network: int) -> int:
    """How many features an image has. Args: network: those of the trained network."""
    return network


def make(job: ExtractRequest, images: PixelShards, progress: Progress) -> Extractor:
    """The features that the trained network gives, of the untrained one."""
    if job.external:
        from gan_core.features.external.preflight import load_external

        return network_extractor(job, *load_external(job, images.shape[0], untrained=True), images)
    named = job.network
    width, role = float(named.get("width", 1.0)), job.settings.network or "discriminator"
    fresh = network(str(named["name"]), width, job.seed, role, named.get("latent_dim"))
    about = {"name": named["name"], "width": width, "weights": f"random, seed {job.seed}"}
    if role != "discriminator":
        about["role"] = role
    return network_extractor(job, fresh.to(job.execution.device), about, images)


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
