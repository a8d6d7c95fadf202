"""Charts: axes that hold their values, labels that do not meet, SVG that is well-formed and places
points where they belong.
"""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.reporting import charts
from gan_core.reporting.svg import (
    Axis,
    Point,
    Series,
    beside,
    heat_map,
    line_chart,
    nice_axis,
    spread,
    standalone,
)

SPACE = "{http://www.w3.org/2000/svg}"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_axis_holds_its_values(low: float, length: float) -> None:
    axis = nice_axis(low, low + length)
    size = max(abs(low), length)
    assert axis.low <= low + 1e-6 * size and axis.high >= low + length - 1e-6 * size
    assert 2 <= len(axis.ticks) <= 8
    texts = [text for _, text in axis.ticks]
    assert length < 1e-9 * abs(low) or len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.965, 0.997), (0.80, 1.0), (0.9871, 0.9993), (0.1, 0.13)]
)
def test_axis_of_shares_ends_at_one(low: float, high: float) -> None:
    axis = nice_axis(low, high, scale=100, unit=" %", bound=1.0)
    assert axis.high <= 1.0 and axis.high >= high - 1e-9 and axis.low <= low
    for value, text in axis.ticks:
        assert float(text.removesuffix(" %")) == pytest.approx(100 * value, abs=1e-9)


def test_logarithmic_axis() -> None:
    axis = Axis(10, 1000, log=True)
    assert axis.place(100, 0, 10) == pytest.approx(5)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=8))
def test_labels_keep_apart(places: list[float]) -> None:
    out = spread(places, 15, 0, 200)
    assert all(b - a >= 14.99 for a, b in itertools.pairwise(sorted(out)))
    assert min(out) >= -1e-6 and max(out) <= 200 + 1e-6
    order = np.argsort(places, kind="stable")
    assert [out[i] for i in order] == sorted(out)  # nobody overtakes


def test_labels_with_room_stay() -> None:
    assert spread([10, 60, 120], 15, 0, 200) == [10, 60, 120]


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def test_line_chart_puts_points_on_the_scale() -> None:
    series = [
        Series("a <b> & c", [Point(0, 0.0, -0.1, 0.1), Point(10, 1.0, 0.9, 1.1)]),
        Series("none", []),
    ]
    root = parse(line_chart(series, nice_axis(0, 10), nice_axis(0, 1), label='say "it"', title="T"))
    dots = root.findall(f"{SPACE}circle")
    assert len(dots) == 2
    (x0, y0), (x1, y1) = ((float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in dots)
    assert 30 < x0 < 50 and x1 > 250 and y0 > y1  # larger values stand higher
    texts = ["".join(text.itertext()) for text in root.iter(f"{SPACE}text")]
    assert "a <b> & c" in texts and "none" not in texts
    assert root.get("aria-label") == 'say "it"'


def test_heat_map_shows_every_count() -> None:
    counts = [[5, 1, 0], [0, 7, 0], [2, 0, 30_000]]
    root = parse(heat_map(["cat", "a longer name", "<dog>"], counts, label="confusion"))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SPACE}text")]
    for text in ("5", "1", "7", "2", "30k"):
        assert text in texts
    assert texts.count("<dog>") == 2


def test_files_of_their_own_bring_their_colours() -> None:
    chart = line_chart(
        [Series("a", [Point(0, 1), Point(1, 2)])], nice_axis(0, 1), nice_axis(1, 2), label="l"
    )
    text = standalone(beside([chart, chart]))
    root = parse(text)
    used = {part.split(")")[0] for part in text.split("var(")[1:]}
    style = root.find(f"{SPACE}style")
    assert style is not None and style.text is not None
    assert all(f"{name}:" in style.text for name in used)
    assert "prefers-color-scheme:dark" in style.text


def write_stats(folder: Path, lines: list[object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "stats.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return folder


def test_statistics_survive_a_killed_writer_and_nan(tmp_path: Path) -> None:
    lines = [
        {
            "kimg": k,
            "loss_discriminator": 1.0 / (k + 1),
            "loss_generator": float("nan") if k == 3 else 2.0,
        }
        for k in range(5)
    ]
    rows = charts.read_statistics([write_stats(tmp_path, [*lines, '{"kimg": 5, "loss_disc'])])
    assert len(rows) == 5
    assert [point.x for point in charts.curve(rows, "g_loss")] == [0, 1, 2, 4]
    (chart,) = charts.training_charts(rows)
    assert "nan" not in chart
    parse(chart)


def test_long_trainings_are_thinned_without_bias(tmp_path: Path) -> None:
    rows = [{"kimg": k, "loss_generator": float(k)} for k in range(5001)]
    points = charts.curve(rows, "g_loss")
    assert len(points) == charts.MOST_POINTS
    assert all(point.x == pytest.approx(point.y) for point in points)
    assert np.mean([point.y for point in points]) == pytest.approx(2500, rel=0.01)


def test_no_statistics_no_chart(tmp_path: Path) -> None:
    assert charts.training_charts(charts.read_statistics([tmp_path])) == []


def score(
    features: str, mean: float, labels: str = "all", probe: str = "logistic"
) -> dict[str, object]:
    return {
        "source": "s",
        "features": features,
        "probe": "chance" if features == "chance" else probe,
        "labels": labels,
        "label_count": 1000 if labels == "all" else 10 * int(labels),
        "mean": mean,
        "low": mean - 0.01,
        "high": mean + 0.01,
        "half": 0.01,
        "saw_labels": False,
    }


def test_chance_far_below_does_not_squeeze_the_others() -> None:
    rows = [score("discriminator", 0.97), score("pixels", 0.95), score("chance", 0.10)]
    (chart,) = charts.accuracy_charts({"scores": rows}, "s")
    assert "chance 10.0 %, below" in chart and ">0 %<" not in chart
    near = [score("discriminator", 0.17), score("pixels", 0.15), score("chance", 0.10)]
    (chart,) = charts.accuracy_charts({"scores": near}, "s")
    assert ">chance<" in chart
    bars, axis = charts.headline_rows(rows)
    assert [bar.name for bar in bars] == ["Discriminator features", "Raw pixels"] and axis.low > 0.9
