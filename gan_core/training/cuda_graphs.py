"""A whole training step as one CUDA graph: capture once, launched as one ever after. No compiler
is needed.

A step is some hundred small kernels, and at batch 128 a GPU receives them more slowly than it
runs them. A graph runs again on the addresses it was capture on. Images and labels are therefore
copied into buffers before each replay, and random numbers come from one generator that the graph
knows of (`register_generator_state`): set to the minibatch's own stream before a replay, it gives
the numbers that the ordinary step draws. One graph for each kind of minibatch: a method says after
how many the kinds repeat (`Method.period`).

Outside the graph stay: the average, the sums of figures, the position. Written into it: the
learning rate, which changes only with fresh state (after a rollback), and they get fresh graphs.

The trial holds replayed steps to ordinary ones on copies of the networks before any training relies
on them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from gan_core.errors import WorkError
from gan_core.randomness import derive_seed
from gan_core.training.checkpoint import Position
from gan_core.training.compiled import first_line, refuse_lost_device
from gan_core.training.context import Context
from gan_core.training.logging import Figures, weight_norm
from gan_core.training.step import prepare
from gan_core.training.trainer_state import TrainerState

logger = logging.getLogger(__name__)

ROUNDS = 4  # times that the trial meets each kind of minibatch
# times the difference between two ordinary trainings that a replayed one may have to an ordinary
# one
NOISE = 10.0
# Bounds of that allowance, as a share of how far the weights moved; planted faults differ by more
# (tests). Where two ordinary trainings
# differ by more than that already, twice their difference: a GPU whose kernels add in any order is
# no reason to go without graphs.
LEAST, MOST = 0.01, 0.2

Minibatch = tuple[Tensor, Tensor | None]  # pixels uint8 [n, S, S, 3], labels int64 [n] or None


class Step(Protocol):
    """`loop.step`."""

    def __call__(
        self,
        state: TrainerState,
        context: Context,
        pixels: Tensor,
        labels: Tensor | None,
        random: torch.Generator | None = None,
    ) -> None: ...


Capture = Callable[[Callable[[], None], torch.Generator], Callable[[], None]]


def capture(work: Callable[[], None], random: torch.Generator) -> Callable[[], None]:
    """Records what `work` launches without running it. Args: random: the generator it draws from.
    Returns: runs it.
    """
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(random)
    stream = side_stream(str(random.device))
    gc.collect()  # nothing of an older graph may be freed in the middle of recording
    # thread_local: a thread that reads images ahead may go on pinning memory. The outer `with`
    # gives the stream back on an error, too.
    with (
        torch.cuda.stream(stream),
        torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
    ):
        work()
    return graph.replay


@functools.cache
def side_stream(device: str) -> torch.cuda.Stream:
    """The one stream of a device on which steps are tried and capture: the libraries keep their
    workspaces by stream.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def on_side_stream(device: str) -> Iterator[None]:
    """On a GPU: its side stream is the current one within, after all that came before and before
    all that comes after.
    """
    if not device.startswith("cuda"):
        yield
        return
    stream = side_stream(str(torch.zeros((), device=device).device))
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream):
        yield
    torch.cuda.synchronize(device)


class CapturedSteps:
    """Steps of a training by replay; called like `step` with a minibatch of always the same shape.

    Args:
        state: what is trained; nothing of it moves before the first call.
        step: the ordinary step.
        example: a minibatch on the device; only shapes count.
        record: makes a replay of what a function launches; on a CPU a test passes one that runs the
            function.
    Raises: what recording raises; WorkError: the method does not say when its kinds of minibatches
        repeat.
    """

    def __init__(
        self,
        state: TrainerState,
        context: Context,
        step: Step,
        example: Minibatch,
        record: Capture = capture,
    ) -> None:
        self._parts, self._setting, self._step = state, context, step
        pixels, labels = example
        self._pixels = torch.zeros_like(pixels)
        self._labels = None if labels is None else torch.zeros_like(labels)
        self._random = torch.Generator(device=pixels.device)
        # One stand-in for the state for each kind: same networks and optimisers, position and
        # figures of one minibatch alone.
        self._kinds = [replace(state) for _ in range(period(state))]
        self._replays = [
            record(partial(self._run, kind), self._random) for kind in range(len(self._kinds))
        ]

    def _run(self, kind: int) -> None:
        stand_in = self._kinds[kind]
        stand_in.position, stand_in.figures = Position(index=kind), Figures()
        self._step(stand_in, self._setting, self._pixels, self._labels, self._random)

    def __call__(self, pixels: Tensor, labels: Tensor | None) -> None:
        """One minibatch: what `step` does with it."""
        at = self._parts.position
        self._pixels.copy_(pixels, non_blocking=True)
        if self._labels is not None and labels is not None:
            self._labels.copy_(labels, non_blocking=True)
        prepare(self._parts, self._setting)
        self._random.manual_seed(derive_seed(self._setting.seed, "batch", at.index, at.attempt))
        kind = at.index % len(self._kinds)
        self._replays[kind]()
        done = self._kinds[kind]
        self._parts.figures.add(done.figures.sums)
        for name, times in done.figures.counts.items():
            self._parts.figures.counts[name] += times - 1
        for name, times in done.position.updates.items():
            at.updates[name] = at.updates.get(name, 0) + times
        at.images += done.position.images
        at.index += 1


