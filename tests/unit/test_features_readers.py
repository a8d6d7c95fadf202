"""The features file in the tools that people read Parquet with: each sees the numbers that were
written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from gan_core.features import parquet as store
from tests.unit.test_features_store import LAYERS, rows, values


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A file of three row groups, and what its layers hold."""
    path = tmp_path / "features-00000.parquet"
    groups = [values(count, count) for count in (5, 700, 3)]
    with store.FeatureWriter(path, LAYERS, {"format": 1}) as writer:
        for number, group in enumerate(groups):
            writer.write(rows(len(group["head"]), 1000 * number), group)
    return path, {
        name: np.concatenate([group[name].reshape(len(group[name]), -1) for group in groups])
        for name in LAYERS
    }


def test_pyarrow_in_every_way(file: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, expected = file
    table = pq.read_table(path)
    table.validate(full=True)
    for name, wanted in expected.items():
        assert table.schema.field(name).type == pa.fixed_shape_tensor(
            pa.float16(), list(LAYERS[name])
        )
        parts = [
            chunk.to_numpy_ndarray().reshape(-1, wanted.shape[1]) for chunk in table[name].chunks
        ]
        np.testing.assert_array_equal(np.concatenate(parts), wanted)
    small = pq.ParquetFile(path).iter_batches(batch_size=64, columns=["conv2", "label"])
    batches = [batch["conv2"].storage.flatten().to_numpy(zero_copy_only=False) for batch in small]
    np.testing.assert_array_equal(np.concatenate(batches).reshape(-1, 12), expected["conv2"])
    chosen = pa.dataset.dataset(path).to_table(
        columns=["head"], filter=pa.compute.field("image_id") == f"{1003:032x}"
    )
    np.testing.assert_array_equal(
        chosen["head"].combine_chunks().to_numpy_ndarray().reshape(1, -1), expected["head"][[8]]
    )


def test_pages_written_by_pyarrow_are_read_as_well(
    file: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """A file rewritten with pyarrow (compressed, dictionaries, other pages) is still a
    features file.
    """
    path, expected = file
    (tmp_path / "again").mkdir()
    pq.write_table(
        pq.read_table(path), tmp_path / "again" / "features-00000.parquet", compression="zstd"
    )
    matrix, _ = store.read_features(tmp_path / "again")
    np.testing.assert_array_equal(matrix, np.concatenate(list(expected.values()), axis=1))


def test_pandas(file: tuple[Path, dict[str, np.ndarray]]) -> None:
    pandas = pytest.importorskip("pandas")
    path, expected = file
    frame = pandas.read_parquet(path)
    for name, wanted in expected.items():
        np.testing.assert_array_equal(
            np.stack([np.asarray(cell).reshape(-1) for cell in frame[name]]), wanted
        )


def test_duckdb(file: tuple[Path, dict[str, np.ndarray]]) -> None:
    duckdb = pytest.importorskip("duckdb")
    path, expected = file
    found = duckdb.sql(f"select conv2, list_max(conv2) as top, label from '{path}'").fetchnumpy()
    np.testing.assert_array_equal(np.stack(list(found["conv2"])), expected["conv2"])
    np.testing.assert_array_equal(found["top"], expected["conv2"].max(axis=1))


def test_datasets(file: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """`datasets` has no type for Arrow's tensors, so it needs the columns' types; the numbers are
    then its own.
    """
    datasets = pytest.importorskip("datasets")
    path, expected = file
    types = datasets.Features(store.datasets_types(path, datasets))
    found = datasets.load_dataset(
        "parquet",
        data_files=str(path),
        split="train",
        features=types,
        cache_dir=str(tmp_path / "cache"),
    )
    array = np.asarray(found.with_format("numpy")["conv2"][:])
    np.testing.assert_array_equal(array, expected["conv2"])
    assert found[8]["image_id"] == f"{1003:032x}"
