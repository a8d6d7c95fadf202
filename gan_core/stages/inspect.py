"""Stage inspect: one inspection of a snapshot, as figures, numbers and a sentence."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core import registry
from gan_core.contract import InspectRequest, StageOutcome, StageRequest
from gan_core.devices import use_threads
from gan_core.files import atomic_write_bytes, write_json
from gan_core.progress import Progress

if TYPE_CHECKING:
    from gan_core.inspection.base import Inspection

log = logging.getLogger(__name__)

FILE = "inspection.json"
EDITED = "snapshot-edited.safetensors"


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Writes inspection.json {name, title, applicable, sentence, numbers, tables, figures} and its
    figures as PNG files. An inspection that cannot be done here says why and has no figures.
    """
    from gan_core.inspection.base import Context
    from gan_core.networks.snapshot import chosen_snapshot, load_snapshot, load_snapshots

    job = InspectRequest.of(request)
    device = job.execution.device
    use_threads(job.execution.threads)
    snapshot = load_snapshot(chosen_snapshot(job.snapshot), device, allow=job.allow)
    history = partial(load_snapshots, job.snapshot, device, allow=job.allow)
    context = Context(snapshot, job.seed, device, list(job.packs), job.features, job.crops, history)
    applicable, found = inspect(context, job.name, job.options)
    progress(1, 1, "inspections")
    write(request.work, job.name, found, applicable)
    return StageOutcome(
        counts={"figures": len(found.figures)},
        summary={"sentence": found.sentence, "applicable": applicable, "numbers": found.numbers},
        warnings=list(found.warnings),
    )


def inspect(context: Any, name: str, options: dict[str, Any]) -> tuple[bool, Inspection]:
    """Whether the inspection could be done, and its outcome (or the reason as its sentence)."""
    from gan_core.inspection.base import Inspection, NotApplicable

    module = registry.load("inspection", name)
    try:
        return True, module.inspect(context, registry.options("inspection", name, options))
    except NotApplicable as reason:
        return False, Inspection(str(reason))


def write(folder: Path, name: str, found: Inspection, applicable: bool) -> None:
    """Writes one inspection into a folder; the snapshot that it edited, if any, as EDITED."""
    from gan_core.networks.snapshot import write_snapshot
    from gan_core.vision.sheets import encode_png

    folder.mkdir(parents=True, exist_ok=True)
    if (edited := found.snapshot) is not None:
        write_snapshot(folder / EDITED, edited.networks, edited.grid_latents, edited.meta)
    figures = []
    for figure in found.figures:
        file = f"{figure.name}.png"
        atomic_write_bytes(folder / file, encode_png(figure.image))
        height, width = figure.image.shape[:2]
        figures.append({"file": file, "caption": figure.caption, "width": width, "height": height})
    content = {
        "name": name,
        "title": registry.title("inspection", name),
        "applicable": applicable,
        "sentence": found.sentence,
        "numbers": found.numbers,
        "tables": [
            {"columns": list(t.columns), "rows": [list(r) for r in t.rows], "caption": t.caption}
            for t in found.tables
        ],
        "figures": figures,
    }
    write_json(folder / FILE, content)
