"""LMDB databases with one encoded image a value, as LSUN is published:
<category>_<split>_lmdb/data.mdb, keys of 40 hex digits.

Reading needs the package `lmdb`, which is an extra: `pip install 'discern-gan[lmdb]'`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import Field

from gan_core.config import Section, SourceConfig
from gan_core.datasets.base import (
    Blob,
    Entry,
    Source,
    Stamp,
    existing,
    nothing_found,
    safe_text,
    split_of,
)
from gan_core.errors import RequestError

ABOUT = "LMDB databases of encoded images, as LSUN is published (needs the extra discern-gan[lmdb])"
TITLE = "LMDB"
VERSION = 1

_FILE = "data.mdb"
_HEX = "0x"  # begins the member's name of a key that is no printable ASCII


class Options(Section):
    """How LSUN's databases are read."""

    labels: bool = Field(
        False,
        description=(
            "the class is what a database's folder name has before its first underscore "
            "(bedroom_train_lmdb)"
        ),
    )


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """A folder with `data.mdb`, or a folder of such folders.

    Raises:
        RequestError: no location, or nothing there.
    """
    return LmdbSource(config, existing(config, location))


class LmdbSource:
    """Images in LMDB databases; the member is the key. Splits come from the folders' names
    (`_train_`, `_val_`).
    """

    has_masks = False

    def __init__(self, config: SourceConfig, location: Path) -> None:
        self._config = config
        self._labels = Options.model_validate(config.options).labels
        self._root = location if location.is_dir() else location.parent
        self.ignored: dict[str, int] = {}
        self.warnings: list[str] = []

    def stamps(self) -> list[Stamp]:
        found, others = [], 0
        for folder, folders, files in os.walk(self._root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in files:
                path = Path(folder) / name
                if name == _FILE:
                    status = path.stat()
                    address = safe_text(path.relative_to(self._root).as_posix())
                    found.append(Stamp(address, status.st_size, status.st_mtime_ns))
                elif name != "lock.mdb" and not name.startswith("."):
                    others += 1
        self.ignored = {"other files": others} if others else {}
        if not found:
            raise nothing_found(self._config, self._root, f"LMDB databases ({_FILE})", self.ignored)
        return sorted(found, key=lambda stamp: stamp.address)

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        words = self._folder(stamp.address).name.split("_")
        split = next(filter(None, map(split_of, words)), "")
        label = words[0] if self._labels else ""
        try:
            with (
                _opened(self._folder(stamp.address)) as database,
                database.begin() as view,
                view.cursor() as cursor,
            ):
                for key in cursor.iternext(keys=True, values=False):
                    yield Entry(stamp.address, _member(bytes(key)), label_name=label, split=split)
        except _error() as error:
            yield Entry(
                stamp.address,
                problem=(
                    f"damaged: the database cannot be read to its end ({_plain(error, self._root)})"
                ),
            )

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        for address, same in groupby(requests, key=lambda request: request[0]):
            members = [member for _, member in same]
            done = 0
            try:
                with _opened(self._folder(address)) as database, database.begin() as view:
                    for member in members:
                        value = view.get(_key(member))
                        problem = (
                            "unreadable: the database has no such key" if value is None else ""
                        )
                        yield Blob(address, member, data=value, problem=problem)
                        done += 1
            except _error() as error:
                problem = f"damaged: the database cannot be read ({_plain(error, self._root)})"
                yield from (Blob(address, member, problem=problem) for member in members[done:])

    def _folder(self, address: str) -> Path:
        return (self._root / address).parent


def _opened(folder: Path) -> Any:
    """The database in a folder, for reading: no lock file is written, so a read-only disk
    will do.
    """
    try:
        import lmdb
    except ImportError as error:
        raise RequestError(
            "The package lmdb is not installed, and LMDB databases cannot be read without it.",
            expected="the extra `lmdb` of Discern",
            remedy="pip install 'discern-gan[lmdb]' (in a checkout: .venv/bin/python -m pip "
            "install lmdb), or images exported to a folder with --set "
            "sources.train.NAME.dataset=folder",
        ) from error
    if not (folder / _FILE).is_file():
        raise lmdb.Error(f"{folder.name}/{_FILE} is not there")
    return lmdb.open(str(folder), readonly=True, lock=False, readahead=False, max_spare_txns=1)


def _error() -> type[Exception]:
    """lmdb's own error; evaluated only when something is raised, so that listing needs no lmdb."""
    try:
        import lmdb
    except ImportError:
        return OSError
    return lmdb.Error


def _member(key: bytes) -> str:
    """A key as text: itself where it is printable ASCII, else 0x and its hex digits."""
    text = key.decode("ascii", "replace")
    plain = text.isascii() and text.isprintable() and not text.startswith(_HEX)
    return text if plain else _HEX + key.hex()


def _key(member: str) -> bytes:
    """The inverse of `_member`; a name that is none gives a key that no database has."""
    if not member.startswith(_HEX):
        return member.encode() or b"\0"
    try:
        return bytes.fromhex(member.removeprefix(_HEX)) or b"\0"
    except ValueError:
        return b"\0"


def _plain(error: Exception, root: Path) -> str:
    """An error's words without the place of the data: reasons are content, and content names no
    absolute paths.
    """
    return str(error).replace(str(root.resolve()), "").replace(str(root), "")[:200]
