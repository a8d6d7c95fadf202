"""Features files: round trip, what plain pyarrow sees, choosing rows and layers, streaming."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gan_core.errors import DataError, UnknownName
from gan_core.features import parquet as store

LAYERS = {"conv1": (2, 4, 4), "conv2": (3, 2, 2), "head": (5, 1, 1)}
LINEAGE = {"format": 1, "snapshot": "ab" * 32}


def rows(count: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + count)
    columns = {
        "image_id": [f"{n:032x}" for n in numbers],
        "box": [0] * count,
        "source": ["test"] * count,
        "address": [f"a/{n}.png" for n in numbers],
        "member": [""] * count,
        **{name: [float(n) for n in numbers] for name in ("x0", "y0", "x1", "y1")},
        "split": ["train" if n % 2 else "test" for n in numbers],
        "label": [n % 3 if n % 5 else None for n in numbers],
        "label_name": [str(n % 3) for n in numbers],
        "kept": [bool(n % 2) for n in numbers],
    }
    return pa.Table.from_pydict(columns, schema=store.ROW_COLUMNS)


def values(count: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal((count, *shape)).astype(np.float16)
        for name, shape in LAYERS.items()
    }


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Two files of three and one row groups."""
    parts = []
    for shard, groups in enumerate(([5, 4, 7], [6])):
        with store.FeatureWriter(tmp_path / store.feature_name(shard), LAYERS, LINEAGE) as writer:
            for number, count in enumerate(groups):
                given = values(count, 10 * shard + number)
                writer.write(rows(count, 100 * shard + 10 * number), given)
                parts.append(
                    np.concatenate([given[name].reshape(count, -1) for name in LAYERS], axis=1)
                )
    return tmp_path, np.concatenate(parts)


def test_round_trip(artifact: tuple[Path, np.ndarray]) -> None:
    folder, expected = artifact
    matrix, table = store.read_features(folder)
    np.testing.assert_array_equal(matrix, expected)
    assert table.num_rows == 22 and table.schema.names == store.ROW_COLUMNS.names
    assert store.read_lineage(folder) == LINEAGE
    assert store.layer_shapes(folder / "features-00000.parquet") == LAYERS


def test_plain_pyarrow_reads_tensors_of_the_layers_shape(artifact: tuple[Path, np.ndarray]) -> None:
    """Nothing of ours, no pandas: one line each for the numbers and for the lineage."""
    folder, expected = artifact
    table = pq.read_table(folder / "features-00001.parquet")
    assert table.schema.field("conv1").type == pa.fixed_shape_tensor(pa.float16(), [2, 4, 4])
    tensor = table["conv1"].combine_chunks().to_numpy_ndarray()
    np.testing.assert_array_equal(tensor.reshape(6, -1), expected[16:, :32])
    assert b'"snapshot":"abab' in table.schema.metadata[b"discern"]


def test_rows_by_mask_and_in_any_order_and_twice(artifact: tuple[Path, np.ndarray]) -> None:
    folder, expected = artifact
    mask = np.arange(22) % 3 == 1
    matrix, table = store.read_features(folder, rows=mask)
    np.testing.assert_array_equal(matrix, expected[mask])
    order = np.array([21, 0, 7, 7, 13, 2])
    matrix, table = store.read_features(folder, rows=order)
    np.testing.assert_array_equal(matrix, expected[order])
    assert (
        table["image_id"].to_pylist() == store.read_rows(folder).take(order)["image_id"].to_pylist()
    )
    matrix, table = store.read_features(folder, rows=np.empty(0, np.int64))
    assert matrix.shape == (0, 49) and table.num_rows == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.lists(st.integers(0, 21), min_size=1, max_size=40))
@example(wanted=[0, 0, 2, 3, 4])  # as many as the first row group has
def test_any_rows_are_those_asked_for(artifact: tuple[Path, np.ndarray], wanted: list[int]) -> None:
    folder, expected = artifact
    matrix, table = store.read_features(folder, rows=np.array(wanted))
    np.testing.assert_array_equal(matrix, expected[wanted])
    whole = store.read_rows(folder)["image_id"].to_pylist()
    assert table["image_id"].to_pylist() == [whole[row] for row in wanted]


def test_layers_alone_and_in_the_order_asked_for(artifact: tuple[Path, np.ndarray]) -> None:
    folder, expected = artifact
    matrix, _ = store.read_features(folder, layers=["head", "conv1"])
    np.testing.assert_array_equal(
        matrix, np.concatenate([expected[:, 44:], expected[:, :32]], axis=1)
    )
    with pytest.raises(UnknownName, match="conv1"):
        store.read_features(folder, layers=["conf1"])


def test_stream_gives_the_same_rows(artifact: tuple[Path, np.ndarray]) -> None:
    folder, expected = artifact
    parts = list(store.stream(folder))
    assert [len(part) for part, _ in parts] == [5, 4, 7, 6]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), expected)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        store.FeatureWriter(tmp_path / "features-00000.parquet", LAYERS, LINEAGE) as writer,
    ):
        writer.write(rows(3), values(3, 0))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no features"):
        store.feature_files(tmp_path)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        with store.FeatureWriter(tmp_path / name, LAYERS, LINEAGE) as writer:
            writer.write(rows(9), values(9, 0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


WRITE_AND_STREAM = """
import resource, sys
from pathlib import Path
import numpy as np
from tests.unit.test_features_store import rows
from gan_core.features import parquet as store
path = Path(sys.argv[1]) / "features-00000.parquet"
values = np.random.default_rng(0).standard_normal((500, 1024, 4, 4)).astype(np.float16)
with store.FeatureWriter(path, {"conv": (1024, 4, 4)}, {}) as writer:
    for number in range(int(sys.argv[2])):
        writer.write(rows(500, 500 * number), {"conv": values})
rows = sum(len(part) for part, _ in store.stream(path.parent))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    """10 times the rows (165 MB of features) may take 100 MB more (pages in Arrow's pool),
    not 165.
    """
    peaks = []
    for groups in (1, 10):
        folder = tmp_path / str(groups)
        folder.mkdir()
        command = [sys.executable, "-c", WRITE_AND_STREAM, str(folder), str(groups)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        count, peak = map(int, done.stdout.split())
        assert count == 500 * groups
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 100, peaks


def test_reading_into_memory_that_is_there(artifact: tuple[Path, np.ndarray]) -> None:
    folder, expected = artifact
    out = np.zeros((22, 49), np.float16)
    assert store.read_features(folder, out=out)[0] is out
    np.testing.assert_array_equal(out, expected)
    with pytest.raises(ValueError, match="features are float16"):
        store.read_features(folder, out=np.zeros((21, 49), np.float16))
