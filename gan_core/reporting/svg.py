"""Charts drawn by hand as SVG: text stays text, colours follow the page's light or dark theme, a
chart takes a few kilobytes.

Colours are CSS variables (`--ink`, `--muted`, `--line`, `--c1` ... `--c6`), which the page defines;
`standalone` brings them along for a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

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
}
FONT = (
    'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto '
    'Sans", "Liberation Sans", Arial, sans-serif'
)
CHART_STYLE = (
    "text{font-size:12px;fill:var(--muted);font-variant-numeric:tabular-nums}"
    ".ax{stroke:var(--line);stroke-width:1;fill:none}.ln{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
    ".er{fill:none;stroke-width:1.25}.b{font-weight:600}.s{font-size:11px}.i{fill:var(--ink)}"
    + "".join(f".c{n}{{stroke:var(--c{n})}}.f{n}{{fill:var(--c{n})}}" for n in range(1, 7))
    + ".d{stroke-dasharray:4 4}"
)


@dataclass(frozen=True)
class Point:
    """A mean at x, with the ends of its interval where there are any."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line. `tone` is a colour, 1 to 6; `marks` draws a dot at each point."""

    name: str
    points: Sequence[Point]
    tone: int = 1
    dashed: bool = False
    marks: bool = True


@dataclass(frozen=True)
class Axis:
    """A range with its ticks (value, text). `log`: equal factors take equal room."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]] = field(default_factory=list)
    title: str = ""
    log: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two positions."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return start + (end - start) * ((at - low) / (high - low) if high > low else 0.5)


def nice_axis(
    low: float,
    high: float,
    *,
    most: int = 5,
    scale: float = 1.0,
    unit: str = "",
    title: str = "",
    bound: float | None = None,
) -> Axis:
    """An axis from a round number at or below `low` to one at or above `high`, with at most about
    `most` steps.

    Args:
        scale: what values are multiplied with in the ticks' text (100 for shares shown in percent).
        bound: no end beyond this (1.0 for shares).
    """
    if not high > low:
        low, high = low - 0.5, high + 0.5
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(
        step * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= most
    )
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if bound is not None:
        last = min(last, math.floor(bound / step + 1e-9))
    digits = max(0, -math.floor(math.log10(step * scale) + 1e-9))
    if round(step * scale * 10**digits, 6) % 1:
        digits += 1
    ticks = [
        (n * step, f"{n * step * scale:.{digits}f}{unit}".replace("-", "\u2212"))
        for n in range(first, last + 1)
    ]
    top = max(last * step, min(high, bound) if bound is not None else high)
    return Axis(first * step, top, ticks, title)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def line_chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    label: str,
    width: int = 440,
    height: int = 280,
    title: str = "",
    note: str = "",
) -> str:
    """Lines with dots and interval whiskers, each named at its right end.

    Args: label: what a screen reader says. title: shown above the chart. note: small, in the lower
        right corner.
    """
    named = [line for line in series if line.points]
    room = 14 + max((7.9 * len(line.name) for line in named), default=40)
    left = 10.0 + 7.8 * max((len(text) for _, text in y.ticks), default=3)
    right, top, bottom = float(width - room), 30.0 if title else 12.0, height - 42.0
    parts = [f'<text class="b i" x="0" y="14">{escape(title)}</text>'] if title else []
    for value, text in y.ticks:
        at = y.place(value, bottom, top)
        parts.append(f'<path class="ax" d="M{_n(left)} {_n(at)}H{_n(right)}"/>')
        parts.append(
            f'<text x="{_n(left - 8)}" y="{_n(at + 4)}" text-anchor="end">{escape(text)}</text>'
        )
    widest = max((7.2 * len(text) + 6 for _, text in x.ticks), default=0.0)
    under = spread(
        [x.place(value, left, right) for value, _ in x.ticks],
        min(widest, 40.0),
        left,
        right + room / 2,
    )
    for at, (_, text) in zip(under, x.ticks, strict=True):
        parts.append(
            f'<text x="{_n(at)}" y="{_n(bottom + 18)}" text-anchor="middle">{escape(text)}</text>'
        )
    if x.title:
        parts.append(
            f'<text class="s" x="{_n((left + right) / 2)}" y="{_n(bottom + 36)}" '
            f'text-anchor="middle">{escape(x.title)}</text>'
        )
    if note:
        parts.append(
            f'<text class="s" x="{_n(right)}" y="{_n(bottom - 7)}" '
            f'text-anchor="end">{escape(note)}</text>'
        )
    whiskers = [line for line in named if any(point.low is not None for point in line.points)]
    for line in named:  # whiskers of several lines stand beside each other, not in one another
        aside = 6.0 * (whiskers.index(line) - (len(whiskers) - 1) / 2) if line in whiskers else 0.0
        parts += _line(line, x, y, (left + aside, right + aside, top, bottom))
    ends = [y.place(line.points[-1].y, bottom, top) for line in named]
    starts = [x.place(line.points[-1].x, left, right) for line in named]
    for line, at, start in zip(named, spread(ends, 15, top, bottom), starts, strict=True):
        parts.append(
            f'<text class="f{line.tone} b" x="{_n(start + 14)}" y="{_n(at + 4)}" '
            f">{escape(line.name)}</text>"
        )
    return _svg("".join(parts), width, height, label)


def _line(line: Series, x: Axis, y: Axis, frame: tuple[float, float, float, float]) -> list[str]:
    left, right, top, bottom = frame
    at = [
        (x.place(p.x, left, right), y.place(min(max(p.y, y.low), y.high), bottom, top))
        for p in line.points
    ]
    dashes = " d" if line.dashed else ""
    parts = [
        f'<path class="ln c{line.tone}{dashes}" '
        f'd="M{"L".join(f"{_n(a)} {_n(b)}" for a, b in at)}"/>'
    ]
    for (across, down), point in zip(at, line.points, strict=True):
        if point.low is not None and point.high is not None and point.high > point.low:
            ends = [
                y.place(min(max(end, y.low), y.high), bottom, top)
                for end in (point.low, point.high)
            ]
            parts.append(
                f'<path class="er c{line.tone}" d="M{_n(across)} '
                f'{_n(ends[0])}V{_n(ends[1])}{_caps(across, ends)}"/>'
            )
        if line.marks:
            parts.append(
                f'<circle class="f{line.tone}" cx="{_n(across)}" cy="{_n(down)}" r="3.5"/>'
            )
    return parts


def _caps(across: float, ends: Sequence[float]) -> str:
    return "".join(f"M{_n(across - 3)} {_n(end)}h6" for end in ends)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near as possible to `places` (least squares), in their order, at least `gap`
    apart, between low and high.

    Taking `gap` times its number from each position turns the task into an isotonic regression,
    solved by pooling neighbours that violate the order. Where the room is too small the gap
    shrinks.
    """
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    blocks: list[tuple[float, int]] = []  # (mean, members)
    for number, index in enumerate(order):
        mean, members = places[index] - number * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, members = (mean * members + before * count) / (members + count), members + count
        blocks.append((mean, members))
    top = high - gap * (len(places) - 1)
    settled = [min(max(mean, low), top) for mean, members in blocks for _ in range(members)]
    result = [0.0] * len(places)
    for number, index in enumerate(order):
        result[index] = settled[number] + number * gap
    return result


