"""The tables that dedup writes: one row for every row searched, one for every pair found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gan_core import schemas
from gan_core.dedup.groups import Groups, rank_by_size

Rows = npt.NDArray[np.int64]

_SIDE = ("image_id", "box", "source", "split", "address", "member")

PAIRS = pa.schema(
    [
        *[
            pa.field(f"{name}_{side}", schemas.DUPLICATES.field(name).type)
            for side in "ab"
            for name in _SIDE
        ],
        pa.field("score", pa.float32()),
        pa.field("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Found:
    """Pairs of rows that were found to be duplicates, each once; which of the two is `i`, and their
    order, are the search's.

    Attributes:
        i, j: int64 [pairs] rows of the table that was searched.
        score: float32 [pairs], 0 to 1, higher is surer; its scale is the mode's (the reason says
            which).
        reason: sentence for each pair.
        summary: figures of the search: plain JSON.
    """

    i: Rows
    j: Rows
    score: npt.NDArray[np.float32]
    reason: list[str]
    summary: dict[str, Any] = field(default_factory=dict)


def ranks(crops: pa.Table) -> Rows:
    """Preference of each row of a crops table as a representative: largest original (area of its
    box), then image_id, then box.
    """
    sides = [
        pc.fill_null(crops[name], 0.0).to_numpy().astype(np.float64)
        for name in ("x0", "y0", "x1", "y1")
    ]
    areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
    return rank_by_size(areas, crops["image_id"].to_numpy(), crops["box"].to_numpy())


def group_names(crops: pa.Table, groups: Groups) -> list[str]:
    """'<image_id>:<box>' of the representative for each row; '' for a row alone."""
    ids, boxes = crops["image_id"].to_pylist(), crops["box"].to_pylist()
    together = groups.sizes > 1
    pairs = zip(groups.representative.tolist(), together.tolist(), strict=True)
    return [
        f"{ids[representative]}:{boxes[representative]}" if more else ""
        for representative, more in pairs
    ]


def duplicates_table(
    crops: pa.Table, groups: Groups, score: npt.NDArray[np.float32], reason: list[str]
) -> pa.Table:
    """One row for every row of `crops` (schemas.DUPLICATES).

    Args:
        score: float32 [n], of the pair that ties a row to its representative; ignored for rows that
            are kept.
        reason: one for each row, '' for rows that are kept.
    """
    columns: dict[str, Any] = {name: crops[name] for name in _SIDE}
    columns["group"] = pa.array(group_names(crops, groups), pa.string())
    columns["keep"] = pa.array(groups.keep)
    columns["score"] = pa.array(score, pa.float32(), mask=groups.keep)
    columns["reason"] = pa.array(reason, pa.string())
    return pa.table(columns).cast(schemas.DUPLICATES)


def pairs_table(crops: pa.Table, found: Found) -> pa.Table:
    """One row for every pair (PAIRS), in the order of `found`."""
    columns: dict[str, Any] = {}
    for side, rows in (("a", found.i), ("b", found.j)):
        chosen = crops.select(list(_SIDE)).take(pa.array(rows))
        columns.update({f"{name}_{side}": chosen[name] for name in _SIDE})
    columns["score"] = pa.array(found.score, pa.float32())
    columns["reason"] = pa.array(found.reason, pa.string())
    return pa.table(columns).cast(PAIRS)


def size_report(groups: Groups) -> dict[str, Any]:
    """Sizes of the groups: how many rows stay, how many groups of two, three, ... there are, and
    the largest.
    """
    sizes = np.bincount(groups.representative, minlength=len(groups.representative))
    sizes = sizes[sizes > 1]
    counted = np.bincount(sizes) if len(sizes) else np.zeros(0, np.int64)
    return {
        "groups": len(sizes),
        "largest_group": int(sizes.max(initial=1)) if len(groups.representative) else 0,
        "group_sizes": {str(size): int(count) for size, count in enumerate(counted) if count},
    }
