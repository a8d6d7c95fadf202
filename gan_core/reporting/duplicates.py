"""Removed duplicates next to their representatives: which groups are shown, and their images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gan_core.reporting.inputs import ReportInputs, read_tables
from gan_core.shards import PixelShards

GROUPS_SHOWN = 18
REMOVED_SHOWN = 2


def duplicate_groups(
    inputs: ReportInputs, most: int = GROUPS_SHOWN, per_group: int = REMOVED_SHOWN
) -> list[dict[str, Any]]:
    """Groups that lost members, largest first, with representative and some of the removed.

    Returns: {group, size, removed, representative: member, examples: [member, ...]}; a member is
        {image_id, box, source, address, score, reason}.
    """
    table = read_tables(inputs.duplicates, "duplicates.parquet")
    if table is None or not table.num_rows:
        return []
    removed = table.filter(pc.invert(table["keep"]))
    sizes: dict[str, int] = {
        row["values"]: int(row["counts"])
        for row in pc.value_counts(removed["group"]).to_pylist()
        if row["values"]
    }
    chosen = sorted(sizes, key=lambda group: (-sizes[group], group))[:most]
    rows = (
        table.filter(pc.is_in(table["group"], value_set=pc.cast(chosen, "string"))).to_pylist()
        if chosen
        else []
    )
    found = []
    for group in chosen:
        members = sorted(
            (row for row in rows if row["group"] == group),
            key=lambda row: (not row["keep"], row["image_id"], row["box"]),
        )
        kept = [row for row in members if row["keep"]]
        gone = [row for row in members if not row["keep"]]
        found.append(
            {
                "group": group,
                "size": len(members),
                "removed": len(gone),
                "representative": _member(kept[0]) if kept else None,
                "examples": [_member(row) for row in gone[:per_group]],
            }
        )
    return found


def _member(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_id": row["image_id"],
        "box": int(row["box"]),
        "source": row["source"],
        "address": str(row["address"]) + (f" #{row['member']}" if row["member"] else ""),
        "score": None if row["score"] is None else round(float(row["score"]), 4),
        "reason": str(row["reason"] or ""),
    }


def images_of(
    inputs: ReportInputs, members: list[dict[str, Any]]
) -> dict[tuple[str, int], npt.NDArray[np.uint8]]:
    """Pixels of members, uint8 [S, S, 3], by (image_id, box); members whose crop is not there are
    left out.
    """
    folders = [folder for folder in inputs.crops if (folder / "crops.parquet").is_file()]
    if not folders or not members:
        return {}
    wanted = {(member["image_id"], int(member["box"])) for member in members}
    found: dict[tuple[str, int], npt.NDArray[np.uint8]] = {}
    for folder in folders:
        shards = PixelShards(folder)
        ids = shards.table["image_id"]
        rows = np.flatnonzero(
            pc.is_in(
                ids, value_set=pc.cast(sorted({one for one, _ in wanted}), "string")
            ).to_numpy()
        )
        for row in rows:
            place = (ids[int(row)].as_py(), int(shards.table["box"][int(row)].as_py()))
            if place in wanted:
                found[place] = shards.pixels(np.array([row]))[0]
    return found
