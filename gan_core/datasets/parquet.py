"""Parquet files with an image column, as Hugging Face writes them and as others do.

An image column is a struct with `bytes` (and perhaps `path`), under any name, or a binary column.
`label`, `split` and `mask` columns are understood, the other columns travel as attributes.
"""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.config import Section, SourceConfig
from gan_core.datasets.base import (
    Blob,
    Entry,
    Source,
    Stamp,
    existing,
    json_value,
    nothing_found,
    safe_text,
    split_of,
)
from gan_core.errors import RequestError

if TYPE_CHECKING:
    from gan_core.datasets._parquet_columns import Columns

ABOUT = (
    "Parquet files with an image column (struct of bytes and path, or binary), labels, splits "
    "and masks where there are any"
)
TITLE = "Parquet"
VERSION = 1

_SPLIT_IN_NAME = re.compile(r"^([A-Za-z]+)(?:[-_.]|$)")
_BATCH = 256


class Options(Section):
    """Names of columns; empty: found by their type and usual names."""

    image: str = ""
    label: str = ""
    split: str = ""
    mask: str = ""


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """A folder of Parquet files, or one such file.

    Raises:
        RequestError: no location, or nothing there.
    """
    return ParquetSource(config, existing(config, location))


def parquet_files(folder: Path) -> list[tuple[str, Path]]:
    """(address, path) of every Parquet file below a folder that is not hidden, sorted by
    address.
    """
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith((".parquet", ".pq")) and not name.startswith("."):
                full = Path(path) / name
                found.append((safe_text(full.relative_to(folder).as_posix()), full))
    return sorted(found)


