"""Groups of one family joined by direct comparison of their representatives.

A version that differs much from the representative of its family (padded, or turned by more than 3
degrees) may agree with another version only, and so makes a group of its own. Its pairs with
members of the other group, and pairs that come near the threshold, suggest which representatives
to compare, and how to lay one over the other. Only a comparison of the two representatives joins
their groups, so that no chain of links does: at full resolution, or at 32x32 where that is all
there is of an image (`gan_core/dedup/folder/full_resolution.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gan_core.dedup.groups import Groups, representative_balls
from gan_core.dedup.search.find_duplicates import Duplicates, accept
from gan_core.dedup.search.verify_pairs import Verified

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SUGGESTS = 0.55  # score at 32x32 from which a pair that is not accepted suggests a comparison


def join_groups(
    found: Duplicates,
    rank: Rows,
    compare: Callable[[Verified], npt.NDArray[np.bool_]],
    suggests: float = SUGGESTS,
) -> tuple[Groups, Verified]:
    """Joins the groups of a search whose representatives `compare` finds to be duplicates.

    Args:
        rank: int64 [n], a permutation: of two groups the one whose representative has the lower
            rank is joined by the other.
        compare: says of pairs with a rough map (`Verified.maps`) whether they are duplicates.
        suggests: least score of a suggestion.

    Returns:
        the groups, in which `pair` is that of the row's former group, and the pairs of
        representatives that join them: i stays a representative, j no more.
    """
    pairs = suggested_pairs(found, suggests)
    pairs = pairs.select(np.flatnonzero(compare(pairs)))
    joined = representative_balls(pairs.i, pairs.j, rank)
    used = pairs.select(joined.pair[joined.pair >= 0])
    used = _turned_round(used, joined.representative[used.j] == used.j)
    return Groups(joined.representative[found.groups.representative], found.groups.pair), used


def suggested_pairs(found: Duplicates, suggests: float = SUGGESTS) -> Verified:
    """Pairs of representatives that a pair of members suggests, each once, by the best such pair.

    A raised threshold says that different images of the set agree: then only accepted pairs count.
    Two representatives whose own pair was denied are not suggested again.
    """
    representative = found.groups.representative
    near = found.seen.select(
        np.flatnonzero((found.seen.score >= suggests) & (found.seen.score < found.threshold))
    )
    links = found.accepted if found.raised else found.accepted.joined(near)
    links = links.select(np.flatnonzero(representative[links.i] != representative[links.j]))
    to_row = _from_representatives(found)
    maps = np.linalg.inv(to_row[links.j]) @ _signed(links) @ to_row[links.i]
    links = _with_maps(links, representative[links.i], representative[links.j], maps)
    links = _turned_round(links, links.i > links.j)
    links = links.select(np.flatnonzero(~np.isin(_places(links), _places(_denied(found)))))
    order = np.lexsort((-links.score, links.j, links.i))
    first = np.ones(len(order), np.bool_)
    first[1:] = (np.diff(links.i[order]) != 0) | (np.diff(links.j[order]) != 0)
    return links.select(order[first])


def _denied(found: Duplicates) -> Verified:
    """The pairs that reached the threshold and are not among the accepted ones."""
    passed = accept(found.seen, found.threshold)
    return passed.select(np.flatnonzero(~np.isin(_places(passed), _places(found.accepted))))


def _places(pairs: Verified) -> npt.NDArray[np.uint64]:
    """A number for each pair (i, j)."""
    return np.asarray(pairs.i.astype(np.uint64) << np.uint64(32) | pairs.j.astype(np.uint64))


def maps_in_groups(found: Duplicates, joins: Verified) -> Floats:
    """Maps from the centre of each joined group to each of its rows, mirroring included: float64
    [n, 3, 3].
    """
    join = np.tile(np.eye(3), (len(found.same), 1, 1))
    join[joins.j] = _signed(joins)
    return np.asarray(_from_representatives(found) @ join[found.groups.representative], np.float64)


def _from_representatives(found: Duplicates) -> Floats:
    """Map from each row's representative to the row: float64 [n, 3, 3]."""
    groups, accepted = found.groups, found.accepted
    out = np.tile(np.eye(3), (len(found.same), 1, 1))
    own = np.flatnonzero((groups.pair >= 0) & (groups.pair < len(accepted.i)))
    own = own[found.same[own] == own]
    pairs = accepted.select(groups.pair[own])
    out[own] = np.where((pairs.j == own)[:, None, None], _signed(pairs), _inverse(pairs))
    return out[found.same]


def _signed(pairs: Verified) -> Floats:
    """The maps from i to j with the mirroring of i in them: float64 [pairs, 3, 3]."""
    out = np.tile(np.eye(3), (len(pairs.i), 1, 1))
    out[:, :2] = pairs.maps
    out[:, :, 0] *= np.where(pairs.mirrored, -1, 1)[:, None]
    return out


def _inverse(pairs: Verified) -> Floats:
    return np.asarray(np.linalg.inv(_signed(pairs)), np.float64)


def _with_maps(pairs: Verified, i: Rows, j: Rows, signed: Floats) -> Verified:
    """The pairs as pairs of other rows with other maps; the rest as it was."""
    mirrored = np.linalg.det(signed[:, :2, :2]) < 0
    maps = signed[:, :2].astype(np.float32)
    maps[mirrored, :, 0] *= -1
    return replace(pairs, i=i, j=j, mirrored=mirrored, maps=maps)


def _turned_round(pairs: Verified, chosen: npt.NDArray[np.bool_]) -> Verified:
    """The pairs with i and j exchanged where chosen."""
    i, j = np.where(chosen, pairs.j, pairs.i), np.where(chosen, pairs.i, pairs.j)
    maps = np.where(chosen[:, None, None], _inverse(pairs), _signed(pairs))
    return _with_maps(pairs, i, j, maps)
