"""Parquet files of a few kilobytes that declare a million rows without an image: counted in bulk,
in seconds, without an object for each row.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core.config import SourceConfig
from gan_core.contract import StageRequest
from gan_core.datasets.parquet import open_source
from gan_core.dedup.folder.read import read_images
from gan_core.errors import DataError
from gan_core.progress import silent
from gan_core.stages import ingest
from tests.faults.hostile import encoded, photo

ROWS = 1_000_000
IMAGES = [encoded(photo(seed), "PNG") for seed in range(3)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
KEY = "Parquet rows without an image"


def structs(count: int, rest: list[bytes]) -> pa.Table:
    empty = pa.nulls(count, STRUCT)
    there = pa.array([{"bytes": data, "path": None} for data in rest], STRUCT)
    return pa.table({"image": pa.chunked_array([empty, there])})


def binaries(count: int, rest: list[bytes]) -> pa.Table:
    return pa.table({"image": pa.chunked_array([pa.nulls(count, pa.binary()), pa.array(rest)])})


def empty_texts(count: int, rest: list[bytes]) -> pa.Table:
    empty = pa.repeat(pa.scalar(b"", pa.binary()), count)
    return pa.table({"image": pa.chunked_array([empty, pa.array(rest)])})


def labelled(count: int, rest: list[bytes]) -> pa.Table:
    table = structs(count, rest)
    labels = pa.array(range(count + len(rest)), pa.int64())
    return table.append_column("label", labels)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("make", [structs, binaries, empty_texts, labelled])
def test_a_million_rows_without_an_image_are_counted(
    make: Callable[[int, list[bytes]], pa.Table], statistics: bool, tmp_path: Path
) -> None:
    table = make(ROWS, IMAGES)
    pq.write_table(
        table, tmp_path / "set.parquet", row_group_size=2 * ROWS, write_statistics=statistics
    )
    del table
    started = time.process_time()
    tracemalloc.start()
    images = read_images(tmp_path, None, 1, 100.0, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.members == [str(ROWS + number) for number in range(3)]
    assert images.ignored == {KEY: ROWS} and images.problems == [""] * 3
    assert time.process_time() - started < 20 and peak < 60 << 20


def test_row_groups_without_an_image_are_not_read(tmp_path: Path) -> None:
    pq.write_table(structs(ROWS, []), tmp_path / "set.parquet", row_group_size=ROWS // 4)
    with pytest.raises(DataError, match=f"no image .*1,000,000 {KEY}"):
        read_images(tmp_path, "parquet", 1, 100.0, tmp_path)


def test_labels_stay_with_their_rows(tmp_path: Path) -> None:
    table = labelled(2000, IMAGES)
    order = [*range(500), 2000, *range(500, 1500), 2001, *range(1500, 2000), 2002]
    pq.write_table(table.take(order), tmp_path / "set.parquet")
    source = open_source(SourceConfig(name="mine", dataset="parquet"), tmp_path)
    (stamp,) = source.stamps()
    found = list(source.entries(stamp))
    assert [(entry.member, entry.label) for entry in found] == [
        ("500", 2000),
        ("1501", 2001),
        ("2002", 2002),
    ]
    blobs = list(source.read_many([(entry.address, entry.member) for entry in found]))
    assert [blob.read() for blob in blobs] == IMAGES


def test_few_rows_without_an_image_and_images_next_to_the_table_stay_rows(tmp_path: Path) -> None:
    pq.write_table(structs(900, IMAGES), tmp_path / "few.parquet")
    paths = pa.array([{"bytes": None, "path": f"{number}.png"} for number in range(2000)], STRUCT)
    pq.write_table(pa.table({"image": paths}), tmp_path / "outside.parquet")
    source = open_source(SourceConfig(name="mine", dataset="parquet"), tmp_path)
    counts = {stamp.address: len(list(source.entries(stamp))) for stamp in source.stamps()}
    assert counts == {"few.parquet": 903, "outside.parquet": 2000}
    assert not source.ignored


def test_ingest_counts_them_too(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(structs(ROWS, IMAGES), tmp_path / "data" / "set.parquet")
    (tmp_path / "work").mkdir()
    request = StageRequest(
        stage="ingest",
        node="ingest:mine",
        key="0" * 32,
        part={"source": {"name": "mine", "dataset": "parquet"}, "fingerprint": "f"},
        context={"location": str(tmp_path / "data"), "workers": 1},
        work=tmp_path / "work",
    )
    outcome = ingest.run(request, silent)
    assert outcome.counts["in"] == outcome.counts["ok"] == 3
    assert outcome.summary["ignored"] == {KEY: ROWS}
