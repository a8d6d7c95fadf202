"""What grouping promises, whatever the pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.dedup import groups
from gan_core.dedup.hashing import codes
from gan_core.dedup.hashing.group_by_code import group_by_code


@st.composite
def pair_sets(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], list[int]]:
    rows = draw(st.integers(1, 25))
    ends = st.integers(0, rows - 1)
    pairs = draw(st.sets(st.tuples(ends, ends).filter(lambda pair: pair[0] < pair[1]), max_size=60))
    return rows, sorted(pairs), draw(st.permutations(range(rows)))


@given(pair_sets())
@settings(max_examples=200, deadline=None)
def test_balls_around_representatives(case: tuple[int, list[tuple[int, int]], list[int]]) -> None:
    rows, pairs, order = case
    rank = np.array(order)
    i, j = np.array(pairs, np.int64).reshape(-1, 2).T
    found = groups.representative_balls(i, j, rank)
    linked = set(pairs)
    for row in range(rows):
        representative = int(found.representative[row])
        assert found.representative[representative] == representative
        if representative != row:
            assert (
                min(row, representative),
                max(row, representative),
            ) in linked  # a direct duplicate of its representative
            assert rank[representative] < rank[row]  # which is the preferred one
            assert set(pairs[found.pair[row]]) == {row, representative}
    kept = set(np.flatnonzero(found.keep).tolist())
    assert not any(
        one in kept and other in kept for one, other in pairs
    )  # no two representatives are duplicates
    assert found.sizes.sum() == sum(
        int((found.representative == representative).sum()) ** 2 for representative in kept
    )


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_code_groups_lie_within_the_radius_of_their_representative(
    seed: int, rows: int, radius: int
) -> None:
    rng = np.random.default_rng(seed)
    bits = np.zeros((rows, 128), bool)
    bits[:, :6] = rng.random((rows, 6)) < 0.5
    values = codes.pack_bits(bits)
    found, pairs = group_by_code(values, rng.permutation(rows), radius)
    assert codes.hamming(values, values[found.representative]).max() <= radius
    kept = np.flatnonzero(found.keep)
    between = (values[kept][:, None] ^ values[kept][None]).reshape(len(kept) ** 2, 16)
    distances = codes.hamming(between, np.zeros_like(between)).reshape(len(kept), -1)
    assert (distances[~np.eye(len(kept), dtype=bool)] > radius).all()
    assert len(kept) + len(pairs.i) == rows
