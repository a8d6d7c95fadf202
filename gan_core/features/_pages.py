"""Parquet data pages of fixed-size float16 lists, written and read at the speed of memory.

Parquet has no fixed-size list: a list column stores a repetition and a definition level for every
number, which pyarrow makes and undoes one by one (apache/arrow#34510). For vectors of one length
without nulls these levels are known beforehand: a few bytes of run lengths for each row. So the
pages are put together here: levels as runs, then the numbers as they lie in memory (PLAIN,
uncompressed). What comes out is an ordinary Parquet file that every reader reads as numbers; the
other columns, the schema and the statistics in it are pyarrow's own.

Reading goes the same way back where a page looks exactly like that, and through pyarrow where it
does not.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.features import _thrift as thrift
from gan_core.features._thrift import Struct, varint

MAGIC = b"PAR1"
Half = npt.NDArray[np.float16]
# parquet.thrift: FileMetaData 1 version 2 schema 3 num_rows 4 row_groups; RowGroup 1 columns 2
# total_byte_size 3 num_rows
# 5 file_offset 6 total_compressed_size 7 ordinal; ColumnChunk 2 file_offset 3 meta_data;
# ColumnMetaData 1 type 2 encodings
# 3 path_in_schema 4 codec 5 num_values 6 total_uncompressed_size 7 total_compressed_size 9
# data_page_offset
# 11 dictionary_page_offset; SchemaElement 3 repetition_type 4 name 5 num_children.
FIXED_LEN_BYTE_ARRAY, PLAIN, RLE = 7, 0, 3


def run(count: int, level: int) -> bytes:
    """`count` times one level, as an RLE run (levels below 256)."""
    return varint(count << 1) + bytes([level])


def levels(rows: int, size: int, deepest: int) -> bytes:
    """Repetition and definition levels of `rows` lists of `size` numbers, none of them null, as a
    data page (v1) begins.

    Args: deepest: the definition level of a number that is there.
    """
    repetition = (run(1, 0) + run(size - 1, 1)) * rows if size > 1 else run(rows, 0)
    definition = run(rows * size, deepest)
    return b"".join(struct.pack("<I", len(part)) + part for part in (repetition, definition))


class PageWriter:
    """Writes a Parquet file row group by row group: some columns by pyarrow, the layers as pages
    made here.

    Args:
        file: open for writing in binary, empty.
        schema: of the whole file; the layers are its last columns.
        layers: name to numbers in a row.
        options: for pyarrow's writer of the other columns.
    """

    def __init__(
        self, file: BinaryIO, schema: pa.Schema, layers: Mapping[str, int], options: dict[str, Any]
    ) -> None:
        self._file, self._layers, self._options = file, dict(layers), options
        self._plain = pa.schema([field for field in schema if field.name not in self._layers])
        empty = pa.BufferOutputStream()
        pq.write_table(schema.empty_table(), empty, **options)
        self._footer = _footer_of(empty.getvalue())
        self._deepest = _deepest_levels(self._footer)
        self._groups: list[Struct] = []
        self._rows = 0
        file.write(MAGIC)

    def write(self, table: pa.Table, values: Mapping[str, Half]) -> None:
        """A row group. Args: table: the other columns. values: layer to contiguous float16 [rows,
        numbers].
        """
        sink = pa.BufferOutputStream()
        pq.write_table(
            table.select(self._plain.names).cast(self._plain),
            sink,
            row_group_size=max(1, len(table)),
            **self._options,
        )
        data = sink.getvalue()
        (group,) = _footer_of(data)[4][1][1]
        begin = self._file.tell()
        chunks: list[Struct] = group[1][1][1]
        for chunk in chunks:
            self._copy(chunk, data)
        chunks += [self._chunk(name, values[name]) for name in self._layers]
        sizes = [(chunk[3][1][6][1], chunk[3][1][7][1]) for chunk in chunks]
        self._groups.append(
            {
                1: (thrift.LIST, (thrift.STRUCT, chunks)),
                2: (thrift.I64, sum(plain for plain, _ in sizes)),
                3: (thrift.I64, len(table)),
                5: (thrift.I64, begin),
                6: (thrift.I64, sum(packed for _, packed in sizes)),
                7: (thrift.I16, len(self._groups)),
            }
        )
        self._rows += len(table)

    def _copy(self, chunk: Struct, data: memoryview | bytes) -> None:
        """A column chunk that pyarrow wrote, moved to where the file stands now."""
        about: Struct = chunk[3][1]
        first = min(about[place][1] for place in (9, 11) if place in about)
        move = self._file.tell() - first
        self._file.write(memoryview(data)[first : first + about[7][1]])
        for place in (9, 11):
            if place in about:
                about[place] = (thrift.I64, about[place][1] + move)
        for page_index in (4, 5, 6, 7):  # offsets of indexes that are not copied
            chunk.pop(page_index, None)

    def _chunk(self, name: str, values: Half) -> Struct:
        """One layer of one row group: a single page."""
        rows, size = values.shape
        head = levels(rows, size, self._deepest[name])
        length = len(head) + values.nbytes
        page: Struct = {
            1: (thrift.I32, 0),
            2: (thrift.I32, length),
            3: (thrift.I32, length),
            5: (
                thrift.STRUCT,
                {
                    1: (thrift.I32, rows * size),
                    2: (thrift.I32, PLAIN),
                    3: (thrift.I32, RLE),
                    4: (thrift.I32, RLE),
                },
            ),
        }
        header = thrift.write_struct(page)
        begin = self._file.tell()
        self._file.write(header + head)
        self._file.write(values.data)
        path = [part.encode() for part in (name, "list", "element")]
        about: Struct = {
            1: (thrift.I32, FIXED_LEN_BYTE_ARRAY),
            2: (thrift.LIST, (thrift.I32, [PLAIN, RLE])),
            3: (thrift.LIST, (thrift.BINARY, path)),
            4: (thrift.I32, 0),
            5: (thrift.I64, rows * size),
            6: (thrift.I64, len(header) + length),
            7: (thrift.I64, len(header) + length),
            9: (thrift.I64, begin),
        }
        return {2: (thrift.I64, 0), 3: (thrift.STRUCT, about)}

    def finish(self) -> None:
        """Writes the footer: pyarrow's own for this schema, with the row groups that were written."""
        self._footer[3] = (thrift.I64, self._rows)
        self._footer[4] = (thrift.LIST, (thrift.STRUCT, self._groups))
        footer = thrift.write_struct(self._footer)
        self._file.write(footer + struct.pack("<I", len(footer)) + MAGIC)
        self._file.flush()
        os.fsync(self._file.fileno())


