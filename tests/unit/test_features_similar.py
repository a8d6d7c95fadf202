"""Nearest neighbours by features, against a full sort in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from gan_core.features.parquet import ROW_COLUMNS, FeatureWriter, feature_name
from gan_core.features.similar import most_similar


def test_neighbours_are_those_of_a_full_sort(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(300, 6)).astype(np.float16)
    values[7] = values[200] * np.float16(2)  # the same direction: cosine 1 across files
    for number, rows in enumerate(np.array_split(np.arange(300), 3)):
        table = pa.table(
            {
                field.name: pa.array(
                    [f"{row:03d}" for row in rows]
                    if field.name == "image_id"
                    else [None] * len(rows),
                    field.type,
                )
                for field in ROW_COLUMNS
            }
        )
        with FeatureWriter(tmp_path / feature_name(number), {"layer": (6, 1, 1)}, {}) as writer:
            writer.write(table, {"layer": values[rows].reshape(-1, 6, 1, 1)})
    found, cosines = most_similar(tmp_path, 200, 5)
    unit = values.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = unit @ unit[200]
    expected[200] = -np.inf
    order = np.argsort(-expected)[:5]
    assert found["number"].to_pylist() == order.tolist() and order[0] == 7
    np.testing.assert_allclose(cosines, expected[order], atol=1e-5)
