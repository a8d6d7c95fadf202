"""From pairs to groups with one representative each, so that a chain of weak links cannot swallow a
class.

Rows are visited in order of preference (largest original first, then image_id, then box). A row
that is still free becomes a representative, of those of its direct partners that are still free. So
every row that is left out was itself found to be a duplicate of its representative, no two
representatives are duplicates of one another, and A ~ B ~ C never ties A to C. Connected
components, which would, are counted for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Who is kept for whom.

    Attributes:
        representative: int64 [n]: each row's representative; its own number when it is kept.
        pair: int64 [n]: number of the pair that ties the row to its representative; -1 for
            representatives.
    """

    representative: Rows
    pair: Rows

    @property
    def keep(self) -> npt.NDArray[np.bool_]:
        """bool [n]: the row is its own representative."""
        return np.equal(self.representative, np.arange(len(self.representative)))

    @property
    def sizes(self) -> Rows:
        """int64 [n]: rows in the row's group, 1 for a row alone."""
        return np.bincount(self.representative, minlength=len(self.representative))[
            self.representative
        ]


def rank_by_size(
    areas: npt.NDArray[Any], image_ids: npt.NDArray[Any], boxes: npt.NDArray[Any]
) -> Rows:
    """Rank of each row, 0 the most preferred: largest original, then smallest image_id, then
    smallest box.

    Args:
        areas: pixels of the original that the crop covers [n]; NaN counts as 0.
        image_ids: str [n].
        boxes: int [n].
    """
    order = np.lexsort((boxes, image_ids, -np.nan_to_num(np.asarray(areas, np.float64))))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def representative_balls(i: Rows, j: Rows, rank: Rows) -> Groups:
    """Groups `len(rank)` rows by the pairs (i, j) of direct duplicates; see the module's text.

    Args:
        i, j: int64 [pairs], either order, self-pairs not allowed.
        rank: int64 [n], a permutation; lower is preferred as representative.
    """
    rows = len(rank)
    representative = np.arange(rows, dtype=np.int64)
    pair = np.full(rows, -1, np.int64)
    if not len(i):
        return Groups(representative, pair)
    # Work on ranks: 0 is the first to choose. Both directions of every pair, sorted by chooser.
    ends = np.concatenate([rank[i], rank[j]])
    others = np.concatenate([rank[j], rank[i]])
    numbers = np.tile(np.arange(len(i)), 2)
    order = np.lexsort((others, ends))
    ends, others, numbers = ends[order], others[order], numbers[order]
    starts = np.flatnonzero(np.r_[True, ends[1:] != ends[:-1]])
    stops = np.r_[starts[1:], len(ends)]
    row_of = np.empty(rows, np.int64)
    row_of[rank] = np.arange(rows)
    assigned = np.zeros(rows, np.bool_)
    for chooser, start, stop in zip(
        ends[starts].tolist(), starts.tolist(), stops.tolist(), strict=True
    ):
        if assigned[chooser]:
            continue
        assigned[chooser] = True
        partners = others[start:stop]
        free = ~assigned[partners]
        members = row_of[partners[free]]
        representative[members] = row_of[chooser]
        pair[members] = numbers[start:stop][free]
        assigned[partners[free]] = True
    return Groups(representative, pair)


def component_sizes(i: Rows, j: Rows, rows: int) -> Rows:
    """Rows in each connected component of more than one row, largest first: what chaining would
    have made.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(i), np.bool_), (i, j)), shape=(rows, rows))
    _, label = connected_components(graph, directed=False)
    sizes = np.bincount(label)
    return np.sort(sizes[sizes > 1])[::-1].astype(np.int64)
