"""Whether a training's steps run as CUDA graphs, and what becomes of a GPU's errors.

A step is many small kernels: `graphs` runs a whole step as one CUDA graph (cuda_graphs.py), with no
compiler. `auto` tries it on a GPU for trainings that are long enough, and is off on a CPU. torch's
compiler was never faster here (docs/benchmarks.md).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import torch

from gan_core.config import TrainConfig
from gan_core.devices import resolve_compile
from gan_core.errors import TransientError, WorkError

logger = logging.getLogger(__name__)

WORTH = 2000  # minibatches from which `auto` tries graphs: the trial takes seconds, a replay saves
# milliseconds


def reason_against(device: str, processes: int) -> str:
    """Why a training that asks for graphs cannot have them; '' where nothing is known to be in the
    way.
    """
    if not device.startswith("cuda"):
        return "CUDA graphs need a GPU"
    if processes > 1:
        return "a graph holds one process's step, and several exchange gradients in it"
    return ""


def choose_compile(
    settings: TrainConfig, device: str, processes: int, trial: Callable[[], None]
) -> str:
    """'off' or 'graphs': what this training does; what prevents graphs is logged in one line.

    Args: trial: trains networks of its own for a few minibatches by graphs; what it raises prevents
        them.
    Raises: WorkError: the trial left the GPU in a state that this process cannot leave.
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
    against = reason_against(device, processes)
    if not against:
        try:
            trial()
        except Exception as error:  # whatever a driver or a kernel may raise
            against = first_line(error)
            refuse_lost_device(device, error)
    if against:
        logger.warning("Training runs step by step, without CUDA graphs: %s.", against)
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
                "a step that can be captured as a CUDA graph, or fails without taking the GPU along"
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
