"""Steps by replay: what surrounds a CUDA graph (buffers, random streams, counts, kinds of
minibatches, the trial), with a function that is run again in the graph's place. The graphs
themselves: test_training_cuda.py, on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_core.config import TrainConfig
from gan_core.errors import WorkError
from gan_core.training import cuda_graphs as graphs
from gan_core.training.context import Context
from gan_core.training.cuda_graphs import CapturedSteps, Minibatch, trial
from gan_core.training.step import step
from gan_core.training.trainer_state import TrainerState, build

BASE: dict[str, Any] = {"network": {"width": 0.125}, "batch": 16, "flip": True, "compile": "graphs"}
ALL = {"options": {"augment": ["color", "translation", "cutout"], "r1": 1.0, "spectral_norm": True}}
CONDITIONAL = {"options": {"mode": "paper"}, "network": {"name": "dcgan28_mnist", "width": 0.125}}


def again(work: Callable[[], None], random: torch.Generator) -> Callable[[], None]:
    """In the place of a graph: what a function launches, run once more."""
    return work


def prepared(
    tmp_path: Path, count: int = 8, **options: Any
) -> tuple[Context, Callable[[], TrainerState], list[Minibatch]]:
    settings = TrainConfig(**{**BASE, **options})
    size = 28 if "network" in options else 32
    context = Context(settings, tmp_path, size, compiled="graphs")
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, 16, size, size, 3), np.uint8)
    )
    labels = torch.arange(16) % 10 if size == 28 else None
    return (
        context,
        lambda: build(settings, seed=3, device="cpu", image_size=size, classes=10),
        [(batch, labels) for batch in pixels],
    )


@pytest.mark.parametrize(
    "options",
    [{"options": {"mode": "paper"}}, {}, ALL, CONDITIONAL],
    ids=["paper", "modern", "options", "conditional"],
)
def test_replayed_steps_are_the_steps_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    context, make, batches = prepared(tmp_path, 6, **options)
    ordinary, other = make(), make()
    for state in (ordinary, other):  # resumed in the middle, after a rollback
        state.position.index, state.position.images, state.position.attempt = 7, 112, 1
    steps = CapturedSteps(other, context, step, batches[0], again)
    for pixels, labels in batches:
        step(ordinary, context, pixels, labels)
        steps(pixels.clone(), labels)
    assert ordinary.position == other.position and ordinary.position.index == 13
    assert ordinary.extra() == other.extra()
    mine, theirs = ordinary.tensors(), other.tensors()
    assert mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) for name in mine
    )


@pytest.mark.parametrize("mode", ["paper", "modern"])
def test_the_trial_passes_what_is_right_and_finds_what_is_not(tmp_path: Path, mode: str) -> None:
    context, make, batches = prepared(tmp_path, options={"mode": mode})
    trial(make, context, step, batches, again)

    def stale_random(work: Callable[[], None], random: torch.Generator) -> Callable[[], None]:
        return lambda: (random.manual_seed(0), work())[1]

    def lost(work: Callable[[], None], random: torch.Generator) -> Callable[[], None]:
        calls: list[int] = []
        return lambda: (
            calls.append(1) if len(calls) == 2 else (calls.append(1), work())[1]
        )  # one replay does nothing

    def half_the_rate(state: TrainerState, context: Context, *rest: Any) -> None:
        if len(rest) == 3:  # as it is captured
            for optimiser in state.optimisers.values():
                optimiser.rate.fill_(1e-4)
        step(state, context, *rest)

    def stale_pixels(
        state: TrainerState, context: Context, pixels: Any, labels: Any, random: Any = None
    ) -> None:
        step(
            state,
            context,
            torch.full_like(pixels, 9) if random is not None else pixels,
            labels,
            random,
        )

    for record, make_step in (
        (stale_random, step),
        (lost, step),
        (again, half_the_rate),
        (again, stale_pixels),
    ):
        with pytest.raises(WorkError, match="replayed steps") as caught:
            trial(make, context, make_step, batches, record)
        print(mode, record.__name__, getattr(make_step, "__name__", ""), caught.value.message)


@pytest.mark.parametrize(
    ("noise", "found", "passes"),
    [
        (0.0, 0.009, True),
        (0.001, 0.05, False),
        (0.01, 0.09, True),
        (0.1, 0.21, False),
        (0.3, 0.5, True),
        (0.3, 0.7, False),
    ],
)
def test_how_far_replayed_steps_may_be_from_ordinary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: float, found: float, passes: bool
) -> None:
    """Where kernels add in any order, ordinary steps differ among themselves by as much."""
    _, make, _ = prepared(tmp_path)
    ordinary, again, other = make(), make(), make()
    monkeypatch.setattr(
        graphs, "deviation", lambda _, state, *rest: noise if state is again else found
    )
    with contextlib.nullcontext() if passes else pytest.raises(WorkError, match=f"{found:.1%}"):
        graphs.compare(ordinary, again, other, dict.fromkeys(ordinary.optimisers, []))


def test_a_method_that_does_not_say_its_period_is_refused(tmp_path: Path) -> None:
    context, make, batches = prepared(tmp_path)
    state = make()
    state.method.period = 0
    with pytest.raises(WorkError, match=r"dcgan does not say after how many"):
        CapturedSteps(state, context, step, batches[0], again)
