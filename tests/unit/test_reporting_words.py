"""Sentences: that they say what the numbers say, above all when the numbers are not kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gan_core.metrics.intervals import Interval, accuracy_interval, difference_interval
from gan_core.reporting import sentences as words
from gan_core.reporting.page import compact, figure, together, undrawn_note
from gan_core.reporting.run_info import costs, duration, memory, volume
from gan_core.reporting.scores import headline
from gan_core.reporting.summary import scores_table, set_titles, table_notes, title


def row(
    features: str,
    mean: float,
    *,
    labels: str = "all",
    probe: str = "linear_svm",
    validation: float = 0.5,
    **more: Any,
) -> dict[str, Any]:
    return {
        "source": "digits",
        "features": features,
        "probe": probe,
        "labels": labels,
        "draws": 3,
        "mean": mean,
        "low": mean - 0.009,
        "high": mean + 0.009,
        "half": 0.009,
        "validation": validation,
        "saw_labels": False,
        **more,
    }


def gap(baseline: str, mean: float, verdict: str) -> dict[str, Any]:
    same = {"source": "digits", "features": "discriminator", "probe": "linear_svm", "labels": "all"}
    ends = {"low": mean - 0.01, "high": mean + 0.01, "half": 0.01}
    return {**same, "baseline": baseline, "mean": mean, **ends, "verdict": verdict}


def summary(rows: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "scores": rows,
        "differences": gaps,
        "headline": headline(rows),
        "sources": {"train": ["digits"], "evaluate": ["digits"]},
        "transfer": False,
    }


ROWS = [
    row("discriminator", 0.971),
    row("random", 0.932),
    row("pixels", 0.950),
    row("chance", 0.102, probe="chance"),
]


def test_the_result_in_one_sentence() -> None:
    result = words.result_sentence(summary(ROWS, []))
    assert result == (
        "Discriminator features reach 97.1 % (± 0.9) with linear SVM on all labels; "
        "random weights 93.2 %, raw pixels 95.0 %."
    )


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        (
            [gap("random", 0.039, "above"), gap("pixels", 0.021, "above")],
            "Discriminator features beat random weights by 3.9 ± 1.0 points "
            "and raw pixels by 2.1 ± 1.0 points.",
        ),
        (
            [gap("random", 0.039, "above"), gap("pixels", -0.021, "below")],
            "Discriminator features beat random weights by 3.9 ± 1.0 "
            "points, but fall short of raw pixels by "
            "2.1 ± 1.0 points.",
        ),
        (
            [gap("random", 0.002, "level"), gap("pixels", -0.004, "level")],
            "Discriminator features do not beat random weights (+0.2 ± 1.0 "
            "points) or raw pixels "
            "(−0.4 ± 1.0 points): the differences are within the interval.",
        ),
        (
            [
                gap("random", 0.05, "above"),
                gap("pixels", 0.001, "level"),
                gap("kmeans", -0.05, "below"),
            ],
            "Discriminator features beat random weights by 5.0 ± 1.0 "
            "points, but do not beat raw pixels "
            "(+0.1 ± 1.0 points): the difference is within the interval; they fall short of "
            "K-means by "
            "5.0 ± 1.0 points.",
        ),
        (
            [gap("random", -0.05, "below"), gap("pixels", 0.001, "level")],
            "Discriminator features do not beat raw pixels (+0.1 ± 1.0 points): the difference is "
            "within the interval; they fall short of "
            "random weights by 5.0 ± 1.0 points.",
        ),
        ([], "There is no baseline to compare with, so this number says little on its own."),
    ],
)
def test_the_verdict_is_honest(gaps: list[dict[str, Any]], expected: str) -> None:
    assert words.verdict_sentence(summary(ROWS, gaps)) == expected


def test_the_headline_is_chosen_on_validation_never_on_test() -> None:
    """The probe with the better test score loses when its validation score is worse."""
    rows = [
        row("discriminator", 0.99, probe="knn", validation=0.90),
        row("discriminator", 0.95, validation=0.95),
        row("pixels", 0.999),
    ]
    chosen = headline(rows)
    assert chosen is not None and chosen["probe"] == "linear_svm"
    fewer = [*rows, row("discriminator", 0.999, labels="10", validation=0.999)]
    assert headline(fewer) == chosen  # most labels first


def test_the_headline_is_of_the_first_source_named() -> None:
    """Another source with higher accuracies is another task, not a better result."""
    rows = [
        row("discriminator", 0.8, validation=0.8),
        row("discriminator", 0.99, validation=0.99, source="easy"),
    ]
    chosen = headline(rows, "digits")
    assert chosen is not None and chosen["source"] == "digits"


def test_table_marks_the_best_and_who_saw_labels() -> None:
    rows = [
        row("discriminator", 0.971, saw_labels=True),
        row("pixels", 0.980),
        row("pixels", 0.5, labels="10"),
    ]
    for line, value in zip(rows, (5e-4, 0.01, 1e-3), strict=True):
        line["chosen"] = [value]
    table = scores_table({"scores": rows})
    expected = [
        {
            "features": "Discriminator features †",
            "probe": "linear SVM",
            "10 per class": "",
            "all labels": "97.1 ± 0.9",
        },
        {
            "features": "Raw pixels",
            "probe": "linear SVM",
            "10 per class": "50.0 ± 0.9 *",
            "all labels": "98.0 ± 0.9 *",
        },
    ]
    assert table == [
        {**line, "chosen": result}
        for line, result in zip(expected, ("C 5e-4", "C 1e-3, 0.01"), strict=True)
    ]


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        (Interval(0.971, 0.962, 0.980), "97.1 ± 0.9"),
        (
            Interval(0.500, 0.4805, 0.5205),
            "50.0 ± 2.0",
        ),  # 0.05 points off the middle: invisible
        (accuracy_interval([0.0], 2), "0.0 (0.0 to 65.8)"),
        (
            Interval(0.934, 0.608, 1.0),
            "93.4 (60.8 to 100.0)",
        ),  # 93.4 ± 19.6 would lead beyond 100 %
        (Interval(0.279, 0.0, 0.924), "27.9 (0.0 to 92.4)"),  # and 27.9 ± 46.2 below 0
        (Interval(0.995, 0.9902, 0.9998), "99.5 ± 0.5"),
        (Interval(0.996, 0.9914, 1.0), "99.6 ± 0.4"),
        (
            Interval(0.9965, 0.9925, 1.0),
            "99.7 (99.2 to 100.0)",
        ),  # printed, 99.7 + 0.4 is more than 100
    ],
)
def test_plus_and_minus_only_where_they_name_the_interval(interval: Interval, message: str) -> None:
    assert words.score_words(interval.rounded()) == message


def test_what_is_printed_is_what_was_computed() -> None:
    """Of intervals of every kind the printed ends are the computed ones, to rounding and a seventh
    of the half-width, and possible.
    """
    random = np.random.default_rng(0)
    kinds = set()
    for _ in range(500):
        rows, right = int(random.integers(2, 600)), random.random()
        found = accuracy_interval(
            (random.binomial(rows, right, size=random.integers(1, 5)) / rows).tolist(), rows
        )
        gap = difference_interval(*(random.random((2, rows)) < random.random() for _ in range(2)))
        for one, least in ((found, 0.0), (gap, -1.0)):
            assert least <= one.low <= one.mean + 1e-12 and one.mean - 1e-12 <= one.high <= 1
            row = one.rounded()
            text = words.plus_minus(row, gap=least < 0, signed=least < 0)
            kinds.add((least, text[0]))
            if text.startswith("±"):
                half, mean = float(text[2:]), round(100 * one.mean, 1)
                ends = mean - half, mean + half
                assert 100 * least - 1e-9 <= ends[0] and ends[1] <= 100 + 1e-9
            else:
                ends = tuple(
                    float(part) for part in text.strip("()").replace("−", "-").split(" to ")
                )
            allowed = 0.05 if text.startswith("(") else 0.1 + max(0.1, 15 * one.half)
            assert np.abs(np.array(ends) - (100 * one.low, 100 * one.high)).max() <= allowed + 1e-3
    assert kinds == {(least, mark) for least in (0.0, -1.0) for mark in "±("}


def test_sentences_with_intervals_that_are_not_even() -> None:
    rows = [
        row("discriminator", 0.9, low=0.6, high=0.97, half=0.185, without_leaked=None),
        row("random", 0.3),
    ]
    result = words.result_sentence(summary(rows, []))
    assert result.startswith(
        "Discriminator features reach 90.0 % (60.0 to 97.0) with linear SVM on all labels;"
    )
    uneven = {"low": -0.2, "high": 0.05, "half": 0.125}
    verdict = words.verdict_sentence(summary(rows, [{**gap("random", -0.01, "level"), **uneven}]))
    assert "random weights (−1.0 points, −20.0 to +5.0): the difference is within" in verdict
    below = {"low": -0.6, "high": -0.1, "half": 0.25}
    verdict = words.verdict_sentence(summary(rows, [{**gap("random", -0.2, "below"), **below}]))
    assert verdict.endswith("fall short of random weights by 20.0 (10.0 to 60.0) points.")


def test_notes_below_the_table_say_what_its_marks_are() -> None:
    assert table_notes({"scores": []}) == []
    rows = [
        row("discriminator", 0.971, saw_labels="training"),
        row("pixels", 0.5, labels="10"),
        row("pixels", 0.4, labels="100"),
    ]
    assert table_notes({"scores": rows}) == [
        "* the highest mean of a column.",
        "† trained on labels.",
    ]
    rows[1] |= {"draws": 1}
    rows[2] |= {"draws": 1, "low": 0.1, "high": 0.5, "half": 0.2}
    notes = table_notes({"scores": [*rows, row("pixels", 0.9, source="other", draws=1)]})
    assert notes[0] == "* the highest mean of a column, for each source." and len(notes) == 4
    assert "its two ends are given in brackets" in notes[2]
    assert "one draw of labels at 10 and 100 per class" in notes[3] and "is not known" in notes[3]


def test_a_verdict_on_one_draw_of_labels_says_so() -> None:
    gaps = [{**gap("random", 0.039, "above"), "labels": "10"}]
    for draws, result in ((1, True), (2, False)):
        rows = [
            row("discriminator", 0.7, labels="10", draws=draws),
            row("random", 0.6, labels="10", draws=draws),
        ]
        assert ("one draw of labels" in words.verdict_sentence(summary(rows, gaps))) == result
    assert "one draw" not in words.verdict_sentence(
        summary([row("discriminator", 0.7, draws=1)], [gap("random", 0.1, "above")])
    )


def test_a_heading_names_a_dataset_by_its_title() -> None:
    recipe = {"sources": {"train": [{"name": "digits", "dataset": "digits"}], "evaluate": None}}
    renamed = {"sources": {"train": [{"name": "digits", "dataset": "cifar10"}]}}
    found = summary(ROWS, []) | {"outside": None, "training": {}, "transfer": False}
    found["sources"] = {"train": ["digits"], "evaluate": ["digits"]}
    heading = "Features learned from"
    assert title(found, set_titles(recipe)) == f"{heading} scikit-learn's digits"
    assert title(found, set_titles(renamed)) == f"{heading} digits"


def test_a_network_from_outside_is_not_said_to_have_learned_here() -> None:
    outside = {"name": "my_net:Net", "weights": "ab" * 32, "images": 330, "crelu_images": 0}
    found = summary(ROWS, []) | {"outside": outside}
    assert title(found, {}) == "Features of my_net:Net on digits"
    assert "with weights abababababab; not trained here" in words.outside_words(outside)
    assert (
        words.outside_use(outside)
        == "its batch-norm statistics were measured over 330 images of them, labels unused"
    )
    bare = outside | {"weights": "", "images": 0}
    assert "no weights were given" in words.outside_words(bare)
    assert words.outside_use(bare) == "nothing of the network depends on them"
    copies = {"rows": 1000, "removed": 1, "groups": 1, "largest": 2}
    assert "GAN" not in words.duplicates_sentence({"duplicates": copies, "outside": outside})
    assert "only the GAN" in words.duplicates_sentence({"duplicates": copies, "outside": {}})


def test_a_generator_that_draws_nothing_is_reported_by_the_last_contrast() -> None:
    rows = [{"kimg": 1.0, "contrast": 0.2}, {"kimg": 60.0, "contrast": 0.9}]
    assert undrawn_note(rows) == undrawn_note([]) == undrawn_note([{"kimg": 1.0}]) == ""
    assert "at 1 kimg the contrast of its samples is 0.20" in undrawn_note(rows[:1])
    assert undrawn_note([*rows, {"kimg": 61.0, "contrast": None}]) == ""


def test_no_duplicates_is_said() -> None:
    found = {"rows": 1334, "removed": 0, "groups": 0, "largest": 0}
    assert words.duplicates_sentence({"duplicates": found}) == (
        "No near-duplicates were found among the 1,334 training crops; all of them were kept."
    )
    assert "off" in words.duplicates_sentence({"duplicates": found, "dedup_mode": "off"})
    one = words.duplicates_sentence(
        {"duplicates": {"rows": 1000, "removed": 1, "groups": 1, "largest": 2}}
    )
    assert one.startswith(
        "1 near-duplicate of 1,000 training crops (0.1 %) in 1 group was left out"
    )


def test_units() -> None:
    assert [duration(s) for s in (0.02, 0.42, 59.94, 59.97, 75, 4000)] == [
        "under 0.1 s",
        "0.4 s",
        "59.9 s",
        "1 min 00 s",
        "1 min 15 s",
        "1 h 07 min",
    ]
    assert [memory(m) for m in (0, 512, 3000)] == ["", "512 MiB", "2.9 GiB"]
    assert [volume(b) for b in (12, 12_300, 123_000, 4_500_000_000)] == [
        "12 bytes",
        "12.3 kB",
        "123 kB",
        "4.5 GB",
    ]
    assert [figure(v) for v in (60.0, 0.0002, 1e-5, 12345.0)] == ["60", "0.0002", "1e-05", "12,345"]
    assert (
        compact([0.001]) == "0.001"
        and compact([0.001, 0.1]) == "0.001 to 0.1"
        and compact([]) == ""
    )
    assert (
        together("98.7 % (± 1.1), +0.0 ± 0.6 points")
        == "98.7\u00a0% (±\u00a01.1), +0.0\u00a0±\u00a00.6\u00a0points"
    )


def test_costs_are_sums_in_the_pipelines_order() -> None:
    artifacts = [
        {"stage": "evaluate", "node": "a", "seconds": 2.0, "peak_memory_mb": 100, "cached": False},
        {"stage": "evaluate", "node": "b", "seconds": 3.0, "peak_memory_mb": 400, "cached": True},
        {"stage": "ingest", "node": "c", "seconds": 10.0, "peak_memory_mb": None, "cached": True},
        {"stage": "curious", "node": "d", "seconds": None, "peak_memory_mb": 1},
    ]
    rows = costs(artifacts)
    assert [(r.stage, r.seconds, r.made, r.cached, r.peak_memory_mb) for r in rows] == [
        ("ingest", 10.0, 0, 1, 0.0),
        ("evaluate", 5.0, 1, 1, 400.0),
        ("curious", 0.0, 1, 0, 1.0),
    ]
    assert rows[1].share == 0.5
