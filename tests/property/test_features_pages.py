"""Features files of any shapes and row groups: pyarrow reads what was written, and so do we."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.features import parquet as store
from tests.unit.test_features_store import rows

layers = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4
)


@settings(max_examples=30, deadline=None)
@given(layers, st.lists(st.integers(0, 300), max_size=4), st.integers(0, 99))
def test_any_shapes_and_groups(
    shapes: list[tuple[int, int, int]], groups: list[int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    named = {f"layer {number}.x": shape for number, shape in enumerate(shapes)}
    written: dict[str, list[np.ndarray]] = {name: [] for name in named}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / store.feature_name(0)
        with store.FeatureWriter(path, named, {"seed": seed}) as writer:
            for number, count in enumerate(groups):
                bits = {
                    name: random.integers(0, 2**16, (count, *shape), np.uint16)
                    for name, shape in named.items()
                }
                for name, value in bits.items():
                    written[name].append(value.reshape(count, int(np.prod(named[name]))))
                writer.write(
                    rows(count, 1000 * number),
                    {name: value.view(np.float16) for name, value in bits.items()},
                )
        table = pq.read_table(path)
        table.validate(full=True)
        assert table.num_rows == sum(groups)
        for name, parts in written.items():
            expected = np.concatenate([*parts, np.empty((0, int(np.prod(named[name]))), np.uint16)])
            seen = [
                chunk.storage.flatten().to_numpy(zero_copy_only=False)
                for chunk in table[name].chunks
                if len(chunk)
            ]
            flat = np.concatenate(seen).view(np.uint16) if seen else np.empty(0, np.uint16)
            assert np.array_equal(flat, expected.reshape(-1))  # bit for bit, NaNs included
        matrix, back = store.read_features(Path(folder))
        expected = (
            np.concatenate(
                [
                    np.concatenate(
                        [*parts, np.empty((0, parts[0].shape[1] if parts else 0), np.uint16)]
                    )
                    for parts in written.values()
                ],
                axis=1,
            )
            if any(groups)
            else None
        )
        if expected is not None:
            assert np.array_equal(matrix.view(np.uint16), expected)
        assert back.num_rows == sum(groups)
