"""The training loop: one function, top to bottom. It knows no method by name.

For each minibatch: the updates that the method asks for, the average, and, at places fixed in kimg,
a line of statistics, a grid of samples, a snapshot for users, the state for resuming. Everything
random is a function of (seed, minibatch), so the state is weights, optimisers and a few numbers;
killed anywhere and started again, a training on a CPU ends in the same weights bit for bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_core.config import TrainConfig
from gan_core.errors import TrainingDiverged
from gan_core.methods.base import Base
from gan_core.networks import snapshot as snapshots
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import batch_statistics
from gan_core.progress import Progress, silent
from gan_core.training import checkpoint as state
from gan_core.training import cuda_graphs as graphs
from gan_core.training import data, divergence
from gan_core.training import logging as record
from gan_core.training.compiled import COMPILED, compile_networks, compiling
from gan_core.training.context import Setting
from gan_core.training.distributed import Deadline, Processes, synchronise_norms
from gan_core.training.logging import crossed, reached
from gan_core.training.step import step
from gan_core.training.trainer_state import (
    GRID,
    Parts,
    Real,
    build,
    calibrated,
    plain_copies,
    some_real,
)
from gan_core.vision.tensors import to_float

logger = logging.getLogger(__name__)

WATCHING = {
    "kimg",
    "log_kimg",
    "grid_kimg",
    "snapshot_kimg",
    "state_kimg",
    "probe_kimg",
}  # settings that change no weight
ROLLBACKS = 3  # times that training goes back before it gives up
SOME = 256  # real images whose variation the generator's is compared with
# between two saved states at most, at the next line of statistics, whatever `state_kimg` says
STATE_SECONDS = 300.0
GRIDS = 6  # sample grids over a training when the settings do not say


@dataclass
class Trained:
    """How a training ended.

    Attributes:
        complete: False when time ran out.
        stats: the lines of stats.jsonl.
        products: snapshots and grids of this training, a longer one may have left others beside
            them.
        started_at: images at which this start took over; seconds: what it took.
        compiled: 'off', 'graphs', 'on' or 'reduce-overhead': how the steps ran.
        findings: signs of divergence: {kimg, sign, sentence}, those that were rolled back included.
    """

    parts: Parts
    complete: bool
    stats: list[dict[str, Any]]
    products: list[Path]
    started_at: int = 0
    seconds: float = 0.0
    compiled: str = "off"
    findings: list[dict[str, Any]] = field(default_factory=list)


def train(
    images: data.ImageSet,
    setting: Setting,
    *,
    labels: npt.NDArray[np.int64] | None = None,
    progress: Progress = silent,
    each_log: Callable[[Parts, dict[str, Any]], None] | None = None,
) -> Trained:
    """Trains from the newest state in the folder to `settings.kimg`.

    Args:
        images: the training set; labels: [n], only for methods that use them.
        each_log: called after each line of statistics; may add to it.
    """
    s, me = setting.settings, setting.processes
    deadline, target = Deadline(setting.max_seconds, time.monotonic(), me), round(s.kimg * 1000)
    how = compiling(s, setting.device, me.count, partial(trial, images, setting, labels))
    how = "off" if me.agree(how == "off") else how
    setting = replace(setting, compiled=how)
    real = some_real(images, labels, setting.seed)
    parts = begin(setting, real, target)
    take, setting = graphs.stepping(parts, setting, step, images.shape, labels is not None)
    before, first = parts.position.seconds, parts.position.images
    started = last_time = (
        time.monotonic()
    )  # after the trial of the compiler: rates are those of training
    last_log, last_save, saved_at = first, first, started
    board = record.Board(setting.folder / "tensorboard", first) if me.first else None
    feed = data.Feed(
        images,
        s.batch,
        seed=setting.seed,
        device=setting.device,
        share=(me.rank, me.count),
        here=me.here,
        labels=labels,
    )
    batches = feed.batches(parts.position.index * s.batch)
    saver = state.Saver(setting.folder, aside=setting.device.startswith("cuda"))
    if first == 0:
        draw_grid(parts, setting, board, 0.0)
    complete = first >= target
    while not complete:
        at = parts.position
        # Update: the method says what this minibatch feeds
        was = at.images
        take(*next(batches))
        complete = at.images >= target
        # Average
        for average in parts.averages.values():
            if at.images > was:
                average.update(at.images, at.images - was)
        # Log, and look for divergence
        logged = crossed(was, at.images, s.log_kimg) or complete
        if logged:
            now = time.monotonic()
            rate = (at.images - last_log) / max(now - last_time, 1e-9)
            last_time, last_log, at.seconds = now, at.images, before + now - started
            line = log_line(parts, setting, rate)
            if each_log is not None:
                each_log(parts, line)
            if crossed(was, at.images, s.log_kimg):
                at.line = at.images
            if board is not None:
                state.append_stats(setting.folder, line)
                board.scalars(line, at.images)
            found, clean = look(parts, setting, line)
            if judge(parts, setting, found, board):
                saver.wait()
                parts = go_back(parts, setting)
                take, setting = graphs.stepping(
                    parts, setting, step, images.shape, labels is not None
                )
                batches, complete, last_log = (
                    feed.batches(parts.position.index * s.batch),
                    False,
                    parts.position.images,
                )
                last_save = last_log
                continue
        # Sample
        if crossed(was, at.images, grid_every(s)) or complete:
            draw_grid(
                parts, setting, board, s.kimg if complete else reached(at.images, grid_every(s))
            )
        if crossed(was, at.images, s.snapshot_kimg):
            save_snapshot(parts, setting, reached(at.images, s.snapshot_kimg))
        # Save: what has just been looked at and found good; else only to resume from. A rollback
        # must come back to a place in kimg
        late = (
            logged
            and s.on_divergence != "rollback"
            and me.tell(time.monotonic() - saved_at > STATE_SECONDS)
        )
        at.due = at.due or late or crossed(was, at.images, s.state_kimg)
        out_of_time = deadline.over()
        good = logged and clean and (at.due or complete)
        held = (
            logged and at.due and (late or at.images - last_save >= s.state_kimg * 1000)
        )  # while a sign lasts
        if good or held or complete or out_of_time:
            at.due, last_save, saved_at = at.due and not good, at.images, time.monotonic()
            save(parts, setting, saver, good=good)
        pace = max(at.images - first, 1) / max(time.monotonic() - started, 1e-9)
        left = max(target - at.images, 0) / pace / 60
        progress(at.images / 1000, s.kimg, "kimg", images_per_second=pace, minutes_left=left)
        if out_of_time:
            break
    if complete:
        save_snapshot(parts, setting, s.kimg)
    if board is not None:
        board.close()
    saver.wait()
    me.wait()
    made = [setting.folder / "products" / name for name in dict.fromkeys(parts.products)]
    stats = state.read_stats(setting.folder, parts.position.images)
    return Trained(
        parts,
        complete,
        stats,
        made,
        first,
        time.monotonic() - started,
        setting.compiled,
        parts.findings,
    )


def grid_every(settings: TrainConfig) -> float:
    """kimg between sample grids."""
    return settings.grid_kimg or settings.kimg / (GRIDS - 1)


def begin(setting: Setting, real: Real, target: int, *, good: bool = False) -> Parts:
    """Parts as the newest (good) state at or before `target` images has them, or fresh ones.

    The first process decides, and the others take all that it has: where they stand is one place,
    whatever each of them finds in the folder, and weights that a network's constructor draws
    without a seed are the same everywhere.
    """
    (setting.folder / "products").mkdir(parents=True, exist_ok=True)
    s = setting.settings
    parts = build(
        s,
        seed=setting.seed,
        device=setting.device,
        image_size=setting.image_size,
        classes=setting.classes,
    )
    if s.synchronise_norms:
        synchronise_norms(parts.networks.values(), setting.processes)
    if setting.compiled in COMPILED:
        compile_networks(parts.networks.values(), setting.compiled)
    parts.real = real
    some = to_float(real.pixels[:SOME])
    parts.watch.real_variation = float(divergence.variation(some))
    parts.watch.real_contrast = float(divergence.contrast(some))
    parts.watch.real_spacing = float(divergence.spacing(some[:: max(1, len(some) // GRID)][:GRID]))
    me = setting.processes
    found = state.load_state(setting.folder, target, good=good) if me.first else None
    if me.tell(found is not None):
        logger.info(
            "Training continues from the state at %.1f kimg.",
            found[0].images / 1000 if found else 0.0,
        )
    if found is not None or me.count > 1:
        position, tensors, extra = found or (parts.position, parts.tensors(), parts.extra())
        told = me.tell([asdict(position), extra])
        parts.restore(state.Position(**told[0]), me.spread(tensors), told[1])
    return parts


def trial(
    images: data.ImageSet, setting: Setting, labels: npt.NDArray[np.int64] | None, how: str
) -> None:
    """A few minibatches with networks of its own in the way `how`, until recorded steps are
    replayed, each kind of them: raises what that raises, and leaves nothing behind.

    A process tries its own share of a batch, by itself: its networks are compiled for that size.
    """
    count = setting.settings.batch // setting.processes.count
    alone = replace(
        setting,
        settings=setting.settings.model_copy(update={"batch": count}),
        processes=Processes(),
        compiled=how,
    )
    make = partial(
        build,
        alone.settings,
        seed=setting.seed,
        device=setting.device,
        image_size=setting.image_size,
        classes=setting.classes,
    )
    parts = make()
    batches = []
    for number in range(graphs.ROUNDS * int(getattr(parts.method, "period", 1))):
        rows = np.arange(number * count, (number + 1) * count) % len(images)
        some = None if labels is None else torch.from_numpy(labels[rows]).to(setting.device)
        batches.append((torch.from_numpy(images.pixels(rows)).to(setting.device), some))
    if how == "graphs":
        graphs.trial(make, alone, step, batches)
        return
    compile_networks(parts.networks.values(), how)
    for pixels, some in batches:
        step(parts, alone, pixels, some)


def look(
    parts: Parts, setting: Setting, line: dict[str, Any]
) -> tuple[list[divergence.Finding], bool]:
    """What the first process finds in a line of statistics, and whether that is nothing at all;
    every process goes by it.
    """
    found = [finding.as_json() for finding in parts.watch.look(line)]
    told, clean = setting.processes.tell([found, parts.watch.clean])
    return [divergence.Finding(**finding) for finding in told], bool(clean)


def judge(
    parts: Parts, setting: Setting, found: list[divergence.Finding], board: record.Board | None
) -> bool:
    """Records what was found; True when training has to go back.

    Raises: TrainingDiverged: the settings say stop, or going back has not helped; what the
        generator draws by then is in a last grid.
    """
    for finding in found:
        logger.warning("At %.1f kimg %s.", finding.kimg, finding.sentence)
        parts.findings.append(finding.as_json())
    how = setting.settings.on_divergence
    if how == "rollback" and found and parts.position.attempt < ROLLBACKS:
        return True
    stopping = {"nan"} if how == "warn" else divergence.STOPPING
    grave = [finding for finding in found if finding.sign in stopping or how == "rollback"]
    if grave:
        finding = grave[0]
        draw_grid(parts, setting, board, finding.kimg)
        tried = (
            f", after going back {parts.position.attempt} times" if parts.position.attempt else ""
        )
        raise TrainingDiverged(
            f"Training diverged at {finding.kimg:g} kimg{tried}: {finding.sentence}.",
            remedy=divergence.remedy(finding.sign, setting.settings)
            + (
                ""
                if how == "rollback"
                else (
                    "; or --set train.on_divergence=rollback to go back to the last good state "
                    "by itself"
                )
            ),
        )
    return False


def go_back(parts: Parts, setting: Setting) -> Parts:
    """Parts as the last good state has them, with other random streams and half the learning rate
    from there on.

    A state that was saved because time was over may hold what the next look would have found: it is
        no good one.
    """
    attempt, findings = parts.position.attempt + 1, parts.findings
    parts = begin(setting, parts.real, parts.position.images - 1, good=True)
    limit = parts.position.images
    parts.position.attempt, parts.findings = attempt, findings
    if setting.processes.first:
        state.forget_after(setting.folder, limit)
    logger.warning(
        "Training goes back to %.1f kimg, from there at half the learning rate.", limit / 1000
    )
    setting.processes.wait()
    return parts


def log_line(parts: Parts, setting: Setting, rate: float) -> dict[str, Any]:
    """Means over the interval just ended, over all processes; the host waits for the device once,
    at its end.
    """
    at = parts.position
    line: dict[str, Any] = {
        "kimg": at.images / 1000,
        "images": at.images,
        "minibatches": at.index,
        "images_per_second": rate,
    }
    line |= {f"updates_{name}": count for name, count in at.updates.items()}
    figures = parts.figures.means()
    if figures:
        figures = dict(
            zip(figures, setting.processes.mean(torch.stack(list(figures.values()))), strict=True)
        )
    for name in parts.optimisers:
        figures[f"weight_norm_{name}"] = record.weight_norm(
            [p.detach() for p in parts.parameters(name)]
        )
    parts.figures.clear()
    if "generator" in parts.networks:
        images = grid_images(parts, parts.networks["generator"])
        figures["variation"] = divergence.variation(images)
        figures["spacing"] = divergence.spacing(images)
        figures["oscillation"] = divergence.oscillation(images)
        figures["contrast"] = divergence.contrast(images) / parts.watch.real_contrast
    figures |= divergence.layer_sigmas(parts.networks)
    return line | dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))


@torch.no_grad()
def grid_images(parts: Parts, network: LayeredNetwork) -> Tensor:
    """Images of the 64 fixed latents, with the batch statistics of these 64 (as the authors
    sample).
    """
    labels = snapshots.grid_labels(parts.prior, len(parts.grid_latents))
    with batch_statistics(network):
        z = parts.grid_latents.to(parts.device)
        return network.forward(z, None if labels is None else labels.to(parts.device))


@torch.no_grad()
def draw_grid(parts: Parts, setting: Setting, board: record.Board | None, place: float) -> None:
    """Writes the samples of the fixed latents, and the method's own grids, of as many real images.
    Args: place: in kimg.
    """
    sheets: dict[str, Tensor] = {}
    network = parts.best_generator()
    if network is not None:
        sheets["grid"] = grid_images(parts, network)
    if type(parts.method).grids is not Base.grids:
        real = to_float(parts.real.pixels[: GRID // 2].to(parts.device))
        method, copies = plain_copies(parts)
        for norm in (norm for copy in copies.values() for norm in copy.norms().values()):
            norm.training, norm.track = True, False
        sheets |= method.grids(real, parts.grid_latents[: len(real)].to(parts.device))
    for kind, images in sheets.items():
        name = record.grid_name(place, kind)
        parts.products.append(name)
        if board is not None:
            sheet = record.tile(images.float().cpu())
            record.write_png(setting.folder / "products" / name, sheet)
            board.grid(sheet, parts.position.images, "samples" if kind == "grid" else kind)


def save(parts: Parts, setting: Setting, saver: state.Saver, *, good: bool) -> None:
    """Writes the state for resuming (first process only). Args: good: whether a rollback may come
    back to it.
    """
    parts.figures.share(setting.processes.mean)
    if setting.processes.first:
        saver.save(parts.position, parts.tensors(), {**parts.extra(), "good": good})


def save_snapshot(parts: Parts, setting: Setting, place: float) -> None:
    """Writes a snapshot for users (first process only). Args: place: the one it was asked for, in
    kimg.
    """
    name = snapshots.snapshot_name(place)
    parts.products.append(name)
    if setting.processes.first:
        write_snapshot(parts, setting, setting.folder / "products" / name)


def write_snapshot(parts: Parts, setting: Setting, path: Path) -> None:
    """Writes the networks as they are now as a snapshot."""
    s, at = setting.settings, parts.position
    networks = calibrated(parts, seed=setting.seed, batch=s.batch)
    meta = {
        "network": parts.spec,
        "prior": {
            "distribution": parts.prior.distribution,
            "dim": parts.prior.dim,
            "classes": parts.prior.classes,
        },
        "method": s.method,
        "options": parts.method.options.model_dump(mode="json"),
        "kimg": at.images / 1000,
        "updates": at.updates,
        "precision": setting.precision,
        "seed": setting.seed,
        "rollbacks": at.attempt,
        "settings": s.model_dump(
            mode="json", exclude=WATCHING | {"compile"}, exclude_defaults=True
        ),
    }
    saw = (
        "training" if parts.method_uses_labels else "validation" if s.choose == "best_probe" else ""
    )
    if saw:
        meta["saw_labels"] = saw
    if setting.compiled != "off":
        meta["compiled"] = setting.compiled
    snapshots.write_snapshot(path, networks, parts.grid_latents, meta)
