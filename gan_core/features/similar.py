"""Nearest neighbours of an image by its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gan_core.features.parquet import read_features, stream


def most_similar(folder: Path, row: int, count: int) -> tuple[pa.Table, npt.NDArray[np.float32]]:
    """The images whose features have the largest cosine with those of one image.

    Reads the features a row group at a time, so that sets larger than memory work.

    Args:
        folder: of an extract artifact. row: number of the image in it.
        count: how many neighbours; fewer where the set has no more.

    Returns: their rows, best first, with the column `number` (place in the artifact), and their
        cosines, float32. The image itself is left out.
    """
    query = read_features(folder, rows=np.array([row]))[0].astype(np.float32)[0]
    query /= max(float(np.linalg.norm(query)), 1e-12)
    best: list[pa.Table] = []
    cosines = np.empty(0, np.float32)
    start = 0
    for values, rows in stream(folder):
        block = values.astype(np.float32)
        found = block @ query / np.maximum(np.linalg.norm(block, axis=1), 1e-12)
        if start <= row < start + len(found):
            found[row - start] = -np.inf
        order = np.argsort(-found, kind="stable")[:count]
        best.append(rows.take(order).append_column("number", pa.array(order + start)))
        cosines = np.concatenate([cosines, found[order]])
        start += len(found)
    table = pa.concat_tables(best)
    order = np.argsort(-cosines, kind="stable")[: min(count, start - 1)]
    return table.take(order), cosines[order]
