"""The report of a run whose training diverged: the usual page up to the training, headed by what was seen and what to do.

The report stage stands on a trained GAN and is never reached then. This page is made from what the run has (artifacts of the stages
before, statistics and sample grids in the training's state folder), is no artifact, and lies in the run's folder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan_core.errors import TrainingDiverged
from gan_core.reporting.charts import read_statistics
from gan_core.reporting.facts import RunFacts
from gan_core.reporting.gather import ReportInputs
from gan_core.reporting.page import render
from gan_core.reporting.summary import summarise

ROLES = {
    "ingest": "images",
    "crop": "crops",
    "hash": "codes",
    "dedup": "duplicates",
    "pack": "pack",
}  # stage to its role in a report
LOOKS = 8  # lines of statistics shown, the last one being that of the finding
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
    recipe: dict[str, Any], folders: Mapping[str, list[Path]], state: Path, facts: RunFacts, error: TrainingDiverged
) -> str:
    """The page as HTML.

    Args:
        recipe: the resolved recipe as JSON values.
        folders: stage to the folders of its artifacts, of the stages before the training.
        state: the training's state folder: `stats.jsonl`, `products/grid-*.png`.
        error: what ended the training.
    """
    known = {ROLES[stage]: tuple(paths) for stage, paths in folders.items() if stage in ROLES}
    inputs = ReportInputs(recipe, dict(recipe.get("report") or {}), **known, snapshot=(state, state / "products"))
    lines = read_statistics([state])
    settings = recipe["train"]
    summary = summarise(inputs)
    summary |= {
        "sources": {**summary["sources"], "evaluate": []},
        "title": "The training diverged",
        "sentence": error.message,
        "verdict": "No features were taken and nothing was scored: both stand on a trained network.",
        "training": {
            "method": settings["method"],
            "mode": settings["mode"],
            "network": settings["network"],
            "kimg": lines[-1]["kimg"] if lines else 0.0,
        },
    }
    return render(summary, inputs, facts, {"remedy": error.remedy, "columns": _columns(lines), "lines": _looks(lines)})


def _columns(lines: list[dict[str, Any]]) -> list[str]:
    return ["kimg", *(title for name, title in FIGURES.items() if any(name in line for line in lines))]


def _looks(lines: list[dict[str, Any]]) -> list[list[str]]:
    """The last lines of statistics as text, a row each; what is no finite number stays visible as such."""
    names = [name for name in FIGURES if any(name in line for line in lines)]
    return [[f"{line['kimg']:g}", *(_number(line.get(name)) for name in names)] for line in lines[-LOOKS:]]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""
