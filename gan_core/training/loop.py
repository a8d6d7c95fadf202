"""The training loop: one function, top to bottom. It knows no method by name.

For each minibatch: the updates that the method asks for, the averages, and, at places fixed in
kimg, a line of statistics, grids of images, a snapshot for users, a checkpoint. Everything random
is a function of (seed, minibatch), so the state is weights, optimisers and a few numbers; killed
anywhere and started again, a training on a CPU ends in the same weights bit for bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gan_core.progress import Progress, silent
from gan_core.training import checkpoint, cuda_graphs, data, divergence
from gan_core.training import logging as record
from gan_core.training.compiled import choose_compile
from gan_core.training.context import Context, Trained
from gan_core.training.distributed import Deadline, Processes, synchronise_norms
from gan_core.training.hooks import (
    Checkpointer,
    draw_grid,
    grid_every,
    handle_findings,
    log_interval,
    save_snapshot,
)
from gan_core.training.logging import crossed, reached
from gan_core.training.step import step
from gan_core.training.trainer_state import GRID, Real, TrainerState, build, sample_real
from gan_core.vision.tensors import to_float

logger = logging.getLogger(__name__)

COMPARED = 256  # real images whose variation the generator's is compared with


def train(
    images: data.ImageSet,
    context: Context,
    *,
    labels: npt.NDArray[np.int64] | None = None,
    progress: Progress = silent,
    each_log: Callable[[TrainerState, dict[str, Any]], None] | None = None,
) -> Trained:
    """Trains from the newest checkpoint in the folder to `settings.kimg`.

    Args:
        images: the training set; labels: [n], only for methods that use them.
        each_log: called after each line of statistics; may add to it.
    """
    s, me = context.settings, context.processes
    if labels is not None:
        context = replace(context, classes=int(labels.max()) + 1)
    deadline, target = Deadline(context.max_seconds, time.monotonic(), me), round(s.kimg * 1000)
    how = choose_compile(s, context.device, me.count, partial(trial, images, context, labels))
    context = replace(context, compiled="off" if me.any(how == "off") else how)
    state = restore_or_build(context, sample_real(images, labels, context.seed), target)
    make_step = partial(
        cuda_graphs.make_step, step=step, shape=images.shape, labelled=labels is not None
    )
    take_step, context = make_step(state, context)
    pace = record.Pace(state.position)  # after the trial of graphs: rates are of training
    board = record.Board(context.folder / "tensorboard", pace.first) if me.first else None
    feed = data.Feed(
        images,
        s.batch,
        seed=context.seed,
        device=context.device,
        share=(me.rank, me.count),
        here=me.here,
        labels=labels,
    )
    batches = feed.batches(state.position.index * s.batch)
    checkpointer = Checkpointer(context, pace.first)
    if pace.first == 0:
        draw_grid(state, context, board, 0.0)
    complete = pace.first >= target
    while not complete:
        # Update: the method says what this minibatch feeds
        at, was = state.position, state.position.images
        take_step(*next(batches))
        complete = at.images >= target
        for average in state.averages.values():
            if at.images > was:
                average.update(at.images, at.images - was)
        # Log, and monitor for divergence
        logged, clean = crossed(was, at.images, s.log_kimg) or complete, False
        if logged:
            found, clean = log_interval(state, context, board, was, pace.interval(at), each_log)
            if handle_findings(state, context, found, board):
                checkpointer.wait()
                state, complete = roll_back(state, context), False
                take_step, context = make_step(state, context)
                batches = feed.batches(state.position.index * s.batch)
                pace.restart(state.position.images)
                checkpointer.restart(state.position.images)
                continue
        # Sample
        if crossed(was, at.images, grid_every(s)) or complete:
            place = s.kimg if complete else reached(at.images, grid_every(s))
            draw_grid(state, context, board, place)
        if crossed(was, at.images, s.snapshot_kimg):
            save_snapshot(state, context, reached(at.images, s.snapshot_kimg))
        # Save
        out_of_time = deadline.over()
        checkpointer.update(state, was, logged=logged, clean=clean, last=complete or out_of_time)
        progress(at.images / 1000, s.kimg, "kimg", **pace.figures(at.images, target))
        if out_of_time:
            break
    if complete:
        save_snapshot(state, context, s.kimg)
    if board is not None:
        board.close()
    checkpointer.wait()
    me.barrier()
    return Trained(
        state,
        complete,
        stats=checkpoint.read_stats(context.folder, state.position.images),
        products=[context.folder / "products" / name for name in dict.fromkeys(state.products)],
        started_at=pace.first,
        seconds=pace.seconds(),
        compiled=context.compiled,
        findings=state.findings,
    )


def restore_or_build(
    context: Context, real: Real, target: int, *, good: bool = False
) -> TrainerState:
    """The state of the newest (good) checkpoint at or before `target` images, or a fresh one.

    The first process decides, and the others take all that it has: where they stand is one place,
    whatever each of them finds in the folder, and weights that a network's constructor draws
    without a seed are the same everywhere.
    """
    (context.folder / "products").mkdir(parents=True, exist_ok=True)
    state = new_state(context)
    if context.settings.synchronise_norms:
        synchronise_norms(state.networks.values(), context.processes)
    state.real = real
    some = to_float(real.pixels[:COMPARED])
    state.monitor.real_variation = float(divergence.variation(some))
    state.monitor.real_contrast = float(divergence.contrast(some))
    few = some[:: max(1, len(some) // GRID)][:GRID]
    state.monitor.real_spacing = float(divergence.spacing(few))
    me = context.processes
    found = checkpoint.load_state(context.folder, target, good=good) if me.first else None
    if me.broadcast(found is not None):
        logger.info(
            "Training continues from the checkpoint at %.1f kimg.",
            found[0].images / 1000 if found else 0.0,
        )
    if found is not None or me.count > 1:
        position, tensors, extra = found or (state.position, state.tensors(), state.extra())
        sent = me.broadcast([asdict(position), extra])
        state.restore(checkpoint.Position(**sent[0]), me.broadcast_tensors(tensors), sent[1])
    return state


def new_state(context: Context) -> TrainerState:
    """Networks as a method makes them, and their optimisers."""
    return build(
        context.settings,
        seed=context.seed,
        device=context.device,
        image_size=context.image_size,
        classes=context.classes,
        start=context.start,
    )


def trial(images: data.ImageSet, context: Context, labels: npt.NDArray[np.int64] | None) -> None:
    """A few minibatches by graphs on networks of their own, until captured steps of each kind are
    replayed: raises what that raises, and leaves nothing behind.
    """
    count = context.settings.batch // context.processes.count
    settings = context.settings.model_copy(update={"batch": count})
    alone = replace(context, settings=settings, processes=Processes(), compiled="graphs")
    make = partial(new_state, alone)
    batches = []
    for number in range(cuda_graphs.ROUNDS * cuda_graphs.period(make())):
        rows = np.arange(number * count, (number + 1) * count) % len(images)
        some = None if labels is None else torch.from_numpy(labels[rows]).to(context.device)
        batches.append((torch.from_numpy(images.pixels(rows)).to(context.device), some))
    cuda_graphs.trial(make, alone, step, batches)


def roll_back(state: TrainerState, context: Context) -> TrainerState:
    """The state of the last good checkpoint, with other random streams and half the learning rate
    from there on.

    A checkpoint written because time was over may hold what the next check would have found: it is
    not a good one.
    """
    attempt, findings = state.position.attempt + 1, state.findings
    state = restore_or_build(context, state.real, state.position.images - 1, good=True)
    limit = state.position.images
    state.position.attempt, state.findings = attempt, findings
    if context.processes.first:
        checkpoint.forget_after(context.folder, limit)
    logger.warning(
        "Training goes back to %.1f kimg, from there at half the learning rate.", limit / 1000
    )
    context.processes.barrier()
    return state
