"""Draws of labels, whatever the classes' sizes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gan_core.metrics.draws import draws_of, hold_out

sizes = st.lists(st.integers(2, 60), min_size=2, max_size=6)


@given(sizes, st.floats(0.05, 0.6), st.integers(0, 1000))
def test_hold_out_divides_and_leaves_every_class_on_both_sides(
    counts: list[int], share: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    pool, validation = hold_out(labels, share, seed)
    assert sorted([*pool, *validation]) == list(range(len(labels)))
    assert set(labels[pool]) == set(labels[validation]) == set(labels)


@given(sizes, st.integers(1, 70), st.integers(0, 1000))
def test_draws_have_no_row_twice_and_never_more_than_asked(
    counts: list[int], number: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    draws, result = draws_of(labels, [number, "all"], 2, seed)
    for draw in draws[:-1]:
        assert len(set(draw.rows.tolist())) == len(draw.rows)
        for label, there in enumerate(counts):
            assert int((labels[draw.rows] == label).sum()) == min(number, there)
    assert len(draws[-1].rows) == len(labels)
    assert bool(result) == (number > min(counts) or number >= max(counts))