def _footer_of(data: Any) -> Struct:
    view = memoryview(data)
    (length,) = struct.unpack("<I", view[-8:-4])
    return thrift.Reader(bytes(view[-8 - length : -8])).struct()


def _deepest_levels(footer: Struct) -> dict[str, int]:
    """Definition level of a present number in each column of depth 3 (a list), by the column's
    name.
    """
    elements: list[Struct] = footer[2][1][1]
    found: dict[str, int] = {}
    place = 1
    while place < len(elements):
        name = elements[place][4][1].decode()
        count = 1
        while elements[place + count - 1].get(5, (0, 0))[1]:
            count += 1
        inside = elements[place : place + count]
        found[name] = sum(
            element[3][1] != 0 for element in inside
        )  # 0 is 'required'; optional and repeated add a level
        place += count
    return found


def read_pages(file: BinaryIO, column: Any, rows: int, size: int) -> Half | None:
    """A layer of one row group, float16 [rows, size], read only; None where its pages are of
    another kind.

    The chunk is read, not mapped: pages of a mapped file would count as this process's memory until
        it ends.

    Args: column: pyarrow's metadata of the column chunk.
    """
    if (
        column.compression != "UNCOMPRESSED"
        or column.physical_type != "FIXED_LEN_BYTE_ARRAY"
        or column.num_values != rows * size
    ):
        return None
    if column.has_dictionary_page:
        return None
    file.seek(column.data_page_offset)
    data = file.read(column.total_compressed_size)
    reader = thrift.Reader(data)
    page = reader.struct()
    about: Struct = page.get(5, (0, {}))[1]
    wanted = 2 * rows * size
    length = page[3][1]
    if (
        page[1][1] != 0
        or about.get(1, (0, 0))[1] != rows * size
        or about[2][1] != PLAIN
        or not wanted <= length <= len(data)
    ):
        return None
    begin = reader.place + length - wanted
    if not _levels_fit(data[reader.place : begin], rows, size):
        return None
    return np.frombuffer(data, np.float16, rows * size, begin).reshape(rows, size)


def _levels_fit(head: bytes, rows: int, size: int) -> bool:
    """Whether the levels say: `rows` full lists of `size`, nothing null, nothing else before the
    numbers.
    """
    return any(head == levels(rows, size, deepest) for deepest in (3, 2, 1))
