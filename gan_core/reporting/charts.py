"""The report's charts, drawn by matplotlib as SVG that follows the page's light or dark theme.

A chart is drawn in the colours of `LIGHT`, then each colour is replaced by its CSS variable
(`--ink`, `--c1`, ...), which the page defines; `standalone` adds them to a file. Text stays text,
in the page's font. Equal figures give equal bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.reporting import sentences as words
from gan_core.reporting.scores import is_learned, label_order
from gan_core.reporting.sentences import CHANCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = {
    "--paper": "#fbfaf7",
    "--card": "#ffffff",
    "--ink": "#1d1c1a",
    "--muted": "#6a665f",
    "--line": "#e5e1d9",
    "--c1": "#2a5fc4",
    "--c2": "#bd5b17",
    "--c3": "#2a7f71",
    "--c4": "#7a55b5",
    "--c5": "#a33a57",
    "--c6": "#6b7280",
    "--c7": "#1f7ea6",
}
DARK = {
    "--paper": "#141518",
    "--card": "#1b1d21",
    "--ink": "#e9e7e3",
    "--muted": "#9d9a94",
    "--line": "#2e3137",
    "--c1": "#7fa8ff",
    "--c2": "#f0a060",
    "--c3": "#5fc2b0",
    "--c4": "#b99cf2",
    "--c5": "#ef8ba5",
    "--c6": "#9aa3b2",
    "--c7": "#6cc3e6",
}
FONT = (
    'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto '
    'Sans", "Liberation Sans", Arial, sans-serif'
)
INK, MUTED, LINE, CARD = (LIGHT[name] for name in ("--ink", "--muted", "--line", "--card"))
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "grid.color": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 7,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
}
WIDTH, HEIGHT = 420, 260  # of a line chart in CSS pixels: as wide as a phone's page
MOST_POINTS = 240
MOST_BARS = 20  # with names
FEW_POINTS = 12  # up to here each point of a curve is marked
_LOCK = threading.Lock()  # matplotlib's settings are global


# SVG
# --------------------------------------------------------------------------------
#


def _figure(width: float, height: float) -> Figure:
    """An empty figure; sizes in CSS pixels."""
    from matplotlib.figure import Figure

    return Figure((width / 72, height / 72), dpi=72, layout="constrained")


def _svg(figure: Figure, label: str, *, tight: bool = False) -> str:
    """The figure as an <svg> element of class `chart`.

    Args:
        label: what a screen reader says.
        tight: the size is that of the content, not that of the figure.
    """
    import matplotlib

    text = io.StringIO()
    # a salt for each chart: no two on a page share their ids
    salt: dict[Any, Any] = {"svg.hashsalt": f"{label} {figure.get_figwidth()}"}
    with matplotlib.rc_context(salt):
        size: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 4 / 72} if tight else {}
        figure.savefig(text, format="svg", metadata={"Date": None}, **size)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text.getvalue())
    assert found is not None
    body = text.getvalue().partition("</style>\n </defs>")[2]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r' clip-path="[^"]*"| transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"\s*\n\s*", " ", body)
    for name, colour in LIGHT.items():
        body = body.replace(colour, f"var({name})")
    width, height = found.groups()
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{body.strip()}"
    )


def variables(colours: dict[str, str]) -> str:
    """CSS declarations of a theme."""
    return ";".join(f"{name}:{value}" for name, value in colours.items())


def standalone(chart: str) -> str:
    """A chart as a file: with colours, font and background, light or dark as the viewer's theme."""
    head, body = chart.split(">", 1)
    style = (
        f"svg{{{variables(LIGHT)};font-family:{FONT};background:var(--paper)}}"
        f"@media(prefers-color-scheme:dark){{svg{{{variables(DARK)}}}}}"
    )
    return f"{head}><style>{style}</style>{body}\n"


# Lines
# --------------------------------------------------------------------------------
#