def period(state: TrainerState) -> int:
    """Minibatches after which a method's kinds of updates repeat."""
    found = int(getattr(state.method, "period", 0))
    if found < 1:
        raise WorkError(
            f"The method {type(state.method).__module__} does not say after how many minibatches "
            "its updates repeat",
            expected="an attribute `period` of its Method (gan_core/methods/base.py)",
        )
    return found


def make_step(
    state: TrainerState, context: Context, step: Step, shape: tuple[int, int, int], labelled: bool
) -> tuple[Callable[[Tensor, Tensor | None], None], Context]:
    """How `state` take a minibatch, and the context that says so: by replay where the context has
    graphs and they can be captured.

    Args: shape: (S, S, 3) of an image; labelled: whether minibatches carry labels.
    """
    if context.compiled != "graphs":
        return partial(step, state, context), context
    batch = context.settings.batch
    try:
        pixels = torch.zeros((batch, *shape), dtype=torch.uint8, device=context.device)
        labels = torch.zeros(batch, dtype=torch.int64, device=context.device) if labelled else None
        return CapturedSteps(state, context, step, (pixels, labels)), context
    except Exception as error:
        refuse_lost_device(context.device, error)
        for name in state.optimisers:
            for parameter in state.parameters(name):
                parameter.grad = None  # what broke off may have left gradients behind
        logger.warning(
            "The step could not be captured as a CUDA graph: %s. Training runs without.",
            first_line(error),
        )
        without = replace(context, compiled="off")
        return partial(step, state, without), without


def trial(
    make: Callable[[], TrainerState],
    context: Context,
    step: Step,
    batches: Sequence[Minibatch],
    record: Capture = capture,
) -> None:
    """Trains three fresh copies for a few minibatches, two by ordinary steps and one by replay, and
    compares where they come out.

    Args: make: builds state, each time the same. batches: on the device, a multiple of the method's
        period.
    Raises: WorkError: replayed steps go elsewhere. Also whatever recording raises.
    """
    ordinary, again, other = make(), make(), make()
    start = {
        name: [p.detach().clone() for p in ordinary.parameters(name)]
        for name in ordinary.optimisers
    }
    with on_side_stream(
        context.device
        # in ordinary steps on the side stream the libraries choose their kernels and take their
        # workspaces
    ):
        for state in (ordinary, again):
            for pixels, labels in batches:
                step(state, context, pixels, labels)
    steps = CapturedSteps(other, context, step, batches[0], record)
    for pixels, labels in batches:
        steps(pixels, labels)
    compare(ordinary, again, other, start)


def compare(
    ordinary: TrainerState, again: TrainerState, other: TrainerState, start: dict[str, list[Tensor]]
) -> None:
    """WorkError when `other` is farther from `ordinary` than two ordinary trainings of the same
    minibatches may be.

    Kernels may add in any order, and Adam's first steps turn a changed last bit of a gradient into
    a whole step the other way.
    """
    if (ordinary.position, ordinary.figures.counts) != (other.position, other.figures.counts):
        raise WorkError("replayed steps count other updates than ordinary ones")
    for name in ordinary.optimisers:
        noise, found = (deviation(ordinary, state, name, start[name]) for state in (again, other))
        allowed = min(max(LEAST, NOISE * noise), max(MOST, 2 * noise))
        logger.info(
            "Replayed steps of the %s differ by %.2g of their way, ordinary ones by %.2g.",
            name,
            found,
            noise,
        )
        if not found <= allowed:  # a NaN is no agreement either
            raise WorkError(
                f"replayed steps of the {name} differ from ordinary ones by {found:.1%} of their "
                "way"
            )
    for name, value in ordinary.figures.means().items():
        mean = float(other.figures.means()[name])
        if not abs(mean - float(value)) <= 0.02 + 0.05 * abs(float(value)):
            raise WorkError(
                f"replayed steps give {mean:.4g} for {name}, ordinary ones {float(value):.4g}"
            )


@torch.no_grad()
def deviation(ordinary: TrainerState, other: TrainerState, name: str, start: list[Tensor]) -> float:
    """Distance between the weights of two trainings over the distance that the first has gone from
    `start`.
    """
    mine, theirs = ([p.detach() for p in state.parameters(name)] for state in (ordinary, other))
    apart, gone = (weight_norm(list(torch._foreach_sub(mine, ends))) for ends in (theirs, start))
    return float(apart / gone)
