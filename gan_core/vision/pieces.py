"""Finished pieces of cropping on their way into shards: each is a file of pixels and a table of
cuts, the table written last.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gan_core.files import atomic_write_bytes, write_table
from gan_core.shards import NO_MASK, shard_name
from gan_core.vision.cropping import Cut

_log = logging.getLogger(__name__)
Array = npt.NDArray[np.uint8]

CORNERS = ("x0", "y0", "x1", "y1")

# One row a cut. `image` is the row of images.parquet (in a piece's own file: the image's place
# within the piece), `row` counts
# through the piece's pixel files and is null where there are no pixels.
CUTS = pa.schema(
    [
        ("image", pa.int64()),
        ("box", pa.int32()),
        *((name, pa.float32()) for name in CORNERS),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass(slots=True)
class Piece:
    """Pixels that lie in files, and what was cut.

    Attributes:
        table: schema `CUTS`.
        files: the pixels' files, uint8 [n, size, size, 3], in order.
        masks: the masks' files, uint8 [n, size, size]; empty without masks.
        lengths: rows of each file.
    """

    table: pa.Table
    files: list[Path]
    masks: list[Path] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


class Pieces:
    """All pieces of one job.

    Args:
        folder: the scratch folder; kept by a killed run for the next.
        size: side of the crops.
        masks: whether crops have masks.
    """

    def __init__(self, folder: Path, size: int, *, masks: bool) -> None:
        self._folder = folder
        self._size = size
        self._with_masks = masks
        self._pieces: list[Piece] = []

    def add(self, piece: Piece) -> None:
        """Takes a piece in."""
        self._pieces.append(piece)

    def table(self) -> pa.Table:
        """All cuts (schema `CUTS`) with the number of their piece in column `piece`."""
        tables = [
            piece.table.append_column(
                "piece", pa.array(np.full(piece.table.num_rows, number, np.int64))
            )
            for number, piece in enumerate(self._pieces)
        ]
        return (
            pa.concat_tables(tables)
            if tables
            else CUTS.append(pa.field("piece", pa.int64())).empty_table()
        )

    def write(self, digest: str, images: Sequence[int], cuts: Sequence[Sequence[Cut]]) -> None:
        """Writes a piece and takes it in.

        Args:
            digest: its name: all that decides it.
            images: rows of images.parquet.
            cuts: of each image, in the same order.
        """
        ready = [
            (cut.pixels, cut.mask) for found in cuts for cut in found if cut.pixels is not None
        ]
        size = self._size
        pixels = np.empty((len(ready), size, size, 3), np.uint8)
        for row, (picture, _) in enumerate(ready):
            pixels[row] = picture
        _save(self._folder / f"{digest}.npy", pixels)
        if self._with_masks:
            masks = np.full((len(ready), size, size), NO_MASK, np.uint8)
            for row, (_, mask) in enumerate(ready):
                if mask is not None:
                    masks[row] = mask
            _save(self._folder / f"{digest}.masks.npy", masks)
        table = _cuts_table(cuts)
        write_table(table, self._folder / f"{digest}.parquet")
        self.add(self._piece(digest, images, table, len(ready)))

    def take_finished(self, digest: str, images: Sequence[int]) -> bool:
        """Takes in a piece that a killed run has finished; False when there is none."""
        try:
            table = pq.read_table(self._folder / f"{digest}.parquet", schema=CUTS)
            count = int(pc.count(table["row"]).as_py())
            shape = (self._size, self._size, 3)
            whole = len(open_array(self._folder / f"{digest}.npy", shape)) == count
            if whole and self._with_masks:
                whole = len(open_array(self._folder / f"{digest}.masks.npy", shape[:2])) == count
        except (OSError, ValueError, pa.ArrowException):
            return False
        if whole:
            self.add(self._piece(digest, images, table, count))
        return whole

    def _piece(self, digest: str, images: Sequence[int], table: pa.Table, count: int) -> Piece:
        rows = pa.array(images, pa.int64()).take(table["image"].combine_chunks())
        table = table.set_column(0, "image", rows)
        masks = [self._folder / f"{digest}.masks.npy"] if self._with_masks else []
        return Piece(table, [self._folder / f"{digest}.npy"], masks, [count])

    def gather(
        self, piece: npt.NDArray[np.int64], row: npt.NDArray[np.int64], *, masks: bool = False
    ) -> Array:
        """Pixels, or masks, of cuts by piece and row, in their order.

        Returns:
            uint8 [n, size, size, 3], or [n, size, size] for masks.
        """
        shape = (self._size, self._size) if masks else (self._size, self._size, 3)
        out = np.empty((len(row), *shape), np.uint8)
        for number in np.unique(piece):
            mine = np.flatnonzero(piece == number)
            known = self._pieces[number]
            starts = np.concatenate([[0], np.cumsum(known.lengths)])
            for index, file in enumerate(known.masks if masks else known.files):
                chosen = mine[(row[mine] >= starts[index]) & (row[mine] < starts[index + 1])]
                if len(chosen):
                    out[chosen] = open_array(file, shape)[row[chosen] - starts[index]]
        return out

    def remove(self) -> None:
        """Removes the scratch files: the shards hold everything now."""
        shutil.rmtree(self._folder, ignore_errors=True)


def earlier_piece(
    folder: Path, images: pa.Table, wanted: npt.NDArray[np.bool_], size: int, *, masks: bool
) -> Piece | None:
    """What an earlier crop artifact holds of the wanted images: same image_id, same content, same
    mask.

    Args:
        images: images.parquet.
        wanted: for each of its rows, whether its crops are looked for.

    Returns:
        A piece over the artifact's shards, or None when it holds nothing of use.
    """
    try:
        table = pq.read_table(folder / "crops.parquet")
        shards = [
            shard for shard in pc.unique(table["shard"]).sort().to_pylist() if shard is not None
        ]
        files = [folder / shard_name(shard) for shard in shards]
        lengths = [len(open_array(file, (size, size, 3))) for file in files]
        mask_files = [folder / shard_name(shard, "masks") for shard in shards] if masks else []
        if masks and [len(open_array(file, (size, size))) for file in mask_files] != lengths:
            raise ValueError("masks and pixels differ in number")
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        _log.warning("an earlier crop artifact cannot be used again: %s", error)
        return None
    image = pc.index_in(
        table["image_id"], value_set=images["image_id"].combine_chunks()
    ).combine_chunks()
    there = image.is_valid().to_numpy(zero_copy_only=False)
    index = image.fill_null(0).to_numpy().astype(np.int64)
    content = images["content_sha256"].combine_chunks().take(pa.array(index))
    same = pc.and_(pc.equal(table["content_sha256"], content), pc.not_equal(content, "")).to_numpy()
    usable = there & same & wanted[index]
    if masks:
        old, new = table["attributes"].to_pylist(), images["attributes"].to_pylist()
        usable &= np.array(
            [mask_of(text) == mask_of(new[at]) for text, at in zip(old, index, strict=True)], bool
        )
    if not usable.any():
        return None
    first = dict(zip(shards, np.concatenate([[0], np.cumsum(lengths)]).tolist(), strict=False))
    starts = pa.array([first.get(shard) for shard in table["shard"].to_pylist()], pa.int64())
    rows = pc.add(starts, pc.cast(table["row"].combine_chunks(), pa.int64()))
    columns = [pa.array(index), *(table[name] for name in CUTS.names[1:-1]), rows]
    cuts = pa.Table.from_arrays([_flat(column) for column in columns], schema=CUTS)
    return Piece(cuts.filter(pa.array(usable)), files, mask_files, lengths)


def mask_of(attributes: str) -> str:
    """The SHA-256 of an image's mask from its attributes (JSON), '' when it has none."""
    return str(json.loads(attributes).get("mask_sha256", "")) if attributes else ""


