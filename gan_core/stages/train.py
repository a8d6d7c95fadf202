"""Stage train: a GAN on the packed training set. Content: snapshots; by-products: stats.jsonl,
charts.json (what the method logs of its own), sample grids, TensorBoard events.

Runs on a bare machine: neither Prefect nor FAISS is needed. What it learns lives in the
trajectory's state folder until it is done, so that a killed training continues; `max_seconds` ends
it cleanly with `complete=False`.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.config import TrainConfig
from gan_core.contract import StageOutcome, StageRequest, TrainRequest, WarmStart
from gan_core.errors import DataError, RequestError
from gan_core.files import read_json
from gan_core.progress import Progress, Throttled

if TYPE_CHECKING:
    from gan_core.shards import PixelShards
    from gan_core.training.context import Context, Trained
    from gan_core.training.trainer_state import TrainerState

log = logging.getLogger(__name__)

CURVE_POINTS = 200  # lines of statistics in the summary, evenly spaced when there are more


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Trains from the newest state to `train.kimg`.

    Raises:
        DataError: fewer images than one batch; labels that the method needs are missing.
        RequestError: a network for images of another size; an unknown method or network.
        TrainingDiverged: training collapsed and the settings say stop, or going back did not help.
    """
    from gan_core.devices import resolve_precision, use_gpu, use_threads
    from gan_core.shards import PixelShards
    from gan_core.training.compiled import gpu_errors
    from gan_core.training.context import Context
    from gan_core.training.distributed import join, leave
    from gan_core.training.loop import train

    if "snapshot" in request.part:
        raise RequestError(
            f"There is no imported snapshot called {request.part['snapshot']!r} in this store.",
            expected="a snapshot that `discern import` has brought into this home",
            remedy="discern import dcgan-authors FOLDER",
        )
    job = TrainRequest.of(request)
    settings = job.settings
    processes, device = join(job.execution.device)
    use_threads(max(1, job.execution.threads // processes.here))
    refuse_uneven(settings.batch, processes.count)
    images = PixelShards(job.pack)
    refuse_small(len(images), settings, count_duplicates(job.pack))
    context = Context(
        settings=settings,
        folder=job.state,
        image_size=images.shape[0],
        seed=job.seed,
        device=device,
        precision=resolve_precision(settings.precision, device),
        max_seconds=job.max_seconds,
        processes=processes,
        start=job.start,
    )
    use_gpu(device, context.precision, search=True)
    if job.continues:
        warm_start_from(job.continued, context)
    labels = load_labels(images, settings)
    probe = make_probe(images, context)
    with gpu_errors(settings.compile):
        trained = train(
            images, context, labels=labels, progress=Throttled(progress), each_log=probe
        )
    summary = summarise(trained, context.precision, processes.count)
    if processes.first and trained.complete:
        publish(trained, request.work, context.folder)
        if settings.choose == "best_probe":
            summary["chosen"] = choose_snapshot(trained, request.work, context.folder)
    leave(processes)
    return StageOutcome(
        counts={
            "images": len(images),
            "snapshots": len(list(request.work.glob("snapshot-*.safetensors"))),
        },
        summary=summary,
        warnings=list_warnings(trained, settings, len(images)),
        complete=trained.complete,
    )


def warm_start_from(parent: WarmStart | None, context: Context) -> None:
    """Begins with the last state of the training that is continued (first process; the others
    wait).
    """
    from gan_core.errors import StoreError
    from gan_core.training.warm_start import warm_start

    if parent is None:
        raise StoreError(
            "The checkpoint of the training to continue is missing.",
            remedy="--set train.on_new_data=retrain trains again on the grown set",
        )
    if context.processes.first:
        warm_start(
            parent.state,
            context.folder,
            parent.images,
            round(context.settings.kimg * 1000),
        )
    context.processes.barrier()


def refuse_small(count: int, settings: TrainConfig, duplicates: int = 0) -> None:
    """DataError when there are fewer images than one batch. `duplicates`: how many dedup has left
    out.
    """
    if count >= settings.batch:
        return
    remedies = ["more images"]
    if count + duplicates >= settings.batch:
        remedies = [
            "--set dedup.mode=off keeps the near-duplicates, a higher dedup.threshold some of them"
        ]
    if count >= 4:
        remedies.append(f"--set train.batch={1 << (count.bit_length() - 1)}")
    left_out = (
        f" Of {count + duplicates}, dedup has left out {duplicates} as near-duplicates of others."
        if duplicates
        else ""
    )
    raise DataError(
        f"The training set has {count} images, and one batch takes {settings.batch}.{left_out}",
        expected=f"at least {settings.batch} usable training images",
        remedy=", or ".join(remedies),
    )


def count_duplicates(pack: Path) -> int:
    """How many training images dedup left out of a packed set; 0 where it has no manifest
    (a folder made by hand).
    """
    try:
        return int(read_json(pack / "manifest.json")["outcome"]["counts"]["duplicates"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def refuse_uneven(batch: int, processes: int) -> None:
    """RequestError when a batch cannot be shared out evenly: the mean of the processes' gradients
    would not be the batch's.
    """
    if batch % processes or batch // processes < 2:
        near = max(2, round(batch / processes)) * processes
        raise RequestError(
            f"A batch of {batch} cannot be shared evenly by {processes} processes.",
            expected="at least two images for each process, and equally many",
            remedy=f"--set train.batch={near}, or another number of train.processes",
        )


def load_labels(images: PixelShards, settings: TrainConfig) -> Any:
    """int64 [n] where the method or a conditional network uses labels, else None."""
    import numpy as np

    from gan_core import registry

    network = registry.load("networks", settings.network.name)
    uses = registry.load("methods", settings.method).USES_LABELS
    if not uses and not getattr(network, "CONDITIONAL", False):
        return None
    column = images.table["label"]
    if column.null_count:
        raise DataError(
            f"{settings.method} with {settings.network.name} uses labels, and {column.null_count} "
            f"of {len(column)} training images have none.",
            expected="a label for every training image",
            remedy="a source with labels, or a method and a network without",
        )
    labels = np.asarray(column.to_numpy(), np.int64)
    if labels.min() < 0:
        raise DataError(
            f"The labels of the training images begin at {labels.min()}.",
            expected="classes 0, 1, 2, ...",
        )
    return labels


def make_probe(images: PixelShards, context: Context) -> Any:
    """The probe that scores the discriminator during training; None where it is not asked for or
    labels are missing.
    """
    import numpy as np
    import pyarrow.compute as pc

    from gan_core.training.hooks import write_snapshot
    from gan_core.training.probe import Probe, candidate_name, each_log

    s = context.settings
    if not s.probe_kimg:
        return None
    labels = np.asarray(pc.fill_null(images.table["label"], -1).to_numpy(), np.int64)
    probe = Probe(images, labels, context.seed, context.device)
    if not probe.useful and s.choose == "best_probe":
        raise DataError(
            "train.choose is best_probe, and the training images have no labels to fit a probe on.",
            expected="labels of at least two classes for training images",
            remedy="--set train.choose=last",
        )
    if not probe.useful or not context.processes.first:
        return None

    def keep(state: TrainerState) -> None:
        write_snapshot(
            state, context, context.folder / "candidates" / candidate_name(state.position.images)
        )

    return each_log(probe, s, keep if s.choose == "best_probe" else None)


def choose_snapshot(trained: Trained, work: Path, state: Path) -> dict[str, Any]:
    """Puts the snapshot at which the probe did best next to the others. Returns its kimg and the
    probe's accuracy there.
    """
    from gan_core.networks.snapshot import CHOSEN, last_snapshot
    from gan_core.training.probe import PROBED, best_line, candidate_name

    line = best_line(trained.stats)
    assert line is not None  # a training ends with a fit of the probe
    kept = state / "candidates" / candidate_name(int(line["images"]))
    last = int(line["images"]) == trained.state.position.images
    shutil.copyfile(last_snapshot(work) if last else kept, work / CHOSEN)
    return {"kimg": line["kimg"], "validation_accuracy": line[PROBED]}


def publish(trained: Trained, work: Path, state: Path) -> None:
    """Copies what this training made from its state folder into the artifact."""
    import json

    from gan_core.files import atomic_write_bytes, write_json

    work.mkdir(parents=True, exist_ok=True)
    for path in trained.products:
        shutil.copyfile(path, work / path.name)
    lines = "".join(json.dumps(line, sort_keys=True) + "\n" for line in trained.stats)
    atomic_write_bytes(work / "stats.jsonl", lines.encode())
    method = trained.state.method
    declared = {
        "charts": [asdict(chart) for chart in method.charts],
        "captions": dict(method.captions),
    }
    write_json(work / "charts.json", declared)
    board = state / "tensorboard"
    if board.is_dir():
        shutil.copytree(board, work / "tensorboard", dirs_exist_ok=True)


def summarise(trained: Trained, precision: str, processes: int) -> dict[str, Any]:
    """Small figures for the report and the command line. `curve`: the lines of statistics at log
    points, thinned.
    """
    position = trained.state.position
    every = max(1, -(-len(trained.stats) // CURVE_POINTS))
    curve = [
        {
            name: value
            for name, value in line.items()
            if name == "kimg" or name.startswith(("loss", "score"))
        }
        for line in [*trained.stats[:-1][::every], *trained.stats[-1:]]
    ]
    shown = position.images - trained.started_at
    return {
        "kimg": position.images / 1000,
        "updates": position.updates,
        "minibatches": position.index,
        "rollbacks": position.attempt,
        "images_per_second": round(shown / trained.seconds, 1)
        if trained.seconds and shown
        else None,
        "seconds": round(position.seconds, 1),
        "precision": precision,
        "tf32": tf32(),
        "compiled": trained.compiled,
        "processes": processes,
        "started_at_kimg": trained.started_at / 1000,
        "curve": curve,
        "divergence": trained.findings,
        "parameters": {
            role: sum(p.numel() for p in network.parameters())
            for role, network in trained.state.networks.items()
        },
    }


def tf32() -> bool:
    """Whether convolutions or matrix products in float32 may round to TF32 on the GPU; False on a
    CPU.
    """
    import torch

    begun: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return begun and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)


def list_warnings(trained: Trained, settings: TrainConfig, count: int) -> list[str]:
    """Sentences that a person should read."""
    warnings = [
        f"At {finding['kimg']:g} kimg: {finding['sentence']}" for finding in trained.findings
    ]
    if not trained.complete:
        warnings.append(
            f"Training stopped at {trained.state.position.images / 1000:g} of {settings.kimg:g} "
            "kimg at its time limit; the same command continues it."
        )
    if count < 10 * settings.batch:
        warnings.append(
            f"The training set has only {count} images: expect the discriminator to memorise them."
        )
    return warnings
