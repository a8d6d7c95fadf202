"""What ingest remembers of images it has read, so that a grown folder costs only its new files.

An image is remembered by its file's stamp (address, size, modification time, tag) and its member;
what is remembered is what its bytes say, never its label or split. The memory is a folder of
Parquet pieces: new ones are added while a long ingest runs, so that a kill loses little, and its
end writes them together.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.datasets.base import Stamp
from gan_core.files import write_table

_log = logging.getLogger(__name__)
_PIECE_ROWS = 20_000


class Facts(NamedTuple):
    """What reading one image gave.

    Attributes:
        image: False for a file of unknown ending that turned out to be no image.
        mask_sha256: of the mask's bytes, '' when there is none.
    """

    content_sha256: str
    bytes: int
    format: str
    width: int | None
    height: int | None
    mode: str
    frames: int | None
    status: str
    reason: str
    mask_sha256: str
    image: bool


_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("content_sha256", pa.string()),
        ("bytes", pa.int64()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("frames", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("mask_sha256", pa.string()),
        ("image", pa.bool_()),
    ]
)


def memory_key(stamp: Stamp, member: str) -> str:
    """An image as read at one time, as one text."""
    return f"{stamp.address}\0{stamp.bytes}\0{stamp.mtime_ns}\0{stamp.tag}\0{member}"


class Memory:
    """Facts by `memory_key`.

    Args:
        folder: where the pieces lie; None remembers nothing beyond this run.
        forget: start from nothing (`--rehash`); what is read now is remembered again.
    """

    def __init__(self, folder: Path | None, *, forget: bool = False) -> None:
        self._folder = folder
        self._pieces = sorted(folder.glob("facts-*.parquet")) if folder is not None else []
        self._known: dict[str, Facts] = {}
        self._fresh: dict[str, Facts] = {}
        if not forget:
            for piece in self._pieces:
                self._known.update(_read(piece))

    def get(self, key: str) -> Facts | None:
        """What is known of an image, or None."""
        return self._known.get(key)

    def add(self, key: str, facts: Facts) -> None:
        """Remembers; but not that a file may not be read: permissions change and leave the stamp as
        it is.
        """
        if facts.reason.startswith("unreadable"):
            return
        self._known[key] = facts
        self._fresh[key] = facts
        if self._folder is not None and len(self._fresh) >= _PIECE_ROWS:
            self._write(self._fresh)
            self._fresh = {}

    def close(self, keep: set[str]) -> None:
        """Writes everything as one piece, without the files that are gone (`keep` has the keys of
        all that are there).
        """
        if self._folder is None or not (
            self._fresh or len(self._pieces) > 1 or self._known.keys() - keep
        ):
            return
        old = self._pieces
        self._pieces = []
        self._write({key: facts for key, facts in self._known.items() if key in keep})
        for piece in old:
            piece.unlink(missing_ok=True)

    def _write(self, facts: Mapping[str, Facts]) -> None:
        if self._folder is None or not facts:
            return
        columns = [list(facts), *zip(*facts.values(), strict=True)]
        arrays = [
            pa.array(values, field.type) for values, field in zip(columns, _SCHEMA, strict=True)
        ]
        path = self._folder / f"facts-{uuid.uuid4().hex[:12]}.parquet"
        write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), path)
        self._pieces.append(path)


def _read(piece: Path) -> dict[str, Facts]:
    """A piece's facts, none when it is damaged: then its files are read again."""
    try:
        table = pq.read_table(piece).select(_SCHEMA.names).cast(_SCHEMA)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        _log.warning("a piece of ingest's memory cannot be read and is forgotten: %s", error)
        return {}
    keys, *columns = (column.to_pylist() for column in table.columns)
    return dict(zip(keys, map(Facts._make, zip(*columns, strict=True)), strict=True))
