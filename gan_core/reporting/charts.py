"""The report's charts: a summary's numbers and a training's statistics turned into SVG."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gan_core.reporting import sentences as words
from gan_core.reporting.scores import CHANCE, label_order
from gan_core.reporting.svg import (
    Axis,
    Bar,
    Point,
    Series,
    dot_plot,
    heat_map,
    line_chart,
    nice_axis,
)

TONES = {
    "discriminator": 1,
    "network": 1,
    "encoder": 4,
    "random": 2,
    "pixels": 3,
    "kmeans": 5,
    CHANCE: 6,
}
SHORT = {
    "discriminator": "discriminator",
    "network": "given network",
    "random": "random weights",
    "pixels": "raw pixels",
    "kmeans": "K-means",
}
MOST_POINTS = 240


def tone(features: str) -> int:
    """The colour of a feature set, the same in every chart."""
    return TONES.get(features, 1 + sum(features.encode()) % 5)


def headline_rows(rows: Sequence[dict[str, Any]]) -> tuple[list[Bar], Axis]:
    """The leading score and its baselines as rows of a dot plot, with their common axis.

    Chance is left out where it would squeeze the others together. Args: rows: as
    `words.beside_headline` gives them.
    """
    near = [row for row in rows if row["features"] != CHANCE] or list(rows)
    axis = share_axis(near, most=6)
    far = [row for row in rows if row["features"] == CHANCE and row not in near]
    if far and far[0]["mean"] > axis.low - 1.5 * (axis.high - axis.low):
        near = list(rows)
        axis = share_axis(near, most=6)
    bars = [
        Bar(
            words.features_name(row["features"]) + (" †" if row["saw_labels"] else ""),
            row["mean"],
            row["low"],
            row["high"],
            words.score_words(row),
            tone(row["features"]),
        )
        for row in near
    ]
    return bars, axis


def share_axis(rows: Sequence[dict[str, Any]], most: int = 5) -> Axis:
    """An axis in percent over the intervals of scores, never beyond 100 %."""
    return nice_axis(
        max(0.0, min(row["low"] for row in rows)),
        max(row["high"] for row in rows),
        most=most,
        scale=100,
        unit=" %",
        bound=1.0,
    )


def headline_plot(rows: Sequence[dict[str, Any]]) -> str:
    """`headline_rows` as a chart of its own; '' without scores."""
    if not rows:
        return ""
    bars, axis = headline_rows(rows)
    spoken = "; ".join(f"{bar.name} {bar.text} percent" for bar in bars)
    return dot_plot(bars, axis, label=f"Test accuracy: {spoken}", names=210.0)


def accuracy_charts(summary: dict[str, Any], source: str) -> list[str]:
    """Accuracy by number of labels: one chart for each probe, a line for each feature set, chance
    dashed.
    """
    rows = [row for row in summary["scores"] if row["source"] == source]
    probes = sorted({row["probe"] for row in rows if row["features"] != CHANCE})
    counts = sorted(
        {(label_order(row["labels"]), row["label_count"], row["labels"]) for row in rows}
    )
    if not counts:
        return []
    scored = [row for row in rows if row["features"] != CHANCE] or rows
    chance_rows = [row for row in rows if row["features"] == CHANCE]
    y = share_axis(scored)
    near = bool(chance_rows) and min(row["mean"] for row in chance_rows) > y.low - 1.5 * (
        y.high - y.low
    )
    if near:
        y = share_axis(rows)
    shown = rows if near else scored
    note = (
        f"chance {words.percent(chance_rows[-1]['mean'])}, below"
        if chance_rows and not near
        else ""
    )
    ticks = [
        (float(n), "all" if labels == "all" else f"{int(labels):,}") for _, n, labels in counts
    ]
    first, last = counts[0][1], max(n for _, n, _ in counts)
    if first == last:
        x = Axis(first * 0.5, first * 2, ticks, "labels per class", log=True)
    else:
        x = Axis(first / 1.12, last * 1.03, ticks, "labels per class", log=True)
    charts = []
    for probe in probes:
        own = [row for row in shown if row["probe"] in (probe, CHANCE)]
        lines = []
        for features in dict.fromkeys(row["features"] for row in own):
            found = sorted(
                (row for row in own if row["features"] == features),
                key=lambda row: row["label_count"],
            )
            chance = features == CHANCE
            points = [
                Point(
                    row["label_count"],
                    row["mean"],
                    None if chance else row["low"],
                    None if chance else row["high"],
                )
                for row in found
            ]
            name = SHORT.get(features, features)
            lines.append(Series(name, points, tone(features), dashed=chance, marks=not chance))
        title = words.probe_name(probe)
        title = title[0].upper() + title[1:]
        charts.append(
            line_chart(
                lines,
                x,
                y,
                label=f"Test accuracy by number of labels, {title}",
                title=title,
                note=note,
            )
        )
    return charts


def confusion_chart(found: dict[str, Any] | None) -> str:
    """The confusion matrix of the leading cell; '' where there is none or too many classes to read."""  # noqa: E501
    if not found or not found["counts"]:
        return ""
    cell = 38 if len(found["classes"]) <= 12 else 28
    return heat_map(
        found["classes"],
        found["counts"],
        label="Confusion matrix: rows are true classes",
        cell=cell,
    )


# Training
# --------------------------------------------------------------------------------
#

CURVES = {
    "d_loss": ("loss_discriminator",),
    "g_loss": ("loss_generator",),
    "d_real": ("score_real",),
    "d_fake": ("score_fake",),
}


def read_statistics(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Lines of stats.jsonl, in order; a broken last line (a killed writer) is left out."""
    rows: list[dict[str, Any]] = []
    for folder in folders:
        path = folder / "stats.jsonl"
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("kimg"), int | float):
                rows.append(row)
    return sorted(rows, key=lambda row: float(row["kimg"]))


