"""What the training loop does between steps: statistics, the divergence monitor, grids, snapshots,
checkpoints.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_core.config import TrainConfig
from gan_core.errors import TrainingDiverged
from gan_core.files import atomic_write_bytes
from gan_core.methods.base import Base
from gan_core.networks import snapshot as snapshots
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import batch_statistics
from gan_core.randomness import torch_stream
from gan_core.training import checkpoint, divergence
from gan_core.training import logging as record
from gan_core.training.context import REPORTING, Context
from gan_core.training.logging import crossed
from gan_core.training.trainer_state import GRID, TrainerState, calibrated, plain_copies
from gan_core.vision.sheets import encode_png
from gan_core.vision.tensors import to_float

logger = logging.getLogger(__name__)

ROLLBACKS = 3  # times that training goes back before it gives up
# between two checkpoints at most, at the next line of statistics, whatever `state_kimg` says
CHECKPOINT_SECONDS = 300.0
DIAGNOSED = 256  # samples that a method's figures are of
GRIDS = 6  # sample grids over a training when the settings do not say


class Checkpointer:
    """Writes the state for resuming. It is due every `state_kimg` and written at the next line of
    statistics.

    A state written where the monitor found nothing is good: a rollback may return to it. While a
    sign lasts, and when time is over, states are written to resume from only.
    """

    def __init__(self, context: Context, images: int) -> None:
        self._context = context
        self._saver = checkpoint.Saver(
            context.folder, in_background=context.device.startswith("cuda")
        )
        self.restart(images)

    def restart(self, images: int) -> None:
        """Counts from `images` on."""
        self._images, self._seconds = images, time.monotonic()

    def update(
        self, state: TrainerState, before: int, *, logged: bool, clean: bool, last: bool
    ) -> None:
        """After a step. Args: before: images before it; logged: it ended a logging interval, in
        which the monitor found nothing if `clean`; last: training ends here, complete or out of
        time.
        """
        s, at = self._context.settings, state.position
        # a rollback must return to a place in kimg, so time decides nothing there
        late = (
            logged
            and s.on_divergence != "rollback"
            and self._context.processes.broadcast(
                time.monotonic() - self._seconds > CHECKPOINT_SECONDS
            )
        )
        at.due = at.due or late or crossed(before, at.images, s.state_kimg)
        complete = at.images >= round(s.kimg * 1000)
        good = logged and clean and (at.due or complete)
        overdue = late or at.images - self._images >= s.state_kimg * 1000
        if good or last or (logged and at.due and overdue):
            at.due = at.due and not good
            self.restart(at.images)
            state.figures.share(self._context.processes.mean)
            if self._context.processes.first:
                self._saver.save(at, state.tensors(), {**state.extra(), "good": good})

    def wait(self) -> None:
        """Returns when all is on the disk."""
        self._saver.wait()


def grid_every(settings: TrainConfig) -> float:
    """kimg between sample grids."""
    return settings.grid_kimg or settings.kimg / (GRIDS - 1)


def log_interval(
    state: TrainerState,
    context: Context,
    board: record.Board | None,
    before: int,
    rate: float,
    each_log: Callable[[TrainerState, dict[str, Any]], None] | None,
) -> tuple[list[divergence.Finding], bool]:
    """Logs a line of statistics of the interval just ended.

    Args:
        before: images before the last step; rate: images per second in the interval.
        each_log: called with the line; may add to it.
    Returns: what the monitor of the first process finds in it, and whether that is nothing at all;
        every process follows it.
    """
    at = state.position
    line = log_line(state, context, rate)
    if each_log is not None:
        each_log(state, line)
    if crossed(before, at.images, context.settings.log_kimg):
        at.line = at.images
    if board is not None:
        checkpoint.append_stats(context.folder, line)
        board.scalars(line, at.images)
    own = [finding.as_json() for finding in state.monitor.check(line)]
    found, clean = context.processes.broadcast([own, state.monitor.clean])
    return [divergence.Finding(**finding) for finding in found], bool(clean)


def handle_findings(
    state: TrainerState,
    context: Context,
    found: list[divergence.Finding],
    board: record.Board | None,
) -> bool:
    """Records what was found; True when training has to go back.

    Raises: TrainingDiverged: the settings say stop, or going back has not helped; what the
        generator draws by then is in a last grid.
    """
    for finding in found:
        logger.warning("At %.1f kimg %s.", finding.kimg, finding.sentence)
        state.findings.append(finding.as_json())
    how = context.settings.on_divergence
    if how == "rollback" and found and state.position.attempt < ROLLBACKS:
        return True
    stopping = {"nan"} if how == "warn" else divergence.STOPPING
    grave = [finding for finding in found if finding.sign in stopping or how == "rollback"]
    if grave:
        finding = grave[0]
        draw_grid(state, context, board, finding.kimg)
        tried = (
            f", after going back {state.position.attempt} times" if state.position.attempt else ""
        )
        raise TrainingDiverged(
            f"Training diverged at {finding.kimg:g} kimg{tried}: {finding.sentence}.",
            remedy=divergence.remedy(finding.sign, state.method.options)
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


def log_line(state: TrainerState, context: Context, rate: float) -> dict[str, Any]:
    """Means over the interval just ended, over all processes; the host waits for the device once,
    at its end.
    """
    at = state.position
    line: dict[str, Any] = {
        "kimg": at.images / 1000,
        "images": at.images,
        "minibatches": at.index,
        "images_per_second": rate,
    }
    line |= {f"updates_{name}": count for name, count in at.updates.items()}
    figures = state.figures.means()
    if figures:
        figures = dict(
            zip(figures, context.processes.mean(torch.stack(list(figures.values()))), strict=True)
        )
    for name in state.optimisers:
        figures[f"weight_norm_{name}"] = record.weight_norm(
            [p.detach() for p in state.parameters(name)]
        )
    state.figures.clear()
    if "generator" in state.networks:
        images = grid_images(state, state.networks["generator"])
        figures["variation"] = divergence.variation(images)
        figures["spacing"] = divergence.spacing(images)
        figures["oscillation"] = divergence.oscillation(images)
        figures["contrast"] = divergence.contrast(images) / state.monitor.real_contrast
    figures |= divergence.layer_sigmas(state.networks)
    figures |= diagnostics(state, context)
    return line | dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))


@torch.no_grad()
def diagnostics(state: TrainerState, context: Context) -> dict[str, Tensor]:
    """The method's own figures, of some real images and latents that are always the same."""
    if type(state.method).diagnostics is Base.diagnostics:
        return {}
    images = to_float(state.real.pixels[:GRID].to(state.device))
    random = torch_stream(context.seed, "diagnostics")
    latents = snapshots.sample_latents(state.prior, DIAGNOSED, random)
    labels = snapshots.grid_labels(state.prior, DIAGNOSED)
    return batch_copies(state).diagnostics(
        images, latents.to(state.device), None if labels is None else labels.to(state.device)
    )