@dataclass(frozen=True)
class Series:
    """A line: values over `x`, with the ends of their intervals where there are any."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    tone: int = 1
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False
    marks: bool = True


@dataclass(frozen=True)
class LineChart:
    """Lines over one axis.

    Attributes:
        ticks: names of x = 0, 1, 2, ...; none for an axis of numbers from 0.
        percent: y is a share, shown in percent.
        limits: of y.
        note: small, in the lower right corner.
        bars: each value of a line is a bar.
    """

    title: str
    series: Sequence[Series]
    limits: tuple[float, float]
    x_title: str
    ticks: Sequence[str] = ()
    percent: bool = False
    note: str = ""
    bars: bool = False


def line_charts(charts: Sequence[LineChart], label: str = "") -> str:
    """Line charts in a row as one SVG; '' for none. Args: label: for screen readers."""
    if not charts:
        return ""
    import matplotlib

    with _LOCK, matplotlib.rc_context(STYLE):
        figure = _figure(WIDTH * len(charts), HEIGHT)
        for place, chart in enumerate(charts):
            _draw_lines(figure.add_subplot(1, len(charts), place + 1), chart)
        return _svg(figure, label or "; ".join(chart.title for chart in charts))


def _draw_lines(axes: Axes, chart: LineChart) -> None:
    from matplotlib.ticker import MaxNLocator

    whiskers = [line for line in chart.series if line.low]
    for line in chart.series:
        # whiskers of several lines are side by side, not over one another
        shift = 0.06 * (whiskers.index(line) - (len(whiskers) - 1) / 2) if line.low else 0.0
        x, colour = [at + shift for at in line.x], LIGHT[f"--c{line.tone}"]
        dashes, marker = "--" if line.dashed else "-", "o" if line.marks else ""
        if chart.bars:
            axes.bar(x, line.y, color=colour)
        else:
            axes.plot(x, line.y, color=colour, linestyle=dashes, marker=marker)
        if line.low:
            axes.vlines(x, line.low, line.high, color=colour, linewidth=1.25)
    axes.set_ylim(*chart.limits)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if chart.percent:
        axes.yaxis.set_major_formatter(_percent)
    axes.grid(False, axis="x")
    if chart.ticks:
        axes.set_xticks(range(len(chart.ticks)), chart.ticks)
    if chart.ticks or chart.bars:
        margin = 0.6 if chart.bars else 0.25
        axes.set_xlim(-margin, len(chart.series[0].x if chart.bars else chart.ticks) - 1 + margin)
    else:
        axes.set_xlim(0.0, max((at for line in chart.series for at in line.x), default=0) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlabel(chart.x_title)
    axes.set_title(chart.title)
    if chart.note:
        _write(axes, chart.note, (1, 0), (0, 4), color=MUTED, fontsize=11, ha="right")
    low, high = axes.get_ylim()
    ends = [(line.y[-1] - low) / (high - low) for line in chart.series]
    for line, at in zip(chart.series, apart(ends, 16 / (HEIGHT - 90)), strict=True):
        colour = LIGHT[f"--c{line.tone}"]
        _write(axes, line.name, (1, at), (10, 0), color=colour, fontweight="bold", va="center")


def _write(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **style: Any
) -> None:
    """Text at a place given as fractions of the axes, moved by `offset` pixels."""
    style = {"xycoords": "axes fraction", **style}
    axes.annotate(text, at, offset, textcoords="offset points", annotation_clip=False, **style)


def _percent(value: float, _: float) -> str:
    return f"{100 * value:.6g} %"


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places in 0 to 1 at least `gap` apart, in their order and near where they were.

    The gap shrinks where the room is too small.
    """
    gap = min(gap, 1 / max(len(places) - 1, 1))
    out = [0.0] * len(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    floor = 0.0
    for i in order:
        out[i] = floor = max(floor, places[i])
        floor += gap
    ceiling = 1.0
    for i in reversed(order):
        out[i] = ceiling = min(ceiling, out[i])
        ceiling -= gap
    return out


# Scores
# --------------------------------------------------------------------------------
#


def tones(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Feature set to its colour, 1 to 7, in every chart of a report. Args: rows: all its scores."""
    found = list(dict.fromkeys(row["features"] for row in rows if row["features"] != CHANCE))
    learned = [features for features in found if is_learned(features)]
    baselines = [features for features in found if not is_learned(features)]
    colours = {features: (1, 4, 7)[i % 3] for i, features in enumerate(learned)}
    colours |= {features: (2, 3, 5)[i % 3] for i, features in enumerate(baselines)}
    return colours | {CHANCE: 6}


def _without_far_chance(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, without those of chance where they would squeeze the others together."""
    scored = [row for row in rows if row["features"] != CHANCE] or rows
    low, high = _limits(scored)
    least = low - 1.5 * (high - low)
    return [row for row in rows if row["features"] != CHANCE or row["mean"] > least]


def _limits(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """An axis over the intervals of scores, within 0 to 1."""
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    margin = max(0.08 * (high - low), 0.005)
    return max(0.0, low - margin), min(1.0, high + margin)


def headline_plot(summary: dict[str, Any], *, width: int = 720) -> str:
    """The leading score and its baselines as a dot plot with intervals; '' without scores.

    Args: width: in CSS pixels; below 500 a row's name is above its dot instead of left of it.
    """
    rows = words.compared_rows(summary)
    if not rows:
        return ""
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    rows, colours, narrow = _without_far_chance(rows), tones(summary["scores"]), width < 500
    names = [words.features_name(row["features"]) + " †" * bool(row["saw_labels"]) for row in rows]
    texts = [words.score_words(row) for row in rows]
    spoken = "; ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
    with _LOCK, matplotlib.rc_context(STYLE | {"font.size": 14}):
        figure = _figure(width, (68 if narrow else 36) * len(rows) + 30)
        axes = figure.subplots()
        for place, row in enumerate(rows):
            weight, colour = "normal" if place else "bold", LIGHT[f"--c{colours[row['features']]}"]
            axes.hlines(place, row["low"], row["high"], color=colour, linewidth=7, alpha=0.3)
            axes.plot(row["mean"], place, "o", color=colour, markersize=12)
            style: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "fontweight": weight}
            if narrow:
                _write(axes, names[place], (0, place), (0, 28), **style)
                _write(axes, texts[place], (0, place), (0, 12), **style)
            else:
                _write(axes, names[place], (0, place), (-14, 0), ha="right", va="center", **style)
                _write(axes, texts[place], (1, place), (14, 0), va="center", **style)
        axes.set_ylim(len(rows) - 0.5, -0.7 if narrow else -0.5)
        axes.set_yticks([])
        axes.set_xlim(*_limits(rows))
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(_percent)
        return _svg(figure, f"Test accuracy in percent: {spoken}")


def accuracy_charts(summary: dict[str, Any], source: str) -> list[LineChart]:
    """Accuracy by number of labels: a chart for each probe, a line for each feature set."""
    rows = [row for row in summary["scores"] if row["source"] == source]
    if not rows:
        return []
    shown, colours = _without_far_chance(rows), tones(summary["scores"])
    chance = [row for row in rows if row["features"] == CHANCE]
    note = f"chance {words.percent(chance[-1]['mean'])}, below" if len(shown) < len(rows) else ""
    labels = sorted({row["labels"] for row in rows}, key=label_order)
    charts = []
    for probe in sorted({row["probe"] for row in rows if row["features"] != CHANCE}):
        own = [row for row in shown if row["probe"] == probe or row["features"] == CHANCE]
        lines = []
        for features in dict.fromkeys(row["features"] for row in own):
            found = [row for row in own if row["features"] == features]
            found.sort(key=lambda row: label_order(row["labels"]))
            ends = (
                {}
                if features == CHANCE
                else {end: [row[end] for row in found] for end in ("low", "high")}
            )
            lines.append(
                Series(
                    words.short_name(features),
                    [labels.index(row["labels"]) for row in found],
                    [row["mean"] for row in found],
                    colours[features],
                    dashed=features == CHANCE,
                    marks=features != CHANCE,
                    **ends,
                )
            )
        ticks = [name if name == "all" else f"{int(name):,}" for name in labels]
        title = words.capital(words.probe_name(probe))
        charts.append(
            LineChart(title, lines, _limits(shown), "labels per class", ticks, True, note)
        )
    return charts


def confusion_chart(found: dict[str, Any] | None) -> str:
    """The confusion matrix of the leading cell, rows are true classes; '' without counts.

    Right answers have one colour, mistakes another, each with a scale of its own.
    """
    if not found or not found["counts"]:
        return ""
    import matplotlib

    names, counts = found["classes"], found["counts"]
    cell = 36 if len(names) <= 12 else 28
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    worst = max((n for i, row in enumerate(shares) for n in row[:i] + row[i + 1 :]), default=0)
    with _LOCK, matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = _figure(cell * len(names), cell * len(names))
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, len(names)), ylim=(len(names), 0))
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("predicted", labelpad=8)
        middles = [place + 0.5 for place in range(len(names))]
        axes.set_yticks(middles, names)
        axes.set_xticks(middles, names)
        if max(map(len, names)) > 3:
            axes.set_xticks(middles, names, rotation=45, rotation_mode="anchor", ha="left")
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                axes.add_patch(_square(j, i, LINE, 0.45))
                if not share:
                    continue
                alpha = share if i == j else 0.85 * (share / worst) ** 0.7
                axes.add_patch(_square(j, i, LIGHT["--c1" if i == j else "--c2"], alpha))
                n, ink = counts[i][j], CARD if alpha > 0.55 else INK
                text = f"{n:,}" if n < 10_000 else f"{n / 1000:.0f}k"
                centre = (j + 0.5, i + 0.5)
                axes.text(*centre, text, color=ink, fontsize=11, ha="center", va="center")
        return _svg(figure, "Confusion matrix: rows are true classes", tight=True)


