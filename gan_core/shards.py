"""Pixels on disk: uint8 NHWC RGB shards (`pixels-00000.npy`) and one table of their rows
(`crops.parquet`).

Crop and pack write this layout; hash, train and extract read it. Shards are memory-mapped: a set
may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gan_core.errors import DataError, RequestError

TABLE = "crops.parquet"
NO_MASK = 255  # of a mask: no class is known
Pixels = npt.NDArray[np.uint8]


def shard_name(shard: int, prefix: str = "pixels") -> str:
    """File name of a shard."""
    return f"{prefix}-{shard:05d}.npy"


def check_training_set(folder: Path) -> None:
    """Raises RequestError where a folder that a user named is no artifact of pack."""
    if not (folder / TABLE).is_file():
        raise RequestError(
            f"{folder} holds no training images.",
            expected=f"an artifact of stage pack: a folder with {TABLE} and pixels-*.npy",
            remedy="HOME/artifacts/pack/KEY/DIGEST of the run that the snapshot is of",
        )


class PixelShards:
    """One or more folders of shards read as one set of images.

    Args:
        folders: artifacts of crop or pack; all with crops of one size.
        usable_only: leave out the rows that have no pixels (failed files, images without a face).

    Attributes:
        table: the rows in order, columns of `schemas.CROPS` plus `folder` (index into `folders`).
    """

    def __init__(self, folders: Path | Sequence[Path], *, usable_only: bool = True) -> None:
        self.folders = [folders] if isinstance(folders, Path) else list(folders)
        tables = []
        for number, folder in enumerate(self.folders):
            table = pq.read_table(folder / TABLE)
            if usable_only:
                table = table.filter(pc.equal(table["status"], "ok"))
            tables.append(
                table.append_column("folder", pa.array(np.full(table.num_rows, number, np.int32)))
            )
        self.table: pa.Table = pa.concat_tables(tables)
        self._maps: dict[tuple[int, int], Pixels] = {}
        self._place = np.stack(
            [self.table["folder"].to_numpy()]
            + [pc.fill_null(self.table[name], -1).to_numpy() for name in ("shard", "row")],
            axis=1,
        ).astype(np.int64)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def training_rows(self, purpose: str) -> npt.NDArray[np.int64]:
        """Row numbers of the training split, int64 [n].

        Raises: DataError: there are none, with `purpose`, such as 'to fit the hash on'.
        """
        chosen = pc.fill_null(pc.equal(self.table["split"], "train"), False)
        rows = np.flatnonzero(chosen.to_numpy(zero_copy_only=False))
        if not len(rows):
            raise DataError(
                f"No crop of a training split is usable, so there is nothing {purpose}.",
                expected="at least one row with split 'train' and status 'ok' in the training "
                "sources",
                remedy="read the columns status and reason of crops.parquet, and check the "
                "source's splits",
            )
        return rows

    def rows_of(self, image_ids: Sequence[str], boxes: Sequence[int]) -> npt.NDArray[np.int64]:
        """Row numbers of crops, int64 [n]. Raises KeyError for one that is not there."""
        known = zip(self.table["image_id"].to_pylist(), self.table["box"].to_pylist(), strict=True)
        index = {place: row for row, place in enumerate(known)}
        wanted = zip(image_ids, boxes, strict=True)
        return np.array([index[place] for place in wanted], np.int64)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of every image."""
        usable = np.flatnonzero(self._place[:, 2] >= 0)
        if not len(usable):
            return (0, 0, 3)
        folder, shard, _ = self._place[usable[0]]
        _, height, width, channels = self._open(int(folder), int(shard)).shape
        return (height, width, channels)

    @property
    def has_masks(self) -> bool:
        """Whether a folder holds masks with its pixels."""
        return any(next(folder.glob("masks-*.npy"), None) for folder in self.folders)

    def masks(self, rows: npt.NDArray[Any] | slice | None = None) -> Pixels:
        """Masks of the given rows: uint8 [n, height, width]; NO_MASK where an image has none."""
        places = self._place if rows is None else self._place[rows]
        out = np.full((len(places), *self.shape[:2]), NO_MASK, np.uint8)
        for folder, shard in {(int(f), int(s)) for f, s, _ in places}:
            path = self.folders[folder] / shard_name(shard, "masks")
            if path.is_file():
                chosen = (places[:, 0] == folder) & (places[:, 1] == shard)
                found = np.load(path, mmap_mode="r", allow_pickle=False)
                out[chosen] = found[places[chosen, 2]]
        return out

    def _open(self, folder: int, shard: int) -> Pixels:
        place = (folder, shard)
        if place not in self._maps:
            self._maps[place] = np.load(
                self.folders[folder] / shard_name(shard), mmap_mode="r", allow_pickle=False
            )
        return self._maps[place]

    def pixels(self, rows: npt.NDArray[Any] | slice | None = None) -> Pixels:
        """Images of the given rows (None: all), in their order: uint8 [n, height, width, 3] RGB.

        Only the shards of the last call stay mapped: what has been read counts as this process's
            memory for as long as it is.
        """
        places = self._place if rows is None else self._place[rows]
        if len(places) and places[:, 2].min() < 0:
            raise IndexError("a row without pixels was asked for; filter on status == 'ok' first")
        out = np.empty((len(places), *self.shape), np.uint8)
        if not len(places):
            return out
        groups = places[:, 0] * (1 << 32) + places[:, 1]
        current: dict[tuple[int, int], Pixels] = {}
        for group in np.unique(groups):
            chosen = np.flatnonzero(groups == group)
            place = (int(group >> 32), int(group & 0xFFFFFFFF))
            current[place] = self._open(*place)
            out[chosen] = current[place][places[chosen, 2]]
        self._maps = current
        return out


def write_shard(folder: Path, shard: int, pixels: Pixels, prefix: str = "pixels") -> Path:
    """Writes one shard, atomically. Args: pixels: uint8 [n, height, width, 3] (or [n, height,
    width] for masks).
    """
    import io

    from gan_core.files import atomic_write_bytes

    if pixels.dtype != np.uint8:
        raise TypeError(f"shards hold uint8, not {pixels.dtype}")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(pixels), allow_pickle=False)
    path = folder / shard_name(shard, prefix)
    atomic_write_bytes(path, buffer.getbuffer().tobytes())
    return path


def write_rows(folder: Path, table: pa.Table) -> Path:
    """Writes the table of the shards' rows (schemas.CROPS)."""
    from gan_core.files import write_table

    path = folder / TABLE
    write_table(table, path)
    return path


def dropped_crops(folders: Sequence[Path]) -> set[tuple[str, int]]:
    """(image_id, box) of the crops that dedup does not keep. Args: folders: artifacts of dedup."""
    dropped: set[tuple[str, int]] = set()
    for folder in folders:
        table = pq.read_table(folder / "duplicates.parquet", columns=["image_id", "box", "keep"])
        table = table.filter(pc.invert(table["keep"]))
        dropped.update(zip(table["image_id"].to_pylist(), table["box"].to_pylist(), strict=True))
    return dropped
