"""Which column of a Parquet file is what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as types

from gan_core.datasets.base import MAX_ATTRIBUTE_VALUES, split_of
from gan_core.errors import UnknownName

_IMAGES = (
    "image",
    "img",
    "image",
    "photo",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "image_bytes",
    "bytes",
    "content",
    "data",
)
# So many rows without an image in one row group are counted, and are no rows of their own.
MANY_EMPTY = 1000
_LEAST_IMAGE = 16  # bytes
_MASKS = ("mask", "segmentation_mask", "segmentation", "annotation")
_LABELS = ("label", "labels", "fine_label", "class", "target")
_SPLITS = ("split", "set", "partition", "subset")


class Columns:
    """The roles of a file's columns.

    Args:
        schema: the file's.
        names: role (image, label, split, mask) to the column's name, '' to find it.

    Attributes:
        image, label, split, mask: the columns' names, '' where there is none.
        attributes: columns that travel as attributes.
        light: what has to be read to know the rows without their images.
        class_names: names of the classes from Hugging Face's metadata, in order.
        left_out: attribute columns of which some value was too long to travel.

    Raises:
        UnknownName: a column was named that the file does not have.
    """

    def __init__(self, schema: pa.Schema, names: Mapping[str, str]) -> None:
        for role, name in names.items():
            if name and name not in schema.names:
                raise UnknownName(f"column ({role})", name, schema.names)
        self.all: list[str] = list(schema.names)
        features = _features(schema)
        images = [column.name for column in schema if _holds_images(column.type)]
        self.mask = names["mask"] or _first(
            _MASKS, [name for name in images if name != names["image"]]
        )
        candidates = [name for name in images if name != self.mask]
        structs = [name for name in candidates if types.is_struct(schema.field(name).type)]
        self.image = names["image"] or _first(_IMAGES, structs) or _first(_IMAGES, candidates)
        if not self.image and (structs or len(candidates) == 1):
            self.image = (structs or candidates)[0]
        if not self.image:
            self.mask = ""
        labelled = [column.name for column in schema if _is_label(column.type)]
        classes = [name for name in labelled if _class_names(features, name)]
        self.label = (
            names["label"] or _first(_LABELS, labelled) or (classes[0] if len(classes) == 1 else "")
        )
        self.split = names["split"] or _first(
            _SPLITS, [name for name in labelled if name != self.label]
        )
        self.class_names = _class_names(features, self.label)
        self._split_names = _class_names(features, self.split)
        known = {self.image, self.mask, self.label, self.split}
        self.attributes = [
            column.name for column in schema if column.name not in known and _travels(column.type)
        ]
        self.left_out: set[str] = set()
        self.light = [name for name in (self.label, self.split, *self.attributes) if name]
        self._has_path = bool(self.image) and _has_field(schema.field(self.image).type, "path")
        if self._has_path:
            self.light.append(f"{self.image}.path")

    def split_name(self, value: Any) -> str:
        """train, validation, test or '' for a value of the split column."""
        if isinstance(value, int) and value < len(self._split_names):
            value = self._split_names[value]
        return split_of(str(value)) if value is not None else ""

    def paths_of(self, batch: pa.RecordBatch) -> list[str | None]:
        """The images' own paths, as the publisher had them; empty when the file keeps none."""
        if not self._has_path or self.image not in batch.schema.names:
            return []
        paths: list[str | None] = _field(batch.column(self.image), "path").to_pylist()
        return paths

    def rows_with_images(self, file: pq.ParquetFile, group: int) -> Sequence[int]:
        """The rows of a row group that become entries, from 0: all of them, but where more than
        `MANY_EMPTY` have neither bytes nor a path.

        Raises:
            pyarrow.ArrowException, OSError: the image column cannot be read.
        """
        metadata = file.metadata.row_group(group)
        rows = metadata.num_rows
        leaves = [metadata.column(number) for number in range(metadata.num_columns)]
        wanted = {self.image, f"{self.image}.bytes", f"{self.image}.path"}
        leaves = [leaf for leaf in leaves if leaf.path_in_schema in wanted]
        if not leaves:  # no statistics (an Arrow stream)
            return range(rows)
        empty = min(map(_nulls, leaves), default=0)
        if rows and empty == rows:
            return range(0)
        # A file may lack the statistics, or hold empty texts: then its size tells.
        small = sum(leaf.total_uncompressed_size for leaf in leaves) < _LEAST_IMAGE * rows
        if rows <= MANY_EMPTY or not (empty > MANY_EMPTY or small):
            return range(rows)
        there = []
        for batch in file.iter_batches(1024, [group], [self.image], use_threads=False):
            column = batch.column(self.image)
            present = None
            for field in ("bytes", "path") if types.is_struct(column.type) else ("",):
                if field and not _has_field(column.type, field):
                    continue
                values = _field(column, field) if field else column
                held = pc.fill_null(pc.greater(pc.binary_length(values), 0), fill_value=False)
                present = held if present is None else pc.or_(present, held)
            there.append(np.asarray(present))
        found = np.concatenate([np.zeros(0, np.bool_), *there])
        if len(found) == rows and np.count_nonzero(~found) <= MANY_EMPTY:
            return range(rows)
        chosen: list[int] = np.flatnonzero(found).tolist()
        return chosen

    def bytes_of(
        self, batch: pa.RecordBatch, name: str, rows: Sequence[int]
    ) -> list[tuple[bytes | None, str | None]]:
        """(bytes, path) of the given rows of an image column."""
        column = batch.column(name)
        if len(rows) < batch.num_rows:
            column = column.take(pa.array(rows, pa.int64()))
        if not types.is_struct(column.type):
            return [(data, None) for data in column.to_pylist()]
        data = _field(column, "bytes").to_pylist()
        paths = (
            _field(column, "path").to_pylist()
            if _has_field(column.type, "path")
            else [None] * len(data)
        )
        return list(zip(data, paths, strict=True))


def _nulls(leaf: pq.ColumnChunkMetaData) -> int:
    """Nulls of a column of a row group; 0 where the file does not tell."""
    statistics = leaf.statistics
    return int(statistics.null_count or 0) if statistics and statistics.has_null_count else 0


def _field(column: pa.Array, name: str) -> pa.Array:
    return pc.struct_field(column, name)


def _first(wanted: Sequence[str], there: Sequence[str]) -> str:
    folded = {name.lower(): name for name in reversed(there)}
    return next((folded[name] for name in wanted if name in folded), "")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _has_field(kind: pa.DataType, name: str) -> bool:
    return bool(types.is_struct(kind)) and kind.get_field_index(name) >= 0


def _holds_images(kind: pa.DataType) -> bool:
    return _is_bytes(kind) or (_has_field(kind, "bytes") and _is_bytes(kind.field("bytes").type))


def _is_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_label(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_boolean(kind)) or _is_text(kind)


def _travels(kind: pa.DataType) -> bool:
    """Whether values of a type can be small JSON: no bytes, no vectors that are known to be
    long.
    """
    if types.is_fixed_size_list(kind):
        return kind.list_size <= MAX_ATTRIBUTE_VALUES and _travels(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return _travels(kind.value_type)
    if types.is_struct(kind):
        return all(_travels(kind.field(index).type) for index in range(kind.num_fields))
    return _is_label(kind) or bool(types.is_floating(kind) or types.is_temporal(kind))


def _features(schema: pa.Schema) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(features: Mapping[str, Any], name: str) -> tuple[str, ...]:
    feature = features.get(name)
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(str(item) for item in names) if isinstance(names, list) else ()
