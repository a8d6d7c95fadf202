"""Runs side by side: their scores, the differences to the first run with 95 % intervals, and the
settings that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_core.metrics.intervals import Interval, unpaired_difference
from gan_core.reporting.inputs import ReportInputs
from gan_core.reporting.scores import Predictions, paired_difference, score_rows, verdict
from gan_core.reporting.sentences import CHANCE

Cell = tuple[str, str, str, str]


@dataclass(frozen=True)
class ComparedRun:
    """A run: its name, its resolved recipe, its evaluate artifacts, and its page if it has one."""

    name: str
    recipe: dict[str, Any]
    cells: tuple[Path, ...]
    report: Path | None = None


def compare(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Every cell (source, features, probe, labels) that two runs or more have scored.

    Differences are paired by test image and draw where both runs scored the same ones; else they
    follow from the two intervals alone and are wider.

    Returns: {runs: names, settings: [{setting, values}], scores: [{source, features, probe, labels,
        runs: {name: {mean, low, high, half, difference}}}]}; `difference` is to the first run of
        the cell: {mean, low, high, half, paired, verdict: above, below or level}.
    """
    read = []
    for run in runs:
        inputs = ReportInputs(cells=run.cells)
        rows = {
            (row["source"], row["features"], row["probe"], row["labels"]): row
            for row in score_rows(inputs)
            if row["features"] != CHANCE
        }
        read.append((run.name, rows, Predictions(inputs)))
    places = dict.fromkeys(place for _, rows, _ in read for place in rows)
    scores = []
    for place in places:
        having = [(name, rows[place], found) for name, rows, found in read if place in rows]
        if len(having) < 2:
            continue
        cells: dict[str, dict[str, Any]] = {}
        for number, (name, row, predictions) in enumerate(having):
            cells[name] = {key: row[key] for key in ("mean", "low", "high", "half", "draws")}
            if number:
                _, first, of_first = having[0]
                cells[name]["difference"] = _difference(row, predictions, first, of_first, place)
        scores.append(
            {
                **dict(zip(("source", "features", "probe", "labels"), place, strict=True)),
                "runs": cells,
            }
        )
    return {
        "runs": [run.name for run in runs],
        "settings": differing_settings([run.recipe for run in runs]),
        "scores": scores,
    }


def _difference(
    row: dict[str, Any],
    predictions: Predictions,
    first: dict[str, Any],
    of_first: Predictions,
    place: Cell,
) -> dict[str, Any]:
    paired = paired_difference(predictions.draws(*place), of_first.draws(*place))
    gap = paired or unpaired_difference(
        *(Interval(one["mean"], one["low"], one["high"]) for one in (row, first))
    )
    return {**gap.rounded(), "paired": paired is not None, "verdict": verdict(gap)}


def differing_settings(recipes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings that differ between recipes, as [{setting: 'train.kimg', values: [...]}]."""
    flat = [_flatten(recipe) for recipe in recipes]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [{"setting": name, "values": [one.get(name) for one in flat]} for name in names]
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flatten(inner, f"{prefix}.{name}" if prefix else str(name))
    return found


def sentences(found: dict[str, Any]) -> list[str]:
    """One sentence for each difference: what it is, and whether it is within noise."""
    lines = []
    for cell in found["scores"]:
        first = next(iter(cell["runs"]))
        for name, score in cell["runs"].items():
            gap = score.get("difference")
            if gap is None:
                continue
            what = f"{cell['source']}, {cell['features']}, {cell['probe']}, {cell['labels']} labels"
            # + 0.0: no sign for a negative zero
            mean, low, high = (
                f"{round(100 * gap[key], 1) + 0.0:+.1f}" for key in ("mean", "low", "high")
            )
            points = f"{mean} points [{low}, {high}]"
            noise = "; within noise" if gap["verdict"] == "level" else ""
            lines.append(f"{what}: {name} against {first} {points}{noise}.")
    return lines


def page(found: dict[str, Any], runs: Sequence[ComparedRun]) -> str:
    """The comparison as one HTML page."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("gan_core.reporting", "."), autoescape=True)
    template = environment.get_template("compare.html.j2")
    return template.render(found=found, runs=runs)
