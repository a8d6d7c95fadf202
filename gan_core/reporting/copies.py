"""What dedup says of itself, for the report: sizes of groups, leaked images, and how far its
findings can be trusted.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gan_core.metrics.intervals import wilson
from gan_core.reporting import sentences as words
from gan_core.reporting.duplicates import images_of
from gan_core.reporting.images import as_image, strip
from gan_core.reporting.inputs import ReportInputs, read_tables, tally

LEAKS_SHOWN = 24
SIZES = ((2, 2), (3, 3), (4, 4), (5, 5), (6, 10), (11, 20), (21, 100), (101, None))


def copies_record(inputs: ReportInputs) -> dict[str, Any]:
    """Sizes of groups, quality.json, and the leaked images with the pairs to show; {} without
    dedup.
    """
    table = read_tables(inputs.duplicates, "duplicates.parquet", ["group"])
    if table is None:
        return {}
    found: dict[str, Any] = {
        "sizes": group_sizes(tally(table["group"])),
        "leaked": leaked_images(inputs),
    }
    for folder in inputs.duplicates:
        if (folder / "quality.json").is_file():
            found["quality"] = json.loads((folder / "quality.json").read_bytes())
    return found


def group_sizes(members: dict[str, int]) -> list[dict[str, Any]]:
    """Groups by size: [{size ('2', '6 to 10', ...), groups, removed}], empty bins left out. Args:
    members: rows by group.
    """
    sizes = np.array([count for name, count in members.items() if name], np.int64)
    out = []
    for low, high in SIZES:
        inside = sizes[(sizes >= low) & (sizes <= (high or sizes.max(initial=low)))]
        if len(inside):
            name = str(low) if low == high else f"{low} to {high}" if high else f"{low} and more"
            out.append({"size": name, "groups": len(inside), "removed": int((inside - 1).sum())})
    return out


def leaked_images(inputs: ReportInputs) -> dict[str, Any]:
    """Held-out images that stand in the training split too, and some of the pairs, from the surest
    to the least sure.

    Returns: pairs; splits {split: {rows, leaked}}; examples [{held_out, train: {image_id, box,
        source, address, split}, score, reason}].
    """
    table = read_tables(inputs.duplicates, "leaked.parquet")
    crops = read_tables(inputs.crops, "crops.parquet", ["source", "split", "status"])
    if table is None or crops is None:
        return {"pairs": 0, "splits": {}, "examples": []}
    trained = inputs.sources("train")
    usable = crops.filter(
        pc.and_(
            pc.equal(crops["status"], "ok"),
            pc.is_in(crops["source"], value_set=pc.cast(trained, "string")),
        )
    )
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for row in table.to_pylist():
        place = (row["image_id_a"], int(row["box_a"]))
        if place not in best or row["score"] > best[place]["score"]:
            best[place] = row
    ordered = sorted(
        best.values(), key=lambda row: (-row["score"], row["image_id_a"], row["box_a"])
    )
    splits = {
        split: {"rows": rows, "leaked": sum(row["split_a"] == split for row in ordered)}
        for split, rows in tally(usable["split"]).items()
        if split != "train"
    }
    spaced = np.unique(np.linspace(0, max(len(ordered) - 1, 0), LEAKS_SHOWN).round().astype(int))
    chosen: list[int] = spaced.tolist() if ordered else []
    examples = [
        {
            "held_out": _side(ordered[at], "a"),
            "train": _side(ordered[at], "b"),
            "score": round(float(ordered[at]["score"]), 4),
            "reason": str(ordered[at]["reason"] or ""),
        }
        for at in chosen
    ]
    return {"pairs": table.num_rows, "splits": splits, "examples": examples}


def _side(row: dict[str, Any], side: str) -> dict[str, Any]:
    member = row[f"member_{side}"]
    return {
        "image_id": row[f"image_id_{side}"],
        "box": int(row[f"box_{side}"]),
        "source": row[f"source_{side}"],
        "address": str(row[f"address_{side}"]) + (f" #{member}" if member else ""),
        "split": row[f"split_{side}"],
    }


# The page
# --------------------------------------------------------------------------------
#


def leaked_pairs(summary: dict[str, Any], inputs: ReportInputs) -> list[dict[str, Any]]:
    """The shown pairs with their images, held-out image first; pairs whose pixels are gone are left
    out.
    """
    examples = summary["duplicates"].get("leaked", {}).get("examples", [])
    pixels = images_of(
        inputs, [side for pair in examples for side in (pair["held_out"], pair["train"])]
    )
    out = []
    for pair in examples:
        both = [
            pixels.get((pair[side]["image_id"], pair[side]["box"]))
            for side in ("held_out", "train")
        ]
        if both[0] is not None and both[1] is not None:
            images = [as_image(strip([one])) for one in both if one is not None]
            # The score stands before the reason; where the reason repeats it, once is enough.
            rest = (
                pair["reason"]
                .replace(f"correlation {pair['score']:.2f}", "")
                .replace(", ,", ",")
                .strip(", ")
            )
            out.append({**pair, "rest": rest, "left": images[0], "right": images[1]})
    return out


def worth(summary: dict[str, Any]) -> dict[str, Any]:
    """Sentences and table rows on how far the search can be trusted; {} where nothing was measured."""  # noqa: E501
    said = summary["duplicates"].get("quality") or {}
    if len(said) < 2:
        return {}
    out: dict[str, Any] = {
        "sweep": said.get("sweep", []),
        "radius": "radius" in (said.get("sweep") or [{}])[0],
    }
    out["most"] = max((row["removed"] for row in out["sweep"]), default=0)
    out["false"] = false_sentence(said)
    out["injected"] = []
    if "injected" in said:
        each = int(said["injected"]["each"])
        out["each"], out["among"] = each, int(said["injected"]["rows"])
        out["injected"] = [
            {
                "name": name,
                "share": share,
                **dict(zip(("low", "high"), wilson(share, each), strict=True)),
            }
            for name, share in said["injected"]["kept_out"].items()
        ]
    out["health"] = health_rows(said["health"]) if "health" in said else []
    return out


def false_sentence(said: dict[str, Any]) -> str:
    """How many findings are false, by what measure, and what that measure cannot see."""
    if "look_alikes" in said:
        found = said["look_alikes"]
        if not found["asked"]:
            return ""
        share = found["matched"] / found["asked"]
        text = (
            f"Nobody looked at these pairs. As a stand-in, {words.count(found['asked'], 'image')} "
            "were turned upside down, so that "
            f"they are copies of nothing, and looked up in the same way: {found['matched']:,} of "
            "them found a \u201ccopy\u201d "
            f"({words.percent(share, 2)}, 95 % interval {words.percent(found['low'], 2)} to "
            f"{words.percent(found['high'], 2)})."
        )
        if found["false_share"] is not None:
            text += (
                f" At that rate chance alone would give {words.percent(found['false_share'])} "
                f"({words.percent(found['false_low'])} to "
                f"{words.percent(found['false_high'])}) of the "
                f"{words.count(found['paired'], 'image')} for which a copy was found."
            )
        return text + (
            " This counts images that agree by chance. It cannot see what goes wrong most often: "
            "two moments of one scene, two things "
            "of one make."
        )
    if "unconfirmed" in said:
        found = said["unconfirmed"]
        if not found["sampled"]:
            return "Codes tied no images, so there are no pairs to check."
        return (
            f"Codes alone tied these pairs. Of {words.count(found['sampled'], 'sampled pair')}, "
            f"{found['unconfirmed']:,} "
            f"({words.percent(found['share'])}, 95 % interval {words.percent(found['low'])} to "
            f"{words.percent(found['high'])}) do not "
            f"agree to {found['threshold']:.2f} when one image is laid over the other and "
            "compared on pixels. They are false by that "
            "measure; nobody judged them by eye."
        )
    return ""


def health_rows(health: dict[str, Any]) -> list[tuple[str, str]]:
    """The health of the codes as (name, words)."""
    dead, stuck = len(health["dead_bits"]), len(health["always_on_bits"])
    full = health["overfull_codes"]
    return [
        (
            "different codes",
            f"{health['distinct_codes']:,} for {words.count(health['rows'], 'image')}",
        ),
        (
            "entropy of the bits, summed",
            f"{health['bit_entropy_sum']:.1f} of 128; the poorest bit "
            f"{health['bit_entropy_min']:.3f}",
        ),
        (
            "bits that never change",
            f"{dead + stuck}"
            + (f" ({dead} never set, {stuck} always set)" if dead + stuck else ""),
        ),
        ("bits set in a code, on average", f"{health['mean_bits_set']:.1f}"),
        ("fullest code", f"shared by {words.count(health['largest_code'], 'image')}"),
        (
            "over-full codes",
            f"{len(full)}, with {words.count(health['overfull_rows'], 'image')}: blank images, or "
            "a code that collapsed"
            if full
            else "none",
        ),
    ]