def _square(x: int, y: int, colour: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, facecolor=colour, alpha=alpha, linewidth=0)


# Training
# --------------------------------------------------------------------------------
#


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


def curve(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """A statistic over kimg, averaged down to at most `MOST_POINTS` points.

    Values that are no finite numbers are left out.
    """
    found = [
        (float(row["kimg"]), float(row[name]))
        for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    size = min(len(found), MOST_POINTS)
    parts = [found[n * len(found) // size : (n + 1) * len(found) // size] for n in range(size)]
    means = [[sum(values) / len(part) for values in zip(*part, strict=True)] for part in parts]
    return [mean[0] for mean in means], [mean[1] for mean in means]


def read_declared(folders: Sequence[Path]) -> dict[str, Any]:
    """What a training's method logs of its own: `charts` (title, prefix of the statistics' names,
    kind) and `captions` of further image grids by name.
    """
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((folder / "charts.json").read_text())
            return found
    return {"charts": [], "captions": {}}


def training_charts(
    rows: Sequence[dict[str, Any]], declared: Sequence[dict[str, str]] = ()
) -> list[LineChart]:
    """Losses, scores of real and of generated images, accuracy on validation labels, and what the
    method has declared.

    Every statistic whose name starts with a chart's prefix is a line. None without statistics.

    Args: declared: `charts` of `read_declared`.
    """
    names = sorted({name for row in rows for name in row})
    charts = []
    for prefix, title, kind in (
        ("loss_", "Loss", "lines"),
        ("score_", "D's score: 1 is real, 0 is generated", "lines"),
        ("probe_", "Accuracy on validation labels", "lines"),
        *((chart["prefix"], chart["title"], chart["kind"]) for chart in declared),
    ):
        if kind == "bars":
            last = {n.removeprefix(prefix): rows[-1][n] for n in names if n.startswith(prefix)}
            values = [y if math.isfinite(y) else 0.0 for y in last.values()]
            bars = Series("", range(len(last)), values)
            top = max(values, default=0.0) or 1.0
            ticks = list(last) if len(last) <= MOST_BARS else []
            drawn = LineChart(title, [bars], (0.0, 1.1 * top), "", ticks, percent=True, bars=True)
            charts += [drawn] if last else []
            continue
        lines: list[Series] = []
        for name in reversed(names) if prefix == "score_" else names:  # real before fake
            x, y = curve(rows, name) if name.startswith(prefix) else ([], [])
            if x:
                shown = name.removeprefix(prefix).replace("_", " ")
                shown = shown.removesuffix(" accuracy")
                shown = {"fake": "generated"}.get(shown, shown)
                tone, marks = 1 + len(lines) % 5, len(x) <= FEW_POINTS
                lines.append(Series(shown, x, y, tone, marks=marks))
        if not lines:
            continue
        values = [value for line in lines for value in line.y]
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.05
        limits = (low - margin, high + margin)
        if prefix == "score_" and low >= 0 and high <= 1:
            limits = (0.0, 1.0)
        elif prefix == "loss_":
            limits = (min(0.0, low - margin), high + margin)
        charts.append(
            LineChart(
                title,
                lines,
                limits,
                "kimg: thousands of real images shown",
                percent=prefix.startswith("probe"),
            )
        )
    return charts
