"""Look-ups against the obvious slow way: nothing missed, nothing invented."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.dedup.hashing import hamming_search as lookup
from gan_core.dedup.hashing.codes import equal_codes
from gan_core.errors import DataError


def brute(codes: np.ndarray, radius: int) -> set[tuple[int, int, int]]:
    bits = np.unpackbits(codes, axis=1).astype(np.int16)
    out = set()
    for i in range(len(codes)):
        distance = np.abs(bits[i + 1 :] - bits[i]).sum(axis=1)
        out |= {(i, i + 1 + int(k), int(distance[k])) for k in np.flatnonzero(distance <= radius)}
    return out


def as_set(pairs: lookup.Pairs) -> set[tuple[int, int, int]]:
    listed = list(zip(pairs.i.tolist(), pairs.j.tolist(), pairs.distance.tolist(), strict=True))
    assert len(set(listed)) == len(listed) and listed == sorted(listed)
    return set(listed)


def planted(seed: int, rows: int, width: int, varying: int) -> np.ndarray:
    """Codes of which most bits are dead and many are near duplicates of others."""
    rng = np.random.default_rng(seed)
    bits = np.zeros((rows, width * 8), bool)
    columns = rng.permutation(width * 8)[:varying]
    bits[:, columns] = rng.random((rows, varying)) < 0.5
    for row in range(rows // 2, rows):
        bits[row] = bits[rng.integers(0, rows // 2 + 1)]
        bits[row, rng.integers(0, width * 8, rng.integers(0, 6))] ^= True
    return np.packbits(bits, axis=1)


@pytest.mark.parametrize("method", ["sorted", "faiss", "brute"])
@given(
    st.integers(0, 2**32),
    st.integers(0, 120),
    st.integers(0, 9),
    st.sampled_from([8, 16]),
    st.integers(4, 64),
)
@settings(max_examples=60, deadline=None)
def test_every_pair_within_the_radius(
    method: str, seed: int, rows: int, radius: int, width: int, varying: int
) -> None:
    codes = planted(seed, rows, width, varying)
    assert as_set(lookup.pairs_within(codes, radius, method=method)) == brute(codes, radius)


def test_large_radius_and_odd_widths() -> None:
    codes = planted(5, 60, 3, 24)
    for radius in (0, 3, 11, 12, 20):
        assert as_set(lookup.pairs_within(codes, radius)) == brute(codes, radius)


@given(st.integers(0, 2**32), st.integers(0, 80), st.integers(0, 4), st.integers(4, 64))
@settings(max_examples=25, deadline=None)
def test_rows_that_share_a_piece_are_looked_up_by_their_other_bits(
    seed: int, rows: int, radius: int, varying: int
) -> None:
    codes = planted(seed, rows, 16, varying)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "OVERFULL", 3)
        assert as_set(lookup.pairs_within(codes, radius)) == brute(codes, radius)


def test_many_rows_that_share_most_of_their_code_cost_no_quadratic_time() -> None:
    """Of 20,000 codes half agree in two of three pieces: one with another would be a hundred
    million comparisons.
    """
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (20_000, 16), dtype=np.uint8)
    codes[::2, :11] = 37
    compared = 0
    distance = lookup._distance

    def counted(words: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(i)
        return distance(words, i, j)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "_distance", counted)
        found = lookup.pairs_within(codes, 2)
    assert compared < 20_000 * 100
    sample = rng.choice(20_000, 50, replace=False)
    for row in sample.tolist():
        near = np.flatnonzero(np.bitwise_count(codes ^ codes[row]).sum(axis=1) <= 2)
        mine = np.concatenate([found.j[found.i == row], found.i[found.j == row], [row]])
        assert sorted(mine.tolist()) == near.tolist()


def test_the_three_ways_agree_on_many_rows() -> None:
    codes = planted(7, 20_000, 16, 128)
    found = [
        as_set(lookup.pairs_within(codes, 4, method=method))
        for method in ("sorted", "faiss", "brute")
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) > 5_000


@given(st.lists(st.binary(min_size=2, max_size=2), max_size=30))
@settings(max_examples=100, deadline=None)
def test_equal_codes_number_classes_by_first_appearance(rows: list[bytes]) -> None:
    codes = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 2)
    classes, first = equal_codes(codes)
    seen: dict[bytes, int] = {}
    assert classes.tolist() == [seen.setdefault(row, len(seen)) for row in rows]
    assert [rows[row] for row in first] == list(seen) and [
        rows.index(one) for one in seen
    ] == first.tolist()


def test_too_many_pairs_are_refused_before_memory_is_full() -> None:
    with pytest.raises(DataError):
        lookup.pairs_within(np.zeros((200, 16), np.uint8), 0, max_pairs=1000)
