"""Ways to run a training's steps faster than kernel by kernel, where they are wanted and work; else
plain steps and a line in the log.

    graphs            a whole step as one CUDA graph (graphs.py); needs no compiler
    on                the networks compiled by torch.compile
    reduce-overhead   likewise, with the compiler's own CUDA graphs

On a CPU compiling does not pay (docs/benchmarks.md): `auto` is off there. On a GPU a step is many
small kernels: `auto` is graphs, for trainings that are long enough. Compiled sums are taken in
another order: a choice other than `auto`'s is in a training's key.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from gan_core.config import TrainConfig
from gan_core.devices import resolve_compile
from gan_core.errors import TransientError, WorkError
from gan_core.networks.base import LayeredNetwork

logger = logging.getLogger(__name__)

COMPILED = ("on", "reduce-overhead")  # what torch.compile does
# minibatches from which `auto` tries graphs: the trial takes seconds, a replay saves milliseconds
WORTH = 2000


def reason_against(settings: TrainConfig, how: str, device: str, processes: int) -> str:
    """Why a training that asks for graphs or compiling cannot have it; '' where nothing is known to
    be in the way.
    """
    cuda = device.startswith("cuda")
    if how in ("graphs", "reduce-overhead") and not cuda:
        return "CUDA graphs need a GPU"
    if how == "graphs":
        return (
            "a graph holds one process's step, and several exchange gradients in it"
            if processes > 1
            else ""
        )
    if processes > 1 and settings.synchronise_norms:
        return "norms that are synchronised over processes are not compiled"
    if not _program("CXX", "g++", "clang++", "c++"):
        return "there is no C++ compiler (g++)"
    return _reason_against_triton() if cuda else ""


def _program(variable: str, *names: str) -> str | None:
    """The first of the programs that is installed, the one that an environment variable names
    before the others.
    """
    chosen = (os.environ.get(variable, "").split() or [""])[0]
    return next(
        (found for name in (chosen, *names) if name and (found := shutil.which(name))), None
    )


def _reason_against_triton() -> str:
    """What Triton, which writes the compiler's GPU kernels, lacks here: it builds a small C module
    for each of them.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not _program("CC", "gcc", "clang", "cc"):
        return "there is no C compiler (gcc), which Triton needs"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers (Python.h), which Triton needs, are not installed"
    return ""


def compile_networks(networks: Iterable[LayeredNetwork], how: str) -> None:
    """Compiles networks in place, at their first call. Their weights and names stay. Args: how:
    'on' or 'reduce-overhead'.
    """
    for network in networks:
        if how == "reduce-overhead":
            network.compile(dynamic=False, mode="reduce-overhead")
        else:
            network.compile(dynamic=False)


def compiling(
    settings: TrainConfig, device: str, processes: int, attempt: Callable[[str], None]
) -> str:
    """'off', 'graphs', 'on' or 'reduce-overhead': what this training does; what stands against its
    wish is said in one line.

    Args: attempt: trains networks of its own for a few minibatches in that way; what it raises
        stands against it.
    Raises: WorkError: the attempt left the GPU in a state that this process cannot leave.
    """
    how = resolve_compile(settings.compile, device)
    if how == "off":
        return how
    if settings.compile == "auto" and settings.kimg * 1000 / settings.batch < WORTH:
        logger.info(
            "Training runs step by step: it is too short for CUDA graphs to pay (below %d "
            "minibatches).",
            WORTH,
        )
        return "off"
    against = reason_against(settings, how, device, processes)
    if not against:
        try:
            attempt(how)
        except Exception as error:  # whatever a compiler, a driver or a kernel may raise
            against = first_line(error)
            refuse_lost_device(device, error)
            if how in COMPILED:
                torch.compiler.reset()
    if against:
        logger.warning("Training runs step by step, without train.compile=%s: %s.", how, against)
        return "off"
    return how


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def refuse_lost_device(device: str, error: BaseException) -> None:
    """Raises WorkError when after `error` nothing runs on the GPU any more: some errors stay with a
    process until it ends.
    """
    if not device.startswith("cuda"):
        return
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).add_(1).item()
    except Exception as again:
        raise WorkError(
            f"The GPU answers nothing in this process since it said: {first_line(error)}.",
            expected=(
                "a step that can be recorded as a CUDA graph, or fails without taking the GPU along"
            ),
            remedy=(
                "--set train.compile=off trains without; the same command then continues from "
                "the last saved state"
            ),
        ) from again


@contextlib.contextmanager
def gpu_errors(compiled: str) -> Iterator[None]:
    """Within it what CUDA reports becomes an error with a remedy. The process must end: most of
    these stay with it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TransientError(
            f"The GPU's memory is full: {first_line(error)}.",
            expected="memory for the networks, their averages and a batch's activations",
            remedy=(
                "a smaller --set train.batch=..., or other work off this GPU; the same command "
                "continues from the last saved state"
            ),
        ) from error
    except RuntimeError as error:
        if not any(word in str(error) for word in ("CUDA", "CUDNN", "cuDNN", "CUBLAS")):
            raise
        without = (
            "; if it comes again, --set train.compile=off trains without CUDA graphs"
            if compiled != "off"
            else ""
        )
        raise TransientError(
            f"The GPU reported an error in the middle of training: {first_line(error)}.",
            expected="a GPU that nothing disturbs",
            remedy=f"the same command continues from the last saved state{without}",
        ) from error
