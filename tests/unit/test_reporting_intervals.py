"""Intervals against slow or independent versions, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gan_core.metrics.intervals import (
    Interval,
    accuracy_interval,
    difference_interval,
    spread_of_draws,
    unpaired_difference,
    wilson,
)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (457, 457), (971, 1000)])
def test_wilson_is_scipys(right: int, n: int) -> None:
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_draws_follow_students_t() -> None:
    draws = [0.71, 0.74, 0.69, 0.73, 0.72]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(draws), scale=stats.sem(draws))
    assert spread_of_draws(draws) == pytest.approx((high - low) / 2)
    assert spread_of_draws([0.7]) == 0.0


def test_interval_never_leaves_the_range() -> None:
    for draws in ([1.0], [0.0], [1.0, 1.0, 0.99], [0.0, 0.01]):
        found = accuracy_interval(draws, 50)
        assert 0 <= found.low <= found.mean <= found.high <= 1


def test_both_sources_of_chance_count() -> None:
    draws = [0.6, 0.7, 0.65]
    few, many = accuracy_interval(draws, 100), accuracy_interval(draws, 1_000_000)
    assert many.half == pytest.approx(spread_of_draws(draws), rel=1e-3)
    binomial = 1.96 * math.sqrt(0.65 * 0.35 / 100)
    assert few.half == pytest.approx(math.hypot(spread_of_draws(draws), binomial), rel=0.03)


def test_accuracy_interval_covers() -> None:
    """Draws differ by N(0, 0.02) around 0.8, each is scored on the same 400 images: about 95 of 100
    intervals hold the truth.
    """
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(600):
        easy = random.random(400)  # the test set's own luck, shared by the draws
        draws = [
            float((easy < np.clip(0.8 + random.normal(0, 0.02), 0, 1)).mean()) for _ in range(5)
        ]
        found = accuracy_interval(draws, 400)
        hits += found.low <= 0.8 <= found.high
    assert 0.93 <= hits / 600 <= 1.0


def test_paired_difference_covers_and_is_narrower() -> None:
    random = np.random.default_rng(1)
    hits, paired_half, unpaired_half = 0, 0.0, 0.0
    for _ in range(400):
        easy = random.random((1, 500))
        ours, theirs = (
            easy < 0.85,
            easy < 0.80,
        )  # what one gets right and the other does not is the same 5 %
        found = difference_interval(ours, theirs)
        hits += found.low <= 0.05 <= found.high
        a, b = (accuracy_interval([float(x.mean())], 500) for x in (ours, theirs))
        paired_half, unpaired_half = (
            paired_half + found.half,
            unpaired_half + unpaired_difference(a, b).half,
        )
    assert 0.92 <= hits / 400 <= 0.98
    assert paired_half < 0.6 * unpaired_half


def test_equal_predictions_do_not_pass_for_certainty() -> None:
    same = np.random.default_rng(2).random((3, 50)) < 0.5
    found = difference_interval(same, same)
    assert found.mean == 0 and found.low == -found.high
    assert pytest.approx(found.high, rel=1e-3) == 1.96 / 52  # Agresti and Min: sqrt(1 / 52 / 52)


def test_unpaired_difference_of_exact_values() -> None:
    found = unpaired_difference(Interval(0.9, 0.87, 0.92), Interval(0.8, 0.76, 0.83))
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1 - math.hypot(0.03, 0.03)) and found.high == pytest.approx(
        0.1 + math.hypot(0.02, 0.04)
    )