def open_array(path: Path, shape: tuple[int, ...]) -> Array:
    """A file's array, mapped.

    Raises:
        OSError, ValueError: it is not there or holds something else.
    """
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.uint8 or array.shape[1:] != shape:
        raise ValueError(f"{path.name} holds {array.dtype} {array.shape}")
    return array


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _cuts_table(cuts: Sequence[Sequence[Cut]]) -> pa.Table:
    """Rows of `CUTS` with images numbered from 0 and rows in the order of the pixels."""
    flat = [(image, cut) for image, found in enumerate(cuts) for cut in found]
    rows = []
    count = 0
    for _, cut in flat:
        rows.append(count if cut.pixels is not None else None)
        count += cut.pixels is not None
    corners = [cut.corners or (None,) * 4 for _, cut in flat]
    return pa.Table.from_arrays(
        [
            pa.array([image for image, _ in flat], pa.int64()),
            pa.array([cut.box for _, cut in flat], pa.int32()),
            *(pa.array([corner[side] for corner in corners], pa.float32()) for side in range(4)),
            pa.array([cut.status for _, cut in flat], pa.string()),
            pa.array([cut.reason for _, cut in flat], pa.string()),
            pa.array(rows, pa.int64()),
        ],
        schema=CUTS,
    )


def _save(path: Path, array: Array) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    atomic_write_bytes(path, buffer.getvalue())
