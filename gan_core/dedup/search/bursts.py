"""Images with more duplicates than neighbours were searched: their representatives are compared
with one another until nothing changes.

A burst of a thousand duplicates has half a million pairs. Ten neighbours of each make some dozens
of groups of it; the representatives of those are few, so their own neighbours are looked up among
them alone, and the members of a representative that is absorbed are compared with the new one.
Each round makes far fewer representatives, and costs about one comparison an image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gan_core.dedup.groups import representative_balls
from gan_core.dedup.search import neighbours
from gan_core.dedup.search.descriptors import Described, mirrored
from gan_core.dedup.search.neighbours import Candidates
from gan_core.dedup.search.verify_pairs import Verified

Rows = npt.NDArray[np.int64]

_ROUNDS = 12


def keys_of(pairs: Candidates | Verified) -> npt.NDArray[np.uint64]:
    """A number for each pair (i, j, mirrored)."""
    high, middle = (
        pairs.i.astype(np.uint64) << np.uint64(32),
        pairs.j.astype(np.uint64) << np.uint64(1),
    )
    return np.asarray(high | middle | pairs.mirrored.astype(np.uint64), np.uint64)


def join_representatives(
    described: Described,
    accepted: Verified,
    rank: Rows,
    rows: Rows,
    tried: npt.NDArray[np.uint64],
    verify: Callable[[Candidates], Verified],
    merge: Callable[[Verified, Verified], Verified],
    *,
    count: int,
    floor: float,
    mirror: bool,
) -> Verified:
    """The accepted pairs and what comparing representatives adds.

    Args:
        rows: those whose neighbourhood was full of duplicates.
        tried: `keys_of` the candidates that were verified before.
        verify: verifies candidates, gives the accepted ones.
        merge: the union of two sets of accepted pairs, each pair once.
        count, floor, mirror: as in `neighbours.nearest`.
    """
    for _ in range(_ROUNDS):
        before = representative_balls(accepted.i, accepted.j, rank)
        representatives = np.unique(before.representative[rows])
        near = neighbours.nearest(
            described.edges,
            count,
            floor=floor,
            mirror=mirror,
            queries=representatives,
            targets=representatives,
        )
        fresh = ~np.isin(keys_of(near), tried)
        if not fresh.any():
            break
        near = near.select(fresh)
        tried = np.concatenate([tried, keys_of(near)])
        found = verify(near)
        if not len(found.i):
            break
        flips = np.where(
            before.pair >= 0, accepted.mirrored[before.pair] if len(accepted.i) else False, False
        )
        accepted = merge(accepted, found)
        after = representative_balls(accepted.i, accepted.j, rank)
        moved = np.flatnonzero(
            (after.representative[before.representative] != before.representative)
            & (before.representative != np.arange(len(rank)))
        )
        members = _to_representatives(
            described,
            moved,
            before.representative,
            after.representative,
            flips,
            accepted,
            after.pair,
        )
        fresh = ~np.isin(keys_of(members), tried)
        members = members.select(fresh)
        tried = np.concatenate([tried, keys_of(members)])
        accepted = merge(accepted, verify(members))
    return accepted


def _to_representatives(
    described: Described,
    rows: Rows,
    old: Rows,
    new: Rows,
    flips: npt.NDArray[np.bool_],
    accepted: Verified,
    pair: Rows,
) -> Candidates:
    """Candidates of rows and the representatives of their former representatives, mirrored when one
    of the two steps was.
    """
    target = new[old[rows]]
    flip = flips[rows] ^ accepted.mirrored[pair[old[rows]]]
    i, j = np.minimum(rows, target), np.maximum(rows, target)
    left = described.edges[i]
    left[flip] = mirrored(left[flip])
    similarity = np.einsum("nd,nd->n", left, described.edges[j]).astype(np.float32)
    apart = i != j
    order = np.lexsort((flip[apart], j[apart], i[apart]))
    return Candidates(i[apart], j[apart], flip[apart], similarity[apart]).select(order)
