"""Near-duplicates in the report: groups, leaked images, and how far the findings can be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gan_core.metrics.intervals import wilson
from gan_core.reporting import sentences as words
from gan_core.reporting.images import as_image, strip
from gan_core.reporting.inputs import ReportInputs, read_tables, tally
from gan_core.shards import PixelShards

GROUPS_SHOWN = 18
REMOVED_SHOWN = 2  # of each group
LEAKS_SHOWN = 24
SIZES = ((2, 2), (3, 3), (4, 4), (5, 5), (6, 10), (11, 20), (21, 100), (101, None))
Pixels = npt.NDArray[np.uint8]


# Numbers
# --------------------------------------------------------------------------------
#


def duplicates_record(inputs: ReportInputs) -> dict[str, Any]:
    """What dedup found; {} without dedup.

    Returns: rows, removed, groups, largest; sizes (`group_sizes`); examples (`duplicate_groups`);
        leaked (`leaked_images`); quality, the content of quality.json.
    """
    table = read_tables(inputs.duplicates, "duplicates.parquet")
    if table is None:
        return {}
    groups = {name: count for name, count in tally(table["group"]).items() if name}
    found = {
        "rows": table.num_rows,
        "removed": table.num_rows - (pc.sum(table["keep"]).as_py() or 0),
        "groups": len(groups),
        "largest": max(groups.values(), default=0),
        "sizes": group_sizes(groups.values()),
        "examples": duplicate_groups(table),
        "leaked": leaked_images(inputs),
    }
    for folder in inputs.duplicates:
        if (folder / "quality.json").is_file():
            found["quality"] = json.loads((folder / "quality.json").read_bytes())
    return found


def group_sizes(members: Iterable[int]) -> list[dict[str, Any]]:
    """Groups by size, [{size ('2', '6 to 10', ...), groups, removed}], without empty bins."""
    sizes = np.array(list(members), np.int64)
    out = []
    for low, high in SIZES:
        inside = sizes[(sizes >= low) & (sizes <= (high or sizes.max(initial=low)))]
        if len(inside):
            name = str(low) if low == high else f"{low} to {high}" if high else f"{low} and more"
            out.append({"size": name, "groups": len(inside), "removed": int((inside - 1).sum())})
    return out


def duplicate_groups(table: pa.Table) -> list[dict[str, Any]]:
    """The groups that lost most members, with representative and some of the removed.

    Returns: {group, size, removed, representative: member, examples: [member, ...]}; a member is
        {image_id, box, source, address, score, reason}.
    """
    removed = tally(table.filter(pc.invert(table["keep"]))["group"])  # most first
    chosen = [name for name in removed if name][:GROUPS_SHOWN]
    order = [("keep", "descending"), ("image_id", "ascending"), ("box", "ascending")]
    shown = table.filter(pc.is_in(table["group"], value_set=pa.array(chosen, "string")))
    members: dict[str, list[dict[str, Any]]] = {}
    for row in shown.sort_by(order).to_pylist():
        members.setdefault(row["group"], []).append(row)
    found = []
    for group in chosen:
        kept = [_member(row) for row in members[group] if row["keep"]]
        gone = [_member(row) for row in members[group] if not row["keep"]]
        found.append(
            {
                "group": group,
                "size": len(members[group]),
                "removed": len(gone),
                "representative": kept[0] if kept else None,
                "examples": gone[:REMOVED_SHOWN],
            }
        )
    return found


def leaked_images(inputs: ReportInputs) -> dict[str, Any]:
    """Held-out images that are in the training split too, and pairs from the surest on.

    Returns: pairs; splits {split: {rows, leaked}}; examples [{held_out, train: member, score,
        reason}], evenly spaced over all.
    """
    table = read_tables(inputs.duplicates, "leaked.parquet")
    crops = read_tables(inputs.crops, "crops.parquet", ["source", "split", "status"])
    if table is None or crops is None:
        return {"pairs": 0, "splits": {}, "examples": []}
    best: dict[tuple[str, int], dict[str, Any]] = {}  # the surest pair of each held-out image
    order = [("score", "descending"), ("image_id_a", "ascending"), ("box_a", "ascending")]
    for row in table.sort_by(order).to_pylist():
        best.setdefault((row["image_id_a"], row["box_a"]), row)
    rows = list(best.values())
    sources = pa.array(inputs.sources("train"), "string")
    usable = pc.and_(pc.equal(crops["status"], "ok"), pc.is_in(crops["source"], value_set=sources))
    splits = {
        split: {"rows": count, "leaked": sum(row["split_a"] == split for row in rows)}
        for split, count in tally(crops.filter(usable)["split"]).items()
        if split != "train"
    }
    at = np.linspace(0, max(len(rows) - 1, 0), LEAKS_SHOWN).round().astype(int)
    examples = [
        {
            "held_out": _member(row, "_a"),
            "train": _member(row, "_b"),
            "score": round(float(row["score"]), 4),
            "reason": str(row["reason"] or ""),
        }
        for row in (rows[place] for place in (np.unique(at) if rows else ()))
    ]
    return {"pairs": table.num_rows, "splits": splits, "examples": examples}


def _member(row: dict[str, Any], side: str = "") -> dict[str, Any]:
    """An image of a group, or, with a side, of a leaked pair."""
    names = ("score", "reason") if not side else ("split",)
    score = None if side or row["score"] is None else round(float(row["score"]), 4)
    known = {"score": score, "reason": str(row["reason"] or ""), "split": row.get(f"split{side}")}
    member = row[f"member{side}"]
    return {
        "image_id": row[f"image_id{side}"],
        "box": int(row[f"box{side}"]),
        "source": row[f"source{side}"],
        "address": str(row[f"address{side}"]) + (f" #{member}" if member else ""),
        **{name: known[name] for name in names},
    }


# The page
# --------------------------------------------------------------------------------
#


def pixels_of(
    inputs: ReportInputs, members: Iterable[dict[str, Any]]
) -> dict[tuple[str, int], Pixels]:
    """Pixels of members, uint8 [S, S, 3], by (image_id, box); those without a crop are missing."""
    wanted = {_place(member) for member in members}
    ids = pa.array(sorted({image_id for image_id, _ in wanted}), "string")
    found: dict[tuple[str, int], Pixels] = {}
    for folder in inputs.crops if wanted else ():
        if not (folder / "crops.parquet").is_file():
            continue
        shards = PixelShards(folder)
        table = shards.table.select(["image_id", "box"])
        for row in np.flatnonzero(pc.is_in(table["image_id"], value_set=ids).to_numpy()).tolist():
            place = (table["image_id"][row].as_py(), int(table["box"][row].as_py()))
            if place in wanted:
                found[place] = shards.pixels(np.array([row]))[0]
    return found


def _place(member: dict[str, Any]) -> tuple[str, int]:
    return member["image_id"], member["box"]


def shown_groups(
    summary: dict[str, Any], inputs: ReportInputs
) -> list[tuple[dict[str, Any], list[Pixels]]]:
    """The groups of the summary, each with the pixels of representative and removed images.

    Groups whose pixels are gone are left out.
    """
    groups = [
        (group, [group["representative"], *group["examples"]])
        for group in summary["duplicates"].get("examples", [])
        if group["representative"] and group["examples"]
    ]
    pixels = pixels_of(inputs, [member for _, members in groups for member in members])
    return [
        (group, [pixels[_place(member)] for member in members])
        for group, members in groups
        if all(_place(member) in pixels for member in members)
    ]


def group_images(groups: list[tuple[dict[str, Any], list[Pixels]]]) -> list[dict[str, Any]]:
    """Images for the page of `shown_groups`: the representative apart from what was removed."""
    return [
        {
            "group": group,
            "kept": as_image(strip(pixels[:1]), alt="kept"),
            "gone": as_image(strip(pixels[1:]), alt="removed"),
            "more": group["removed"] - len(pixels) + 1,
        }
        for group, pixels in groups
    ]


def leaked_pairs(summary: dict[str, Any], inputs: ReportInputs) -> list[dict[str, Any]]:
    """The shown pairs with their images; pairs whose pixels are gone are left out."""
    examples = summary["duplicates"].get("leaked", {}).get("examples", [])
    pixels = pixels_of(inputs, [pair[side] for pair in examples for side in ("held_out", "train")])
    out = []
    for pair in examples:
        left, right = (pixels.get(_place(pair[side])) for side in ("held_out", "train"))
        if left is None or right is None:
            continue
        # The score is printed before the reason; where the reason repeats it, once is enough.
        rest = pair["reason"].replace(f"correlation {pair['score']:.2f}", "").replace(", ,", ",")
        images = {"left": as_image(strip([left])), "right": as_image(strip([right]))}
        out.append({**pair, "rest": rest.strip(", "), **images})
    return out


def search_quality(summary: dict[str, Any]) -> dict[str, Any]:
    """Sentences and table rows on how far the search can be trusted; {} if it was not measured."""
    measured = summary["duplicates"].get("quality") or {}
    if len(measured) < 2:
        return {}
    sweep, injected = measured.get("sweep", []), measured.get("injected")
    out: dict[str, Any] = {
        "sweep": sweep,
        "radius": bool(sweep) and "radius" in sweep[0],
        "most": max((row["removed"] for row in sweep), default=0),
        "false": false_sentence(measured),
        "injected": [],
        "health": health_rows(measured["health"]) if "health" in measured else [],
    }
    if injected:
        out["each"], out["among"] = int(injected["each"]), int(injected["rows"])
        for name, share in injected["kept_out"].items():
            low, high = wilson(share, out["each"])
            out["injected"].append({"name": name, "share": share, "low": low, "high": high})
    return out


def false_sentence(measured: dict[str, Any]) -> str:
    """How many findings are false, by what measure, and what that measure cannot see."""
    percent, count = words.percent, words.count
    found = measured.get("look_alikes")
    if found and found["asked"]:
        share = percent(found["matched"] / found["asked"], 2)
        text = (
            f"These pairs were not checked by eye. As a stand-in, {count(found['asked'], 'image')} "
            "were turned upside down, so that they are copies of nothing, and looked up in the "
            f"same way: {found['matched']:,} of them found a “copy” ({share}, 95 % interval "
            f"{percent(found['low'], 2)} to {percent(found['high'], 2)})."
        )
        if found["false_share"] is not None:
            text += (
                f" At that rate chance alone would give {percent(found['false_share'])} "
                f"({percent(found['false_low'])} to {percent(found['false_high'])}) of the "
                f"{count(found['paired'], 'image')} for which a copy was found."
            )
        return (
            f"{text} This counts images that agree by chance. It cannot see what goes wrong most "
            "often: two moments of one scene, two things of one make."
        )
    found = measured.get("unconfirmed")
    if found and not found["sampled"]:
        return "No images share a code, so there are no pairs to check."
    if found:
        return (
            "These pairs rest on codes alone. Of "
            f"{count(found['sampled'], 'sampled pair')}, {found['unconfirmed']:,} "
            f"({percent(found['share'])}, 95 % interval {percent(found['low'])} to "
            f"{percent(found['high'])}) do not agree to {found['threshold']:.2f} when their pixels "
            "are aligned and compared. They are false by that measure; they were not checked by "
            "eye."
        )
    return ""


def health_rows(health: dict[str, Any]) -> list[tuple[str, str]]:
    """The health of the codes as (name, words)."""
    dead, stuck = len(health["dead_bits"]), len(health["always_on_bits"])
    full, entropy = health["overfull_codes"], health["bit_entropy_sum"]
    images = words.count(health["rows"], "image")
    overfull = f"{len(full)}, with {words.count(health['overfull_rows'], 'image')}"
    each = f" ({dead} never set, {stuck} always set)" if dead + stuck else ""
    least = f"{health['bit_entropy_min']:.3f}"
    return [
        ("different codes", f"{health['distinct_codes']:,} for {images}"),
        ("entropy of the bits, summed", f"{entropy:.1f} of 128; the least of a bit {least}"),
        ("bits that never change", f"{dead + stuck}{each}"),
        ("bits set in a code, on average", f"{health['mean_bits_set']:.1f}"),
        ("fullest code", f"shared by {words.count(health['largest_code'], 'image')}"),
        (
            "over-full codes",
            f"{overfull}: blank images, or a code that collapsed" if full else "none",
        ),
    ]