def batch_copies(state: TrainerState) -> Base:
    """The method on copies of its networks whose batch norms take each batch's statistics."""
    method, copies = plain_copies(state)
    for norm in (norm for copy in copies.values() for norm in copy.norms().values()):
        norm.training, norm.track = True, False
    return method


@torch.no_grad()
def grid_images(state: TrainerState, network: LayeredNetwork) -> Tensor:
    """Images of the 64 fixed latents, with the batch statistics of these 64 (as the authors
    sample).
    """
    labels = snapshots.grid_labels(state.prior, len(state.grid_latents))
    with batch_statistics(network):
        z = state.grid_latents.to(state.device)
        return network.forward(z, None if labels is None else labels.to(state.device))


@torch.no_grad()
def draw_grid(
    state: TrainerState, context: Context, board: record.Board | None, place: float
) -> None:
    """Writes the samples of the fixed latents, and the method's own grids, of as many real images.
    Args: place: in kimg.
    """
    sheets: dict[str, Tensor] = {}
    network = state.best_generator()
    if network is not None:
        sheets["grid"] = grid_images(state, network)
    if type(state.method).grids is not Base.grids:
        real = to_float(state.real.pixels[: GRID // 2].to(state.device))
        sheets |= batch_copies(state).grids(real, state.grid_latents[: len(real)].to(state.device))
    for kind, images in sheets.items():
        name = record.grid_name(place, kind)
        state.products.append(name)
        if board is not None:
            sheet = record.tile(images.float().cpu())
            atomic_write_bytes(context.folder / "products" / name, encode_png(sheet))
            board.grid(sheet, state.position.images, "samples" if kind == "grid" else kind)


def save_snapshot(state: TrainerState, context: Context, place: float) -> None:
    """Writes a snapshot for users (first process only). Args: place: the one it was asked for, in
    kimg.
    """
    name = snapshots.snapshot_name(place)
    state.products.append(name)
    if context.processes.first:
        write_snapshot(state, context, context.folder / "products" / name)


def write_snapshot(state: TrainerState, context: Context, path: Path) -> None:
    """Writes the networks as they are now as a snapshot."""
    s, at = context.settings, state.position
    networks = calibrated(state, seed=context.seed, batch=s.batch)
    meta = {
        "network": state.spec,
        "prior": {
            "distribution": state.prior.distribution,
            "dim": state.prior.dim,
            "classes": state.prior.classes,
        },
        "method": s.method,
        "options": state.method.options.model_dump(mode="json"),
        "kimg": at.images / 1000,
        "updates": at.updates,
        "precision": context.precision,
        "seed": context.seed,
        "rollbacks": at.attempt,
        "settings": s.model_dump(
            mode="json", exclude=REPORTING | {"compile"}, exclude_defaults=True
        ),
    }
    saw = (
        "training" if state.method_uses_labels else "validation" if s.choose == "best_probe" else ""
    )
    if saw:
        meta["saw_labels"] = saw
    if context.compiled != "off":
        meta["compiled"] = context.compiled
    snapshots.write_snapshot(path, networks, state.grid_latents, meta)
