"""A folder that `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, read by
pyarrow: the library itself is not needed.

Columns are found as in Parquet files; the class names come from the files' own metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gan_core.config import SourceConfig
from gan_core.datasets.base import Source, existing, nothing_found, safe_text
from gan_core.datasets.parquet import Options as ParquetOptions
from gan_core.datasets.parquet import ParquetSource

if TYPE_CHECKING:
    from gan_core.datasets._parquet_columns import Columns

ABOUT = "a folder of Hugging Face `datasets` on disk (save_to_disk), with its splits and classes"
TITLE = "Hugging Face datasets"
VERSION = 1

STATE = "state.json"


class Options(ParquetOptions):
    """Names of columns; empty: found by their type and usual names."""


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """A dataset or a dictionary of datasets on disk.

    Raises:
        RequestError: no location, or no dataset there.
    """
    place = existing(config, location)
    if place.is_file() or not data_files(place):
        raise nothing_found(
            config,
            place,
            f"datasets ({STATE} with Arrow files)",
            {},
            "dataset.save_to_disk(PATH)",
        )
    return ArrowSource(config, place)


def data_files(place: Path) -> list[tuple[str, Path]]:
    """(address, path) of the Arrow files that the datasets at a place name, sorted by address; what
    the library has cached next to them is none.
    """
    found = []
    for state in (place / STATE, *sorted(place.glob(f"*/{STATE}"))):
        try:
            names = [file["filename"] for file in json.loads(state.read_text())["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for name in names:
            path = state.parent / Path(str(name)).name
            found.append((safe_text(path.relative_to(place).as_posix()), path))
    return sorted(found)


class ArrowSource(ParquetSource):
    """Rows of Arrow files; the member is the row's number within its file."""

    def _listing(self) -> dict[str, Path]:
        if self._files is None:
            self._files = dict(data_files(self._location))
        return self._files

    def _open(self, address: str) -> tuple[Any, Columns]:
        from gan_core.datasets._parquet_columns import Columns

        file = _ArrowFile(self._listing()[address])
        if address not in self._columns:
            self._columns[address] = Columns(file.schema_arrow, self._names)
        return file, self._columns[address]


class _ArrowFile:
    """An Arrow stream as `pyarrow.parquet.ParquetFile` is used: its batches are the row groups."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            self.schema_arrow = stream.schema
            self._batches = list(stream)
        # a stream has no statistics of its columns
        groups = [
            SimpleNamespace(num_rows=batch.num_rows, num_columns=0) for batch in self._batches
        ]
        self.metadata = SimpleNamespace(
            num_rows=sum(group.num_rows for group in groups),
            num_row_groups=len(groups),
            row_group=groups.__getitem__,
        )

    def iter_batches(
        self,
        batch_size: int,
        row_groups: Sequence[int] | None = None,
        columns: Sequence[str] = (),
        use_threads: bool = False,
    ) -> Iterator[Any]:
        """Batches of the columns, as pyarrow's ParquetFile gives them; one within a struct
        ('image.path') brings the whole struct.
        """
        names = list(dict.fromkeys(name.split(".")[0] for name in columns))
        chosen = range(len(self._batches)) if row_groups is None else row_groups
        for number in chosen:
            batch = self._batches[number].select(names)
            for start in range(0, batch.num_rows, batch_size):
                yield batch.slice(start, batch_size)