def curve(rows: Sequence[dict[str, Any]], name: str) -> list[Point]:
    """A statistic over kimg, averaged down to at most `MOST_POINTS` points; values that are no
    numbers are left out.
    """
    key = next((key for key in CURVES.get(name, (name,)) if any(key in row for row in rows)), name)
    found = [
        (float(row["kimg"]), float(row[key]))
        for row in rows
        if isinstance(row.get(key), int | float)
    ]
    found = [point for point in found if math.isfinite(point[1])]
    if len(found) <= MOST_POINTS:
        return [Point(*point) for point in found]
    out = []
    for number in range(MOST_POINTS):
        part = found[number * len(found) // MOST_POINTS : (number + 1) * len(found) // MOST_POINTS]
        out.append(Point(sum(p[0] for p in part) / len(part), sum(p[1] for p in part) / len(part)))
    return out


def training_charts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Losses, what the discriminator says of real and of generated images, how well labels are read
    off it; none without statistics.
    """
    charts = []
    losses = [("D", curve(rows, "d_loss"), 1), ("G", curve(rows, "g_loss"), 2)]
    says = [("real", curve(rows, "d_real"), 1), ("generated", curve(rows, "d_fake"), 2)]
    reads = [("validation labels", curve(rows, "probe_validation_accuracy"), 3)]
    for title, lines in (
        ("Loss", losses),
        ("D's mean verdict, 1 is real", says),
        ("Accuracy of a linear probe", reads),
    ):
        drawn = [
            Series(name, points, colour, marks=len(points) < 2)
            for name, points, colour in lines
            if points
        ]
        if not drawn:
            continue
        values = [point.y for line in drawn for point in line.points]
        places = [point.x for line in drawn for point in line.points]
        if lines is reads:  # small differences are what it is drawn for
            y = nice_axis(max(0.0, min(values) - 0.02), min(1.0, max(values) + 0.02))
        elif title != "Loss" and min(values) >= 0 and max(values) <= 1:
            y = nice_axis(0.0, 1.0)
        else:
            y = nice_axis(min(0.0, *values), max(values))
        end = max(places)
        ticks = nice_axis(0.0, end, most=6).ticks
        x = Axis(
            0.0,
            end,
            [tick for tick in ticks if tick[0] <= end * 1.001],
            "kimg: thousands of real images shown",
        )
        charts.append(
            line_chart(drawn, x, y, label=f"{title} over training", title=title, height=240)
        )
    return charts
