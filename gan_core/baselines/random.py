"""The network that was trained, with the weights it had before: what its architecture alone is
worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from gan_core import registry
from gan_core.config import Section
from gan_core.contract import ExtractRequest
from gan_core.features.extractor import Extractor, network_extractor
from gan_core.progress import Progress
from gan_core.randomness import torch_stream
from gan_core.shards import PixelShards

if TYPE_CHECKING:
    from gan_core.networks.base import LayeredNetwork

ABOUT = "the same network with random weights (the initialisation that training starts with)"
TITLE = "random weights"
VERSION = 1
NEEDS = ("pack", "network")  # the settings of extract hold for these features too


def dims(options: Section, size: int, network: int) -> int:
    """How many features an image has. Args: network: those of the trained network."""
    return network


def make(job: ExtractRequest, images: PixelShards, progress: Progress) -> Extractor:
    """The features that the trained network gives, of the untrained one."""
    if job.external:
        from gan_core.features.external.preflight import load_external

        return network_extractor(job, *load_external(job, images.shape[0], untrained=True), images)
    name, role = str(job.network["name"]), job.settings.network or "discriminator"
    spec = {**job.network, "classes": _classes(job, name)}
    fresh = network(spec, job.seed, role, **job.training)
    about = {
        "name": name,
        "width": float(spec.get("width", 1.0)),
        "weights": f"random, seed {job.seed}",
        **job.training,
    }
    if role != "discriminator":
        about["role"] = role
    return network_extractor(job, fresh.to(job.execution.device), about, images)


def _classes(job: ExtractRequest, network: str) -> int:
    """Classes of the training images where the method or the network uses labels, else 0."""
    uses = registry.literal("methods", job.training.get("method", "dcgan"), "USES_LABELS", False)
    if not uses and not registry.literal("networks", network, "CONDITIONAL", False):
        return 0
    return 1 + int(pc.max(PixelShards(list(job.packs)).table["label"]).as_py())


def network(
    spec: Mapping[str, Any],
    seed: int,
    role: str = "discriminator",
    method: str = "dcgan",
    options: Mapping[str, Any] | None = None,
) -> LayeredNetwork:
    """The network that gives a role's features, as the method builds it, before
    training.

    Args:
        spec: as `Make` takes it. seed: of the stream 'random-network' that weights come from.
    """
    from gan_core.networks.make import Make
    from gan_core.networks.snapshot import feature_network, load_method

    make, built = Make({**spec, "method": method}), load_method(method, options or {})
    networks = built.networks(make)
    for name, made in networks.items():
        # the role's own weights are the same whatever other roles the method has
        own = () if name == role else (name,)
        make.initialise(made, torch_stream(seed, "random-network", *own))
        made.eval().requires_grad_(False)
    built.bind(networks, {})
    return feature_network(built, role, networks[role])
