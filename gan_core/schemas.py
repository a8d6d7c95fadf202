"""The tables that pass between stages: their columns, and the ids that join them.
`docs/data-formats.md` explains each column.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("source", pa.string()),
        ("address", pa.string()),
        ("member", pa.string()),
        ("content_sha256", pa.string()),
        ("bytes", pa.int64()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("frames", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("attributes", pa.string()),
    ]
)

CROPS = pa.schema(
    [
        ("image_id", pa.string()),
        ("box", pa.int32()),
        ("source", pa.string()),
        ("address", pa.string()),
        ("member", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("content_sha256", pa.string()),
        ("attributes", pa.string()),
    ]
)

CODE_BYTES = 16

CODES = pa.schema(
    [
        ("image_id", pa.string()),
        ("box", pa.int32()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("code", pa.binary(CODE_BYTES)),
    ]
)

DUPLICATES = pa.schema(
    [
        ("image_id", pa.string()),
        ("box", pa.int32()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("address", pa.string()),
        ("member", pa.string()),
        ("group", pa.string()),
        ("keep", pa.bool_()),
        ("score", pa.float32()),
        ("reason", pa.string()),
    ]
)

SCORES = pa.schema(
    [
        ("source", pa.string()),
        ("features", pa.string()),
        ("probe", pa.string()),
        ("labels", pa.string()),
        ("label_count", pa.int32()),
        ("draw", pa.int32()),
        ("chosen", pa.float64()),
        ("validation_accuracy", pa.float64()),
        ("test_accuracy", pa.float64()),
        ("train_accuracy", pa.float64()),
        ("test_set", pa.string()),
        ("test_rows", pa.int32()),
        ("classes", pa.int32()),
        ("saw_labels", pa.string()),
    ]
)

PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("box", pa.int32()),
        ("features", pa.string()),
        ("probe", pa.string()),
        ("labels", pa.string()),
        ("draw", pa.int32()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
    ]
)


def image_id(source: str, address: str, member: str = "") -> str:
    """32 hex digits naming one source image: hash of source name, relative address and member (or
    row number).
    """
    return hashlib.sha256(f"{source}\0{address}\0{member}".encode()).hexdigest()[:32]


def shard_of(identity: str, shards: int) -> int:
    """The shard, 0 to shards - 1, that the row with this image_id belongs to, whatever other rows
    there are.
    """
    return int(identity[:8], 16) % shards


def shard_count(rows: int, rows_per_shard: int = 8192) -> int:
    """Shards for so many rows: a power of two, so that one row more changes one shard and not all
    of them.
    """
    count = 1
    while rows > count * rows_per_shard:
        count *= 2
    return count
