"""Duplicates from the codes alone: equal codes (the paper's rule) or codes within a few bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gan_core.dedup.groups import Groups, component_sizes, representative_balls
from gan_core.dedup.hashing.codes import BITS, Codes, equal_codes, hamming
from gan_core.dedup.hashing.hamming_search import pairs_within
from gan_core.dedup.tables import Found

Rows = npt.NDArray[np.int64]


def group_by_code(codes: Codes, rank: Rows, radius: int) -> tuple[Groups, Found]:
    """Groups rows whose codes lie within `radius` bits of their representative's code.

    Radius 0 is the DCGAN paper's rule: a collision of codes is a duplicate (section 4.1).

    Args:
        codes: uint8 [n, 16].
        rank: int64 [n], lower is preferred as representative.
        radius: bits.

    Returns:
        the groups, and the pairs (representative, row left out) with score = share of equal bits.
    """
    classes, first = equal_codes(codes)
    number = len(first)
    best = np.full(number, len(codes), np.int64)
    np.minimum.at(best, classes, rank)
    row_of = np.empty(len(codes), np.int64)
    row_of[rank] = np.arange(len(codes))
    class_rank = np.empty(number, np.int64)
    class_rank[np.argsort(best)] = np.arange(number)
    chained = 1
    if radius:
        pairs = pairs_within(codes[first], radius)
        over = representative_balls(pairs.i, pairs.j, class_rank).representative
        chained = int(component_sizes(pairs.i, pairs.j, number).max(initial=1))
    else:
        over = np.arange(number, dtype=np.int64)
    representative = row_of[best[over[classes]]]
    left_out = np.flatnonzero(representative != np.arange(len(codes)))
    pair = np.full(len(codes), -1, np.int64)
    pair[left_out] = np.arange(len(left_out))
    i, j = representative[left_out], left_out
    distance = hamming(codes[i], codes[j])
    found = Found(
        i,
        j,
        (1 - distance / BITS).astype(np.float32),
        ["equal code" if bits == 0 else f"code distance {bits}" for bits in distance.tolist()],
        {"distinct_codes": number, "radius": radius, "largest_chain_of_codes": chained},
    )
    return Groups(representative, pair), found
