"""The health report of codes, on codes with planted faults; tables and ranks."""

from __future__ import annotations

import numpy as np

from gan_core.dedup import groups
from gan_core.dedup.hashing import codes
from gan_core.dedup.hashing.group_by_code import group_by_code


def test_health_finds_dead_bits_always_on_bits_and_overfull_codes() -> None:
    bits = np.random.default_rng(0).random((1000, 128)) < 0.5
    bits[:, 7] = False
    bits[:, 9] = True
    bits[:200] = bits[0]
    bits[200:250] = False
    report = codes.health(codes.pack_bits(bits), max_group=100)
    assert report["dead_bits"] == [7]
    assert report["always_on_bits"] == []  # the blank rows have it off
    assert report["largest_code"] == 200 and report["overfull_rows"] == 200
    assert report["overfull_codes"] == [
        {"code": codes.pack_bits(bits[:1]).tobytes().hex(), "rows": 200}
    ]
    assert report["zero_code_rows"] == 50 and report["distinct_codes"] == 752
    assert codes.health(codes.pack_bits(bits[250:]))["always_on_bits"] == [9]


def test_entropy_of_fair_and_of_biased_bits() -> None:
    bits = np.zeros((4, 8), bool)
    bits[:2, 0] = True  # one fair bit: entropy 1
    bits[0, 1] = True  # a bit set in a quarter: 0.8113
    assert abs(codes.health(codes.pack_bits(bits))["bit_entropy_sum"] - 1.8113) < 1e-3
    assert codes.health(np.empty((0, 16), np.uint8))["rows"] == 0


def test_hamming_counts_differing_bits() -> None:
    left, right = np.random.default_rng(1).integers(0, 256, (2, 50, 16), dtype=np.uint8)
    slow = [
        bin(int.from_bytes(a.tobytes(), "big") ^ int.from_bytes(b.tobytes(), "big")).count("1")
        for a, b in zip(left, right, strict=True)
    ]
    assert codes.hamming(left, right).tolist() == slow


def test_the_largest_original_is_preferred_then_the_smallest_id_then_the_box() -> None:
    rank = groups.rank_by_size(
        np.array([4.0, 9, 9, 9]), np.array(["a", "c", "b", "b"]), np.array([0, 0, 1, 0])
    )
    assert rank.tolist() == [3, 2, 1, 0]


def test_equal_codes_keep_the_preferred_row_of_each_code() -> None:
    values = np.zeros((5, 16), np.uint8)
    values[[1, 3]] = 255
    found_groups, found = group_by_code(values, np.array([2, 4, 0, 3, 1]), radius=0)
    assert found_groups.representative.tolist() == [2, 3, 2, 3, 2]
    assert list(zip(found.i.tolist(), found.j.tolist(), strict=True)) == [(2, 0), (3, 1), (2, 4)]
    assert set(found.reason) == {"equal code"} and (found.score == 1).all()


def test_a_radius_does_not_chain() -> None:
    bits = np.zeros((5, 128), bool)
    for row in range(5):
        bits[row, : 2 * row] = True  # each two bits from the next: a chain of length 8
    values = codes.pack_bits(bits)
    found_groups, found = group_by_code(values, np.arange(5), radius=2)
    assert found_groups.representative.tolist() == [0, 0, 2, 2, 4]
    assert found.summary["largest_chain_of_codes"] == 5
    assert found.reason == ["code distance 2"] * 2
