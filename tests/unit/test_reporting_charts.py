"""Charts: well-formed SVG, equal for equal figures, that clips no label and follows the theme."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.reporting import charts
from gan_core.reporting.charts import LIGHT, LineChart, Series, apart, line_charts, standalone

SPACE = "{http://www.w3.org/2000/svg}"
LETTER = 0.56  # of the font size: the width of a letter in a wide font of a page


Box = tuple[float, float, float, float]


def boxes(svg: str) -> list[tuple[str, Box]]:
    """Each text with the box (left, top, right, bottom) in which it lies, in units of the SVG."""
    found = []
    for text in ET.fromstring(svg).iter(f"{SPACE}text"):
        style = text.get("style", "")
        size = re.search(r"([\d.]+)px", style)
        assert size is not None
        words = "".join(text.itertext())
        width, height = LETTER * float(size[1]) * len(words), float(size[1])
        anchor = 0.5 if "anchor: middle" in style else 1.0 if "anchor: end" in style else 0.0
        x, y = float(text.get("x", 0)), float(text.get("y", 0))
        corners = np.array([(-anchor * width, 0), ((1 - anchor) * width, -height)])
        if turned := re.search(r"rotate\((-?[\d.]+)", text.get("transform", "")):
            angle = np.deg2rad(float(turned[1]))
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            corners = corners @ turn
        low, high = corners.min(axis=0), corners.max(axis=0)
        found.append((words, (x + low[0], y + low[1], x + high[0], y + high[1])))
    return found


def labels(svg: str) -> set[str]:
    return {text for text, _ in boxes(svg)}


def check_inside(svg: str) -> None:
    width, height = (float(side) for side in re.findall(r'(?:width|height)="([\d.]+)"', svg)[:2])
    for text, (left, top, right, bottom) in boxes(svg):
        inside = left >= -1 and top >= -1 and right <= width + 1 and bottom <= height + 1
        assert inside, f"{text!r} leaves the chart: {left, top, right, bottom} of {width, height}"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_keep_apart_in_their_order(places: list[float]) -> None:
    out = apart(places, 0.1)
    assert np.diff(sorted(out)).min(initial=1) >= min(0.1, 1 / max(len(out) - 1, 1)) - 1e-9
    assert min(out) >= -1e-9 and max(out) <= 1 + 1e-9
    assert [out[i] for i in np.argsort(places, kind="stable")] == sorted(out)
    assert apart([0.1, 0.3, 0.6], 0.1) == [0.1, 0.3, 0.6]


def chart(**given: Any) -> LineChart:
    line = Series("a <b> & $c$", [0, 10], [0.0, 1.0], low=[-0.1, 0.9], high=[0.1, 1.1])
    other = Series("a long name", [0, 10], [0.5, 0.98], tone=2)
    return LineChart("T", [line, other], (-0.2, 1.2), "x", **given)


def test_line_chart_puts_points_on_the_scale() -> None:
    svg = line_charts([chart(note="a note")], 'say "it"')
    root = ET.fromstring(svg)
    dots = [dot for dot in root.iter(f"{SPACE}use") if "var(--c2)" in dot.get("style", "")]
    (x0, y0), (x1, y1) = ((float(dot.get("x", "")), float(dot.get("y", ""))) for dot in dots)
    assert 20 < x0 < 60 and x1 > 200 and y0 > y1  # larger values are higher
    assert {"a <b> & $c$", "a long name", "T", "a note"} <= labels(svg)
    assert root.get("aria-label") == 'say "it"'
    check_inside(svg)


def test_equal_figures_give_equal_bytes_without_foreign_colours_and_fonts() -> None:
    svg = line_charts([chart(), chart(percent=True)], "l")
    assert svg == line_charts([chart(), chart(percent=True)], "l")
    assert not re.findall(r"#[0-9a-f]{6}", svg) and "DejaVu" not in svg and "url(" not in svg
    assert len(ET.fromstring(svg).findall(f".//{SPACE}text[.='T']")) == 2


@pytest.mark.parametrize("name", ["cat", "bedroom", "an uncommonly long name of a class"])
def test_confusion_chart_clips_no_label_and_shows_every_count(name: str) -> None:
    counts = [[5, 1, 0], [0, 7, 0], [2, 0, 30_000]]
    found = {"classes": [name, "<dog>", "horse"], "counts": counts}
    svg = charts.confusion_chart(found)
    assert {"5", "1", "7", "2", "30k", name, "<dog>"} <= labels(svg)
    check_inside(svg)


def test_a_file_defines_the_colours_that_it_uses() -> None:
    text = standalone(line_charts([chart()], "l"))
    style = ET.fromstring(text).find(f"{SPACE}style")
    assert style is not None and style.text is not None
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert {"--c1", "--c2", "--line", "--muted"} <= used <= set(LIGHT)
    assert all(style.text.count(f"{name}:") == 2 for name in used)  # light and dark


def write_stats(folder: Path, lines: list[object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "stats.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return folder


def test_statistics_survive_a_killed_writer_and_nan(tmp_path: Path) -> None:
    nan = float("nan")
    lines = [
        {"kimg": k, "loss_discriminator": 1.0 / (k + 1), "loss_generator": nan if k == 3 else 2.0}
        for k in range(5)
    ]
    rows = charts.read_statistics([write_stats(tmp_path, [*lines, '{"kimg": 5, "loss_disc'])])
    assert len(rows) == 5
    (drawn,) = charts.training_charts(rows)
    assert [list(line.x) for line in drawn.series] == [[0, 1, 2, 3, 4], [0, 1, 2, 4]]
    assert "nan" not in line_charts([drawn])


def test_long_trainings_are_thinned_without_bias() -> None:
    x, y = charts.curve(
        [{"kimg": k, "loss_generator": float(k)} for k in range(5001)], "loss_generator"
    )
    assert len(x) == charts.MOST_POINTS and x == pytest.approx(y)
    assert np.mean(y) == pytest.approx(2500, rel=0.01)


def test_what_the_method_declares_is_drawn_as_lines_or_as_the_last_bars() -> None:
    rows = [
        {
            "kimg": k,
            "survivor_a": 0.25 * k,
            "survivor_b": 1 - 0.25 * k,
            "share_0": 0.1,
            "share_1": k,
        }
        for k in range(4)
    ]
    declared = [
        {"title": "Survivors", "prefix": "survivor_", "kind": "lines"},
        {"title": "Classes", "prefix": "share_", "kind": "bars"},
        {"title": "Never logged", "prefix": "other_", "kind": "bars"},
    ]
    lines, bars = charts.training_charts(rows, declared)
    assert [(line.name, line.y[-1]) for line in lines.series] == [("a", 0.75), ("b", 0.25)]
    assert bars.bars and bars.ticks == ["0", "1"] and bars.series[0].y == [0.1, 3]
    check_inside(line_charts([lines, bars]))


def test_one_line_of_statistics_is_a_chart_and_none_is_not(tmp_path: Path) -> None:
    rows = [{"kimg": 1.024, "loss_discriminator": 0.3, "score_real": 0.9, "score_fake": 0.2}]
    for drawn in charts.training_charts(rows):
        svg = line_charts([drawn])
        assert svg.count("<use") == len(drawn.series)  # a dot for each
        check_inside(svg)
    assert charts.training_charts(charts.read_statistics([tmp_path])) == []
    assert line_charts([]) == ""


def score(features: str, mean: float, labels: str = "all") -> dict[str, Any]:
    return {
        "source": "s",
        "features": features,
        "probe": "chance" if features == "chance" else "logistic",
        "labels": labels,
        "label_count": 1000 if labels == "all" else 10 * int(labels),
        "mean": mean,
        "low": mean - 0.01,
        "high": mean + 0.01,
        "half": 0.01,
        "saw_labels": "",
    }


def test_chance_far_below_does_not_squeeze_the_others() -> None:
    rows = [score("discriminator", 0.97), score("pixels", 0.95), score("chance", 0.10)]
    summary = {"scores": rows, "headline": rows[0]}
    (drawn,) = charts.accuracy_charts(summary, "s")
    assert drawn.note == "chance 10.0 %, below" and drawn.limits[0] > 0.9
    near = [score("discriminator", 0.17), score("pixels", 0.15), score("chance", 0.10)]
    (drawn,) = charts.accuracy_charts({"scores": near}, "s")
    assert [line.name for line in drawn.series] == ["discriminator", "raw pixels", "chance"]
    for width in (330, 1000):
        svg = charts.headline_plot(summary, width=width)
        assert {"Discriminator features", "Raw pixels", "97.0 ± 1.0"} <= labels(svg)
        assert "Chance" not in labels(svg)
        check_inside(svg)


def test_feature_sets_of_unlisted_names_have_colours_of_their_own() -> None:
    names = ("encoder", "discriminator", "generator", "pixels", "random", "my_package.edges")
    names += ("chance",)
    tones = charts.tones([score(name, 0.5) for name in names])
    assert len(set(tones.values())) == len(names)
