"""Stage pack: the GAN's training set: usable crops of the training rows, without those that dedup
does not keep.

Writes pixels-*.npy, masks-*.npy where crops have masks, and crops.parquet in the layout of crop.
Rows go to shards by hash of their id, so one new image changes one shard.
"""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa

from gan_core.contract import PackRequest, StageOutcome, StageRequest
from gan_core.errors import DataError
from gan_core.progress import Progress
from gan_core.schemas import CROPS, shard_count, shard_of
from gan_core.shards import PixelShards, dropped_crops, write_rows, write_shard

log = logging.getLogger(__name__)

BLOCK = 2048  # images read at once


def count_rows(table: pa.Table, dropped: set[tuple[str, int]]) -> dict[str, int]:
    """Rows of the training split by what became of them: `in` = `kept` + `duplicates` + `failed`
    (no pixels).
    """
    counts = {"in": 0, "kept": 0, "duplicates": 0, "failed": 0}
    columns = (table[name].to_pylist() for name in ("split", "status", "image_id", "box"))
    for split, status, image, box in zip(*columns, strict=True):
        if split != "train":
            continue
        counts["in"] += 1
        counts[
            "failed" if status != "ok" else "duplicates" if (image, box) in dropped else "kept"
        ] += 1
    return counts


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Counts: `in` = `kept` + `duplicates` + `failed`.

    Raises:
        DataError: nothing is left to train on.
    """
    job = PackRequest.of(request)
    folders = job.crops
    dropped = dropped_crops(job.duplicates)
    counts = count_rows(PixelShards(folders, usable_only=False).table, dropped)
    shards = PixelShards(folders)
    ids, boxes = shards.table["image_id"].to_pylist(), shards.table["box"].to_pylist()
    training = [split == "train" for split in shards.table["split"].to_pylist()]
    kept = [
        row for row in range(len(shards)) if training[row] and (ids[row], boxes[row]) not in dropped
    ]
    if not kept:
        raise DataError(
            "No image is left to train on.",
            expected="at least one usable crop with split 'train' that dedup keeps",
            remedy="read the columns status, reason and split of crops.parquet",
        )
    number = shard_count(len(kept))
    kept.sort(key=lambda row: (shard_of(ids[row], number), ids[row], boxes[row]))
    places = np.asarray(kept, np.int64)
    home = np.array([shard_of(ids[row], number) for row in kept])
    inside = np.zeros(len(kept), np.int32)
    done = 0
    for shard in range(number):
        rows = np.flatnonzero(home == shard)
        inside[rows] = np.arange(len(rows))
        pixels = np.empty((len(rows), *shards.shape), np.uint8)
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            pixels[start : start + len(part)] = shards.pixels(places[part])
            done += len(part)
            progress(done, len(kept), "images")
        write_shard(request.work, shard, pixels)
        if shards.has_masks:
            write_shard(request.work, shard, shards.masks(places[rows]), prefix="masks")
    table = shards.table.take(places).drop_columns(["folder"])
    write_rows(request.work, _placed(table, home, inside).select(CROPS.names).cast(CROPS))
    height, width, _ = shards.shape
    log.info("pack: %d images of %d x %d px", len(kept), height, width)
    return StageOutcome(
        counts=counts,
        summary={"images": len(kept), "size": height, "bytes": len(kept) * height * width * 3},
    )


def _placed(table: pa.Table, shard: object, row: object) -> pa.Table:
    """The rows with their new places."""
    for name, values in (("shard", shard), ("row", row)):
        table = table.set_column(
            table.schema.get_field_index(name), name, pa.array(values, pa.int32())
        )
    return table
