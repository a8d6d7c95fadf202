"""Features in Parquet: a row for each image, where it came from, and one column for each layer.

`features-<shard>.parquet` holds the columns of `ROW_COLUMNS` and then one
`arrow.fixed_shape_tensor` column of float16 for each layer, shape [channels, rows, columns]. The
file's schema metadata `discern` is a JSON object: the lineage (digests of the snapshot and of the
inputs, network, layers with their shapes, pooling, batch-norm statistics). `docs/data-formats.md`
says more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.errors import DataError, UnknownName
from gan_core.files import canonical_json

ROW_COLUMNS = pa.schema(
    [
        ("image_id", pa.string()),
        ("box", pa.int32()),
        ("source", pa.string()),
        ("address", pa.string()),
        ("member", pa.string()),
        ("x0", pa.float32()),
        ("y0", pa.float32()),
        ("x1", pa.float32()),
        ("y1", pa.float32()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("kept", pa.bool_()),
    ]
)
METADATA = b"discern"
GROUP_BYTES = 16 * 2**20  # a row group: what a reader holds at once
Half = npt.NDArray[np.float16]


def feature_name(shard: int) -> str:
    """File name of a shard."""
    return f"features-{shard:05d}.parquet"


def feature_files(folder: Path) -> list[Path]:
    """The shards of a features artifact, in the order of their names.

    Raises: DataError when there is none.
    """
    files = sorted(folder.glob("features-*.parquet"))
    if not files:
        raise DataError(
            f"There are no features in {folder.name}.",
            expected="features-*.parquet, as the stage extract writes",
        )
    return files


def group_rows(dims: int) -> int:
    """Rows of a row group for vectors of so many float16 values: about 16 MiB, from 32 to 4096
    rows.
    """
    return int(min(4096, max(32, GROUP_BYTES // (2 * max(dims, 1)))))


def schema_of(layers: Mapping[str, Sequence[int]], lineage: Mapping[str, Any]) -> pa.Schema:
    """Schema of a features file. Args: layers: name to (channels, rows, columns), in order."""
    fields = [
        pa.field(name, pa.fixed_shape_tensor(pa.float16(), list(shape)))
        for name, shape in layers.items()
    ]
    return pa.schema([*ROW_COLUMNS, *fields], metadata={METADATA: canonical_json(lineage).encode()})


class FeatureWriter:
    """Writes one shard, a row group at a time, under another name until it is whole.

    Args:
        path: the file; it appears when the writer closes without an error.
        layers: name to (channels, rows, columns), in order.
        lineage: JSON values.
    """

    def __init__(
        self, path: Path, layers: Mapping[str, Sequence[int]], lineage: Mapping[str, Any]
    ) -> None:
        self.path, self.layers = path, dict(layers)
        self.rows_per_group = group_rows(sum(int(np.prod(shape)) for shape in layers.values()))
        self._schema = schema_of(layers, lineage)
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Activations do not compress (7 % by zstd), and a dictionary or statistics of them cost
        # time; ids, addresses and labels gain from all three.
        row_columns = ROW_COLUMNS.names
        paths = {name: "none" for name in (f"{layer}.list.element" for layer in self.layers)}
        self._writer = pq.ParquetWriter(
            self._partial,
            self._schema,
            compression={**dict.fromkeys(row_columns, "zstd"), **paths},
            use_dictionary=row_columns,
            write_statistics=row_columns,
        )

    def write(self, rows: pa.Table, values: Mapping[str, Half]) -> None:
        """Appends a row group. Args: rows: columns of ROW_COLUMNS. values: layer to float16 [n,
        channels, rows, columns].
        """
        columns = [rows[name].cast(ROW_COLUMNS.field(name).type) for name in ROW_COLUMNS.names]
        for name, shape in self.layers.items():
            array = np.ascontiguousarray(values[name], np.float16)
            if array.shape != (rows.num_rows, *shape):
                raise ValueError(
                    f"layer {name}: shape {array.shape}, expected {(rows.num_rows, *shape)}"
                )
            storage = pa.FixedSizeListArray.from_arrays(
                pa.array(array.reshape(-1)), int(np.prod(shape))
            )
            kind = self._schema.field(name).type
            columns.append(pa.ExtensionArray.from_storage(kind, storage))
        if rows.num_rows:
            self._writer.write_table(
                pa.table(columns, schema=self._schema), row_group_size=rows.num_rows
            )

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        if kind is None:
            with open(self._partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink(missing_ok=True)


def layer_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Layers of a features file in order, name to (channels, rows, columns)."""
    schema = pq.read_schema(path)
    return {
        field.name: tuple(field.type.shape)
        for field in schema
        if isinstance(field.type, pa.FixedShapeTensorType)
    }