@dataclass(frozen=True)
class Bar:
    """A row of a dot plot: a mean, its interval, and the text at its right."""

    name: str
    mean: float
    low: float
    high: float
    text: str
    tone: int = 1


def dot_plot(
    rows: Sequence[Bar], x: Axis, *, label: str, width: int = 860, names: float = 250.0
) -> str:
    """One row each: name, dot with its interval on a common scale, number."""
    pitch, top = 34, 6
    left, right = names, width - (178.0 if any("(" in row.text for row in rows) else 110.0)
    bottom = top + pitch * len(rows)
    parts = []
    for value, text in x.ticks:
        at = x.place(value, left, right)
        parts.append(f'<path class="ax" d="M{_n(at)} {top}V{bottom}"/>')
        parts.append(
            f'<text class="s" x="{_n(at)}" y="{bottom + 16}" '
            f'text-anchor="middle">{escape(text)}</text>'
        )
    for number, row in enumerate(rows):
        middle = top + pitch * number + pitch / 2
        low, high, mean = (
            x.place(min(max(value, x.low), x.high), left, right)
            for value in (row.low, row.high, row.mean)
        )
        strong = " b" if number == 0 else ""
        parts.append(
            f'<text class="i{strong}" x="0" y="{_n(middle + 4)}" '
            f'style="font-size:14px">{escape(row.name)}</text>'
        )
        width_and_cap = 'stroke-width="7" stroke-opacity=".28" stroke-linecap="round"'
        parts.append(
            f'<path class="c{row.tone}" {width_and_cap} d="M{_n(low)} {_n(middle)}H{_n(high)}"/>'
        )
        parts.append(f'<circle class="f{row.tone}" cx="{_n(mean)}" cy="{_n(middle)}" r="6"/>')
        parts.append(
            f'<text class="i{strong}" x="{width}" y="{_n(middle + 4)}" text-anchor="end" '
            f'style="font-size:14px">{escape(row.text)}</text>'
        )
    return _svg("".join(parts), width, bottom + 24, label)


