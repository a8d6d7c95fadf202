"""The report of a run whose training diverged: the usual page up to the training, headed by what
was seen and what to do.

The report stage needs a trained GAN and is never reached then. This page is made from what the
run has (artifacts of the stages before, statistics and sample grids in the training's state
folder), is no artifact, and lies in the run's folder alone.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gan_core.errors import TrainingDiverged
from gan_core.reporting.inputs import ReportInputs
from gan_core.reporting.page import render
from gan_core.reporting.run_info import RunFacts, grids
from gan_core.reporting.summary import summarise
from gan_core.specs import REPORT_ROLES

LINES_SHOWN = 8  # lines of statistics shown, the last one being that of the finding
FIGURES = {
    "loss_discriminator": "D's loss",
    "loss_generator": "G's loss",
    "score_real": "D of real",
    "score_fake": "D of generated",
    "variation": "variation",
    "spacing": "spacing",
    "oscillation": "stripes",
}


def diverged_page(
    recipe: dict[str, Any],
    folders: Mapping[str, list[Path]],
    state: Path,
    facts: RunFacts,
    error: TrainingDiverged,
) -> str:
    """The page as HTML.

    Args:
        recipe: the resolved recipe as JSON values.
        folders: stage to the folders of its artifacts, of the stages before the training.
        state: the training's state folder: `stats.jsonl`, `products/grid-*.png`.
        error: what ended the training.
    """
    with TemporaryDirectory() as scratch:
        lines = _gather(state, Path(scratch))
        return _page(recipe, folders, Path(scratch), lines, facts, error)


def _gather(state: Path, folder: Path) -> list[dict[str, Any]]:
    """Puts statistics and grids that led to the end into `folder`, as an artifact has them. Returns
    the lines of statistics.

    The folder of a training also holds what attempts that were given up and longer trainings have
    left: the line that was written last is the one that ended it, and of lines for the same place
    the later one counts.
    """
    written = []
    path = state / "stats.jsonl"
    for text in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):  # a line that a kill cut short
            written.append(json.loads(text))
    if not written:
        return []
    end = written[-1]["images"]
    lines = [
        line
        for _, line in sorted(
            {line["images"]: line for line in written if line["images"] <= end}.items()
        )
    ]
    (folder / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for kimg, grid in grids([state / "products"], most=sys.maxsize):
        if kimg <= lines[-1]["kimg"] + 1e-6:
            shutil.copyfile(grid, folder / grid.name)
    return lines


def _page(
    recipe: dict[str, Any],
    folders: Mapping[str, list[Path]],
    training: Path,
    lines: list[dict[str, Any]],
    facts: RunFacts,
    error: TrainingDiverged,
) -> str:
    known = {REPORT_ROLES[stage]: tuple(paths) for stage, paths in folders.items()}
    inputs = ReportInputs(recipe, dict(recipe.get("report") or {}), **known, snapshot=(training,))
    settings = recipe["train"]
    summary = summarise(inputs)
    summary |= {
        "sources": {**summary["sources"], "evaluate": []},
        "title": "The training diverged",
        "sentence": error.message,
        "verdict": ("No features were taken and nothing was scored: both need a trained network."),
        "training": {
            "method": settings["method"],
            "options": settings.get("options", {}),
            "network": settings["network"],
            "kimg": lines[-1]["kimg"] if lines else 0.0,
        },
    }
    return render(
        summary,
        inputs,
        facts,
        {"remedy": error.remedy, "columns": _columns(lines), "lines": _text_rows(lines)},
    )


def _columns(lines: list[dict[str, Any]]) -> list[str]:
    return [
        "kimg",
        *(title for name, title in FIGURES.items() if any(name in line for line in lines)),
    ]


def _text_rows(lines: list[dict[str, Any]]) -> list[list[str]]:
    """The last lines of statistics as text, a row each; what is no finite number stays visible as
    such.
    """
    names = [name for name in FIGURES if any(name in line for line in lines)]
    return [
        [f"{line['kimg']:g}", *(_number(line.get(name, "")) for name in names)]
        for line in lines[-LINES_SHOWN:]
    ]


def _number(value: Any) -> str:
    """Statistics hold null where a figure was NaN or infinite."""
    return (
        "not finite" if value is None else f"{value:.4g}" if isinstance(value, int | float) else ""
    )
