"""Packed training sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gan_core.schemas import CROPS
from gan_core.shards import write_rows, write_shard


def write_pack(
    folder: Path, pixels: np.ndarray, masks: np.ndarray | None = None, **columns: Sequence[Any]
) -> Path:
    """A training set of uint8 [n, S, S, 3] and, for each image, masks and further columns."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder, 0, pixels)
    if masks is not None:
        write_shard(folder, 0, masks, prefix="masks")
    rows = [
        {"image_id": f"{n:032x}", "box": 0, "status": "ok", "shard": 0, "row": n}
        | {name: values[n] for name, values in columns.items()}
        for n in range(len(pixels))
    ]
    write_rows(folder, pa.Table.from_pylist(rows, schema=CROPS))
    return folder
