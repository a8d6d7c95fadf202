"""torch.compile for the networks of a training, where it is wanted and works; the plain networks, and a line in the log, where not.

On a CPU it does not pay (docs/benchmarks.md): `auto` is off there. On a GPU a step is many small kernels, which CUDA graphs launch as one.
Compiled sums are taken in another order: a choice other than `auto`'s is in a training's key.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable

import torch

from gan_core.config import TrainConfig
from gan_core.devices import resolve_compile
from gan_core.networks.base import LayeredNetwork

logger = logging.getLogger(__name__)


def reason_against(settings: TrainConfig, how: str, device: str, processes: int) -> str:
    """Why a training that asks for compiling cannot have it; '' where nothing is known to be in the way."""
    if processes > 1 and settings.synchronise_norms:
        return "norms that are synchronised over processes are not compiled"
    if settings.r1:
        return "R1 needs second derivatives, which compiled networks do not have"
    if how == "graphs" and not device.startswith("cuda"):
        return "CUDA graphs need a GPU"
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "c++")):
        return "there is no C++ compiler (g++)"
    return ""


def compile_networks(networks: Iterable[LayeredNetwork], how: str) -> None:
    """Compiles networks in place, at their first call. Their weights and names stay. Args: how: 'on' or 'graphs'."""
    for network in networks:
        if how == "graphs":
            network.compile(dynamic=False, mode="reduce-overhead")
        else:
            network.compile(dynamic=False)


def compiling(settings: TrainConfig, device: str, processes: int, attempt: Callable[[str], None]) -> str:
    """'off', 'on' or 'graphs': what this training does; everything that stands against its wish is said in one line.

    Args: attempt: compiles and trains networks of its own for a few minibatches; what it raises stands against compiling.
    """
    how = resolve_compile(settings.compile, device)
    if how == "off":
        return how
    against = reason_against(settings, how, device, processes)
    if not against:
        try:
            attempt(how)
        except Exception as error:  # whatever a compiler, a driver or a kernel may raise
            against = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            torch.compiler.reset()
    if against:
        logger.warning("The networks are not compiled: %s. Training runs without.", against)
        return "off"
    return how
