"""How labels are divided and drawn."""

from __future__ import annotations

import numpy as np
import pytest

from gan_core.errors import DataError
from gan_core.metrics.draws import best, draws_of, hold_out


def test_validation_is_cut_from_every_class() -> None:
    labels = np.repeat(np.arange(5), [100, 50, 10, 2, 1])
    pool, validation = hold_out(labels, 0.2, seed=0)
    assert np.bincount(labels[validation], minlength=5).tolist() == [20, 10, 2, 1, 0]
    assert not set(pool) & set(validation) and len(pool) + len(validation) == len(labels)


def test_validation_of_a_given_size() -> None:
    labels = np.repeat(np.arange(10), 500)
    assert len(hold_out(labels, 0.2, seed=0, count=1000)[1]) == 1000


def test_single_rows_per_class_cannot_be_held_out() -> None:
    with pytest.raises(DataError, match="too few"):
        hold_out(np.arange(4), 0.2, seed=0)


def test_draws_are_balanced_and_differ_and_are_repeatable() -> None:
    labels = np.repeat(np.arange(10), 80)
    draws, result = draws_of(labels, [5, 20, "all"], 3, seed=1)
    assert not result and [draw.labels for draw in draws] == ["5"] * 3 + ["20"] * 3 + ["all"]
    for draw in draws[:6]:
        assert set(np.bincount(labels[draw.rows])) == {int(draw.labels)}
    assert len({draw.rows.tobytes() for draw in draws}) == 7
    again, _ = draws_of(labels, [20], 3, seed=1)
    np.testing.assert_array_equal(again[2].rows, draws[5].rows)


def test_nothing_drawable_falls_back_to_all_and_says_so() -> None:
    draws, result = draws_of(np.repeat(np.arange(3), 4), [100], 5, seed=0)
    assert [draw.labels for draw in draws] == ["all"]
    assert "no class has more than 4" in result[0] and result[-1] == "All labels are used instead."


def test_the_best_of_equals_is_the_smallest() -> None:
    assert best([1.0, 0.1, 10.0], np.array([[0.5, 0.5, 0.5]])) == 1
    assert best([0.1, 1.0], np.array([[0.9, 0.4], [0.1, 0.7]])) == 1