def heat_map(
    names: Sequence[str], counts: Sequence[Sequence[int]], *, label: str, cell: int = 34
) -> str:
    """A confusion matrix: rows are true classes. Right answers in one colour, mistakes in another,
    each on its own scale.
    """
    totals = [max(sum(row), 1) for row in counts]
    worst = (
        max(
            (
                counts[i][j] / totals[i]
                for i in range(len(names))
                for j in range(len(names))
                if i != j
            ),
            default=0,
        )
        or 1
    )
    room = 14 + 6.4 * max((len(name) for name in names), default=1)
    slanted = max((len(name) for name in names), default=1) > 3
    top = room * 0.75 + 22 if slanted else 40.0
    side = cell * len(names)
    parts = [
        f'<text class="s" x="{_n(room + side / 2)}" y="11" text-anchor="middle">predicted</text>'
    ]
    for i, name in enumerate(names):
        middle = room + cell * (i + 0.5)
        turn = f' transform="rotate(-45 {_n(middle)} {_n(top - 8)})"' if slanted else ""
        anchor = "start" if slanted else "middle"
        parts.append(
            f'<text x="{_n(middle)}" y="{_n(top - 8)}" '
            f'text-anchor="{anchor}"{turn}>{escape(name)}</text>'
        )
        parts.append(
            f'<text x="{_n(room - 8)}" y="{_n(top + cell * (i + 0.5) + 4)}" '
            f'text-anchor="end">{escape(name)}</text>'
        )
        for j in range(len(names)):
            share = counts[i][j] / totals[i]
            strength = share if i == j else 0.85 * (share / worst) ** 0.7 if share else 0.0
            place = (
                f'x="{_n(room + cell * j + 1)}" y="{_n(top + cell * i + 1)}" '
                f'width="{cell - 2}" height="{cell - 2}" rx="3"'
            )
            parts.append(f'<rect {place} style="fill:var(--line)" fill-opacity=".45"/>')
            if not counts[i][j]:
                continue
            parts.append(
                f'<rect class="f{1 if i == j else 2}" {place} fill-opacity="{strength:.2f}"/>'
            )
            ink = "var(--card)" if strength > 0.55 else "var(--ink)"
            text = f"{counts[i][j]:,}" if counts[i][j] < 10_000 else f"{counts[i][j] / 1000:.0f}k"
            parts.append(
                f'<text class="s" x="{_n(room + cell * (j + 0.5))}" '
                f'y="{_n(top + cell * (i + 0.5) + 4)}" text-anchor="middle" '
                f'style="fill:{ink}">{text}</text>'
            )
    tail = 0.5 * room if slanted else 4.0  # the last slanted name leans out to the right
    return _svg("".join(parts), math.ceil(room + side + tail), math.ceil(top + side + 4), label)


def _svg(body: str, width: int, height: int, label: str) -> str:
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(label, quote=True)}">{body}</svg>'
    )


def variables(colours: dict[str, str]) -> str:
    """CSS declarations of a theme."""
    return ";".join(f"{name}:{value}" for name, value in colours.items())


def standalone(chart: str) -> str:
    """A chart as a file of its own: colours, font and a background that follow the viewer's theme."""  # noqa: E501
    head, body = chart.split(">", 1)
    style = (
        f"svg{{{variables(LIGHT)};font-family:{FONT};background:var(--paper)}}"
        f"@media(prefers-color-scheme:dark){{svg{{{variables(DARK)}}}}}{CHART_STYLE}"
    )
    return f"{head}><style>{style}</style>{body}\n"


def beside(charts: Sequence[str], *, gap: int = 24, pad: int = 16) -> str:
    """Charts side by side in one, for a file."""
    if not charts:
        return ""
    sizes = [
        tuple(
            int(float(part)) for part in chart.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()
        )
        for chart in charts
    ]
    width = sum(size[0] for size in sizes) + gap * (len(charts) - 1) + 2 * pad
    height = max(size[1] for size in sizes) + 2 * pad
    parts, across = [], pad
    for chart, size in zip(charts, sizes, strict=True):
        body = chart.split(">", 1)[1].removesuffix("</svg>")
        parts.append(f'<g transform="translate({across} {pad})">{body}</g>')
        across += size[0] + gap
    return _svg("".join(parts), width, height, "charts")