def holds_images(path: Path) -> bool | None:
    """Whether a Parquet file has a column of images; None when it cannot be opened."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gan_core.datasets._parquet_columns import Columns

    try:
        return bool(Columns(pq.read_schema(path), Options().model_dump()).image)
    except (pa.ArrowException, OSError, ValueError):
        return None


class ParquetSource:
    """Rows of Parquet files; the member is the row's number within its file.

    Where many rows of a row group have no image, those are counted in `ignored` and are no entries.

    Args:
        location: a folder or a file.
        class_names: names of the classes in order of their numbers, where the files do not tell.
    """

    def __init__(
        self, config: SourceConfig, location: Path, class_names: Sequence[str] = ()
    ) -> None:
        self._config = config
        self._names = Options.model_validate(config.options).model_dump()
        self._class_names = tuple(class_names)
        self._root = location if location.is_dir() else location.parent
        self._location = location
        self._files: dict[str, Path] | None = None
        self._columns: dict[str, Columns] = {}
        self._empty: dict[str, int] = {}
        self.ignored: dict[str, int] = {}
        self.warnings: list[str] = []

    def _listing(self) -> dict[str, Path]:
        if self._files is None:
            if self._location.is_dir():
                self._files = dict(parquet_files(self._location))
            else:
                self._files = {safe_text(self._location.name): self._location}
            if not self._files:
                raise nothing_found(
                    self._config, self._location, "Parquet files", _endings(self._location)
                )
        return self._files

    def stamps(self) -> list[Stamp]:
        found = []
        for address, path in self._listing().items():
            try:
                status = os.stat(path)
            except OSError:
                found.append(Stamp(address, 0, 0, "unreadable"))
            else:
                found.append(Stamp(address, status.st_size, status.st_mtime_ns))
        return found

    @property
    def has_masks(self) -> bool:
        """Whether the first readable file has a mask column."""
        for address in self._listing():
            try:
                return bool(self._open(address)[1].mask)
            except _errors():
                continue
        return False

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        address = stamp.address
        try:
            file, columns = self._open(address)
            if not columns.image:
                raise RequestError(
                    f"no image column among {', '.join(columns.all)}; name it under options: image"
                )
        except RequestError as error:
            yield Entry(address, problem=f"unsupported: {error.message}")
            return
        except _errors() as error:
            yield Entry(
                address,
                problem=(
                    f"damaged: the Parquet file cannot be opened ({_scrubbed(error, self._root)})"
                ),
            )
            return
        named = _split_by_name(address)
        empty = 0
        for group, first, end in _groups(file.metadata):
            try:
                rows = columns.rows_with_images(file, group)
            except _errors() as error:
                problem = (
                    f"damaged: the Parquet rows cannot be read ({_scrubbed(error, self._root)})"
                )
                yield Entry(address, str(first), problem=problem)
                continue
            empty += end - first - len(rows)
            yield from self._group_entries(address, file, columns, group, named, first, rows)
        self._empty[address] = empty
        if any(self._empty.values()):
            self.ignored["Parquet rows without an image"] = sum(self._empty.values())

    def _group_entries(
        self,
        address: str,
        file: Any,
        columns: Columns,
        group: int,
        named: str,
        first: int,
        rows: Sequence[int],
    ) -> Iterator[Entry]:
        """The given rows of a row group that begins with row `first` of the file."""
        done, seen = 0, 0
        light = columns.light if rows else []
        try:
            for batch in (
                file.iter_batches(4096, [group], light, use_threads=False) if light else ()
            ):
                end = seen + batch.num_rows
                chosen = rows[done : bisect.bisect_left(rows, end, lo=done)]
                if 0 < len(chosen) < batch.num_rows:
                    batch = batch.take([row - seen for row in chosen])
                numbers = [first + row for row in chosen]
                for entry in self._batch_entries(address, columns, batch, named, numbers):
                    yield entry
                    done += 1
                seen = end
                if done == len(rows):
                    break
        except _errors() as error:
            self.warnings.append(
                f"{address}: labels and attributes cannot be read from row {first + rows[done]} on "
                f"({_scrubbed(error, self._root)})"
            )
        for row in rows[done:]:
            yield Entry(address, str(first + row), split=named)

    def _batch_entries(
        self, address: str, columns: Columns, batch: Any, named: str, rows: Sequence[int]
    ) -> Iterator[Entry]:
        """The rows of a batch, which have the numbers `rows` in the file."""
        values = {
            name: batch.column(name).to_pylist()
            for name in batch.schema.names
            if name != columns.image
        }
        labels = values.get(columns.label) if columns.label else None
        splits = values.get(columns.split) if columns.split else None
        paths = columns.paths_of(batch)
        for index, row in enumerate(rows):
            attributes = {}
            for name in columns.attributes:
                value = json_value(values[name][index])
                if value is not ...:
                    attributes[name] = value
                elif name not in columns.left_out:
                    columns.left_out.add(name)
                    self.warnings.append(
                        f"{address}: long values of the column {name!r} do not travel as attributes"
                    )
            if paths and paths[index]:
                attributes.setdefault("path", str(paths[index]))
            label, label_name = self._label(columns, labels[index] if labels else None)
            split = columns.split_name(splits[index]) if splits else named
            yield Entry(address, str(row), label, label_name, split, attributes)

    def _label(self, columns: Columns, value: Any) -> tuple[int | None, str]:
        if value is None:
            return None, ""
        if isinstance(value, str):
            return None, value
        number = int(value)
        if number < 0:  # Hugging Face's way to say that a row has none
            return None, ""
        names = columns.class_names or self._class_names
        return number, names[number] if number < len(names) else str(number)

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        start = 0
        for end in range(1, len(requests) + 1):
            if end == len(requests) or _breaks(requests[end - 1], requests[end]):
                yield from self._read_run(
                    requests[start][0], [request[1] for request in requests[start:end]]
                )
                start = end

    def _read_run(self, address: str, members: list[str]) -> Iterator[Blob]:
        """Rows of one file in rising order, row group by row group."""
        try:
            rows = [int(member) for member in members]
            file, columns = self._open(address)
        except _errors() as error:
            problem = (
                f"unreadable: the Parquet file cannot be opened ({_scrubbed(error, self._root)})"
            )
            yield from (Blob(address, member, problem=problem) for member in members)
            return
        done = 0
        for group, first, end in _groups(file.metadata):
            stop = done
            while stop < len(rows) and rows[stop] < end:
                stop += 1
            if stop > done:
                wanted = [row - first for row in rows[done:stop]]
                yield from self._read_group(address, file, columns, group, first, wanted)
                done = stop
        yield from (
            Blob(address, member, problem="unreadable: the file has no such row")
            for member in members[done:]
        )

    def _read_group(
        self, address: str, file: Any, columns: Columns, group: int, first: int, wanted: list[int]
    ) -> Iterator[Blob]:
        done, seen = 0, 0
        names = [name for name in (columns.image, columns.mask) if name]
        try:
            for batch in file.iter_batches(
                batch_size=_BATCH, row_groups=[group], columns=names, use_threads=False
            ):
                stop = done
                while stop < len(wanted) and wanted[stop] < seen + batch.num_rows:
                    stop += 1
                if stop > done:
                    picked = [row - seen for row in wanted[done:stop]]
                    images = columns.bytes_of(batch, columns.image, picked)
                    masks = (
                        columns.bytes_of(batch, columns.mask, picked)
                        if columns.mask
                        else [(None, None)] * len(picked)
                    )
                    for row, image, mask in zip(wanted[done:stop], images, masks, strict=True):
                        yield self._blob(address, first + row, image, mask)
                        done += 1
                seen += batch.num_rows
        except _errors() as error:
            problem = f"damaged: the Parquet rows cannot be read ({_scrubbed(error, self._root)})"
            yield from (Blob(address, str(first + row), problem=problem) for row in wanted[done:])

    def _blob(
        self,
        address: str,
        row: int,
        image: tuple[bytes | None, str | None],
        mask: tuple[bytes | None, str | None],
    ) -> Blob:
        data, path = image
        blob = Blob(address, str(row), data=data, mask=mask[0])
        if data is None:
            # Hugging Face leaves the bytes out when the image lies next to the table; never follow
            # a path out of the folder.
            inside = (self._root / path).resolve() if path else None
            if inside is None or not inside.is_relative_to(self._root.resolve()):
                blob.problem = "unreadable: the row holds no bytes" + (
                    " and its path leads out of the folder" if path else ""
                )
            else:
                blob.path = inside
        return blob

    def _open(self, address: str) -> tuple[Any, Columns]:
        import pyarrow.parquet as pq

        from gan_core.datasets._parquet_columns import Columns

        file = pq.ParquetFile(self._listing()[address])
        if address not in self._columns:
            self._columns[address] = Columns(file.schema_arrow, self._names)
        return file, self._columns[address]


def _errors() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, KeyError)


def _scrubbed(error: BaseException, root: Path) -> str:
    """An error's first line without the place of the data: reasons are content, and content names
    no absolute paths.
    """
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.replace(str(root.resolve()), "").replace(str(root), "")[:200]


def _breaks(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether the second of two requests cannot be served by reading on."""
    return one[0] != other[0] or not (
        one[1].isdigit() and other[1].isdigit() and int(one[1]) < int(other[1])
    )


def _groups(metadata: Any) -> Iterator[tuple[int, int, int]]:
    """(row group, first row, row after the last)."""
    ends = [0]
    for group in range(metadata.num_row_groups):
        ends.append(ends[-1] + metadata.row_group(group).num_rows)
    for group, (first, end) in enumerate(pairwise(ends)):
        yield group, first, end


def _split_by_name(address: str) -> str:
    """The split that a file's name begins with (train-00000-of-00004.parquet), or its folder's
    name.
    """
    folder, _, name = address.rpartition("/")
    match = _SPLIT_IN_NAME.match(name.rsplit(".", 1)[0])
    return (split_of(match[1]) if match else "") or split_of(folder.rpartition("/")[2])


def _endings(folder: Path) -> dict[str, int]:
    """What lies in a folder instead, by ending."""
    found: dict[str, int] = {}
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            ending = os.path.splitext(name)[1].lower() or "no ending"
            found[f"{ending} files"] = found.get(f"{ending} files", 0) + 1
    return found