def datasets_types(path: Path, datasets: Any) -> dict[str, Any]:
    """Column types for `datasets.load_dataset("parquet", ..., features=datasets.Features(...))`.

    That library does not know Arrow's tensor type; a layer declared as a list of float16 gives
    the same numbers.

    Args: datasets: the imported library (this project does not depend on it).
    """
    layers = layer_shapes(path)
    types: dict[str, Any] = {}
    for field in pq.read_schema(path):
        plain = (
            datasets.Value("float16") if field.name in layers else datasets.Value(str(field.type))
        )
        types[field.name] = (
            datasets.List(plain, length=int(np.prod(layers[field.name])))
            if field.name in layers
            else plain
        )
    return types


def read_lineage(folder: Path) -> dict[str, Any]:
    """The lineage that the files of a features artifact carry."""
    metadata = pq.read_schema(feature_files(folder)[0]).metadata or {}
    lineage: dict[str, Any] = json.loads(metadata.get(METADATA, b"{}"))
    return lineage


def read_rows(folder: Path) -> pa.Table:
    """The table of a features artifact without its features, in the order of `read_features`."""
    return pa.concat_tables(
        [pq.read_table(path, columns=ROW_COLUMNS.names) for path in feature_files(folder)]
    )


def read_features(
    folder: Path,
    layers: Sequence[str] | None = None,
    rows: npt.NDArray[Any] | None = None,
    out: Half | None = None,
) -> tuple[Half, pa.Table]:
    """Features of a whole artifact, or of some layers and rows of it.

    Args:
        folder: a features artifact.
        layers: names of layers, joined in the order given; None: all, in the network's order.
        rows: a bool mask, or row numbers in the order wanted; None: all rows.
        out: float16 [rows, dims] to read into (memory that was used before is several times as
            fast as fresh memory).

    Returns: float16 [rows, dims], channel-major within a layer, and the table of the other columns,
        row for row.
    Raises: UnknownName for a layer that is not there.
    """
    files = feature_files(folder)
    table = read_rows(folder)
    shapes = layer_shapes(files[0])
    for name in layers or ():
        if name not in shapes:
            raise UnknownName("layer", name, shapes)
    chosen = list(layers) if layers is not None else list(shapes)
    wanted = np.arange(table.num_rows) if rows is None else np.asarray(rows)
    wanted = np.flatnonzero(wanted) if wanted.dtype == np.bool_ else wanted.astype(np.int64)
    sizes = [int(np.prod(shapes[name])) for name in chosen]
    if out is None:
        out = np.empty((len(wanted), sum(sizes)), np.float16)
    elif out.shape != (len(wanted), sum(sizes)) or out.dtype != np.float16:
        raise ValueError(
            f"out is {out.dtype} {out.shape}, the features are float16 {(len(wanted), sum(sizes))}"
        )
    _fill(out, files, chosen, sizes, wanted)
    return out, table if rows is None else table.take(wanted)


def _fill(
    out: Half, files: list[Path], names: list[str], sizes: list[int], wanted: npt.NDArray[np.int64]
) -> None:
    """Reads row group by row group, so that at most one of them is in memory."""
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    first = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                low, high = np.searchsorted(ascending, [first, first + count])
                if high > low:
                    _fill_group(
                        out,
                        _layers(file, group, names, sizes),
                        ascending[low:high] - first,
                        order[low:high],
                    )
                first += count


def _fill_group(
    out: Half, layers: list[Half], inside: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
) -> None:
    """Copies rows `inside` a row group to rows `places` of the result."""
    # as many as the group has need not be all of them: a row may be wanted more than once
    whole = len(inside) == len(layers[0]) and bool((np.diff(inside) == 1).all())
    straight = whole and bool((np.diff(places) == 1).all())
    at = 0
    for values in layers:
        size = values.shape[1]
        if straight:
            out[places[0] : places[0] + len(places), at : at + size] = values
        else:
            out[places, at : at + size] = values[inside]
        at += size


def _layers(file: pq.ParquetFile, group: int, names: list[str], sizes: list[int]) -> list[Half]:
    """Layers of a row group, float16 [rows, size] each."""
    table = file.read_row_group(group, columns=names)
    found = []
    for name, size in zip(names, sizes, strict=True):
        array = table[name].combine_chunks()
        storage = array.storage if isinstance(array, pa.ExtensionArray) else array
        values = storage.flatten().to_numpy(zero_copy_only=False)
        found.append(values.astype(np.float16, copy=False).reshape(-1, size))
    return found


def stream(folder: Path, layers: Sequence[str] | None = None) -> Iterator[tuple[Half, pa.Table]]:
    """(features, rows) row group by row group: for sets that do not fit into memory."""
    files = feature_files(folder)
    shapes = layer_shapes(files[0])
    names = list(layers) if layers is not None else list(shapes)
    sizes = [int(np.prod(shapes[name])) for name in names]
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                parts = _layers(file, group, names, sizes)
                yield (
                    np.concatenate(parts, axis=1),
                    file.read_row_group(group, columns=ROW_COLUMNS.names),
                )
