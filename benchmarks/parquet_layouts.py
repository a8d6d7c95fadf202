"""Parquet layouts for features, written and read in turn: GB/s of logical float32, and the ratio to
the plain float32 list column.

    python benchmarks/parquet_layouts.py [--rows 1500] [--rounds 5] [--folder /tmp]

The values are float16 activations of the shape of the 28,672-feature network (random numbers, 30 %
zeros): uncompressed layouts do not depend on what they are. Files come from the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.features import parquet as store

LAYERS = {"conv1": 128, "conv2": 128, "conv3": 256, "conv4": 256, "conv5": 512, "conv6": 512}
GROUP = 256


def rows_table(count: int) -> pa.Table:
    """The other columns, as extract has them."""
    columns = {field.name: pa.nulls(count, field.type) for field in store.ROW_COLUMNS}
    columns["image_id"] = pa.array([f"{n:032x}" for n in range(count)])
    return pa.table(columns, schema=store.ROW_COLUMNS)


def plain(values: dict[str, np.ndarray], kind: pa.DataType) -> pa.Table:
    """Fixed-size list columns."""
    arrays = []
    for array in values.values():
        flat = np.ascontiguousarray(array.reshape(len(array), -1).astype(kind.to_pandas_dtype()))
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1]))
    return pa.table(arrays, names=list(values))


def ours(values: dict[str, np.ndarray], rows: pa.Table, path: Path) -> None:
    """As extract writes: row groups, all row columns, the float16 layers."""
    shapes = {name: array.shape[1:] for name, array in values.items()}
    with store.FeatureWriter(path, shapes, {}) as writer:
        for start in range(0, len(rows), GROUP):
            writer.write(
                rows.slice(start, GROUP),
                {name: array[start : start + GROUP] for name, array in values.items()},
            )


def by_pyarrow(path: Path) -> None:
    """Every row group, as Arrow columns."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(
                group, columns=[name for name in file.schema_arrow.names if name in LAYERS]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    random = np.random.default_rng(0)
    values = {}
    for name, maps in LAYERS.items():
        draw = random.standard_normal((options.rows, maps, 4, 4), np.float32)
        values[name] = np.where(random.random(draw.shape) < 0.3, 0, draw).astype(np.float16)
    rows = rows_table(options.rows)
    path = options.folder / "features-00000.parquet"
    single, half = plain(values, pa.float32()), plain(values, pa.float16())
    bare = {"compression": "none", "row_group_size": GROUP}
    lean = {**bare, "use_dictionary": False, "write_statistics": False}
    out = np.zeros(
        (options.rows, sum(LAYERS.values()) * 16), np.float16
    )  # touched, as pyarrow's own pool is after a round
    layouts: dict[str, tuple[Callable[[], None], Callable[[], object]]] = {
        "float32 list, plain (1.00)": (
            lambda: pq.write_table(single, path, **bare),
            lambda: by_pyarrow(path),
        ),
        "float32 list, no dictionary": (
            lambda: pq.write_table(single, path, **lean),
            lambda: by_pyarrow(path),
        ),
        "float16 list, no dictionary": (
            lambda: pq.write_table(half, path, **lean),
            lambda: by_pyarrow(path),
        ),
        "ours, read by pyarrow": (lambda: ours(values, rows, path), lambda: by_pyarrow(path)),
        "ours, read by read_features": (
            lambda: ours(values, rows, path),
            lambda: store.read_features(options.folder, out=out),
        ),
    }
    times: dict[str, list[list[tuple[float, float]]]] = {name: [[], []] for name in layouts}
    for number in range(options.rounds + 1):
        for name, (write, read) in layouts.items():
            for kind, work in enumerate((write, read)):
                begin, cpu = time.perf_counter(), time.process_time()
                work()
                if number:  # the first round warms memory and page cache up
                    times[name][kind].append(
                        (time.perf_counter() - begin, time.process_time() - cpu)
                    )
    path.unlink()
    size = options.rows * sum(LAYERS.values()) * 16 * 4 / 1e9
    figures = {
        name: [statistics.median(one[clock] for one in part) for part in parts for clock in (0, 1)]
        for name, parts in times.items()
    }
    base = next(iter(figures.values()))
    print(
        f"{options.rows} rows x 28,672, medians of {options.rounds}; ratios by the clock and by "
        "processor seconds"
    )
    print("| layout | write GB/s | ratio | by cpu | read GB/s | ratio | by cpu |")
    print("|---|---|---|---|---|---|---|")
    for name, (write, write_cpu, read, read_cpu) in figures.items():
        ratios = [
            base[place] / value for place, value in enumerate((write, write_cpu, read, read_cpu))
        ]
        print(
            f"| {name} | {size / write:.2f} | {ratios[0]:.1f} | {ratios[1]:.1f} "
            f"| {size / read:.2f} | {ratios[2]:.1f} | {ratios[3]:.1f} |"
        )


if __name__ == "__main__":
    main()
