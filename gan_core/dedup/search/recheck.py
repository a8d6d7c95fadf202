"""Groups of pairs that a caller confirms, asking for as few pairs as may be: only those that
tie an image to its representative count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gan_core.dedup.groups import Groups, representative_balls
from gan_core.dedup.hashing import SIDE
from gan_core.dedup.search.descriptors import Fetch
from gan_core.dedup.search.verify_pairs import Verified

Rows = npt.NDArray[np.int64]
Confirm = Callable[[Verified], npt.NDArray[np.bool_]]
Identical = Callable[
    [Rows, Rows], npt.NDArray[np.bool_]
]  # of pairs with equal thumbnails: whether nothing differs at all

_ROUNDS = 4  # of asking for the pairs in use; then for all that are left
_SPLITS = 20


def exact_pairs(rows: Rows, exact: Rows) -> Verified:
    """Pairs of equal pixels as verified ones: nothing shifted, score 1."""
    count = len(rows)
    ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
    maps = np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1))
    return Verified(rows, exact, np.zeros(count, np.bool_), ones, zeros, zeros, ones, maps, [count])


def exact_reasons(
    first: Rows, second: Rows, fetch: Fetch, identical: Identical | None, block: int = 2048
) -> list[str]:
    """A phrase for each pair of equal thumbnails: 'identical pixels' only of images that do not
    differ.

    Args:
        fetch: gives uint8 [m, S, S, 3] for row numbers.
        identical: asked where full resolution is at hand; None: that is all
            there is of an image.
    """

    def alike(a: Rows, b: Rows) -> npt.NDArray[np.bool_]:
        return np.asarray((fetch(a) == fetch(b)).all(axis=(1, 2, 3)), np.bool_)

    if identical is not None:
        same = identical(first, second).tolist()
    else:
        same = [
            one
            for at in range(0, len(first), block)
            for one in alike(first[at : at + block], second[at : at + block])
        ]
    return ["identical pixels" if one else f"equal at {SIDE} x {SIDE} pixels" for one in same]


def split_exact_duplicates(same: Rows, rank: Rows, confirm: Confirm) -> Rows:
    """Classes of equal thumbnails, less the members that differ at full resolution: those make
    classes of their own.

    Args:
        same: int64 [n], each row's class by its preferred row.
        rank: int64 [n], lower is preferred.

    Returns:
        the classes after the split, as `same`.
    """
    same = same.copy()
    open_ = np.flatnonzero(same != np.arange(len(same)))
    for _ in range(_SPLITS):
        if not len(open_):
            return same
        bad = open_[~confirm(exact_pairs(same[open_], open_))]
        bad = bad[np.lexsort((rank[bad], same[bad]))]
        first = np.ones(len(bad), np.bool_)
        first[1:] = same[bad[1:]] != same[bad[:-1]]
        same[bad] = (
            bad[np.maximum.accumulate(np.where(first, np.arange(len(bad)), 0))] if len(bad) else bad
        )
        open_ = bad[~first]
    same[open_] = open_  # a class in which nearly all differ
    return same


def drop_unconfirmed(pairs: Verified, choose: Callable[[Rows], Rows], confirm: Confirm) -> Verified:
    """Drops pairs that are not confirmed, until all that are in use are.

    Args:
        choose: the numbers in use among the given numbers of pairs.
    """
    known = np.zeros(len(pairs.i), np.int8)
    for turn in range(_ROUNDS + 1):
        alive = np.flatnonzero(known >= 0)
        used = choose(alive) if turn < _ROUNDS else alive
        ask = used[known[used] == 0]
        if not len(ask):
            break
        known[ask] = np.where(confirm(pairs.select(ask)), 1, -1)
    return pairs.select(np.flatnonzero(known >= 0))


def representative_pairs(pairs: Verified, rank: Rows) -> Callable[[Rows], Rows]:
    """For `drop_unconfirmed`: the pairs that tie rows to their representatives."""

    def choose(alive: Rows) -> Rows:
        numbers = representative_balls(pairs.i[alive], pairs.j[alive], rank).pair
        return alive[np.unique(numbers[numbers >= 0])]

    return choose


def grouped(accepted: Verified, same: Rows, rank: Rows) -> Groups:
    """The groups of accepted pairs and of equal pixels; a pair's number beyond the accepted ones is
    that of an exact duplicate and its row.
    """
    groups = representative_balls(accepted.i, accepted.j, rank)
    exact = np.flatnonzero(same != np.arange(len(same)))
    representative, pair = groups.representative.copy(), groups.pair.copy()
    representative[exact] = groups.representative[same[exact]]
    # An exact duplicate of a row that is left out hangs on that row's pair, that of a
    # representative on its own.
    own = len(accepted.i) + np.arange(len(exact))
    pair[exact] = np.where(groups.pair[same[exact]] >= 0, groups.pair[same[exact]], own)
    return Groups(representative, pair)
