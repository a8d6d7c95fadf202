"""Parquet files as they are found in the world: columns under many names, many row groups, damaged
parts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core.config import SourceConfig
from gan_core.datasets import parquet
from gan_core.datasets.base import Entry, Source
from gan_core.errors import RequestError
from tests.images import png

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def images(count: int, first: int = 0) -> pa.Array:
    return pa.array(
        [{"bytes": png(seed), "path": f"{seed}.png"} for seed in range(first, first + count)],
        STRUCT,
    )


def opened(place: Path, **options: Any) -> Source:
    return parquet.open_source(SourceConfig(name="rows", dataset="parquet", options=options), place)


def entries(source: Source) -> list[Entry]:
    return [entry for stamp in source.stamps() for entry in source.entries(stamp)]


def test_hugging_face_files_tell_names_of_classes(tmp_path: Path) -> None:
    names = {
        "info": {
            "features": {
                "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
                "img": {"_type": "Image"},
            }
        }
    }
    table = pa.table({"img": images(4), "label": [0, 1, 1, -1]}).replace_schema_metadata(
        {"huggingface": json.dumps(names)}
    )
    (tmp_path / "data").mkdir()
    pq.write_table(table.slice(0, 2), tmp_path / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(2), tmp_path / "data" / "validation-00000-of-00001.parquet")
    found = entries(opened(tmp_path))
    assert [(e.address.split("/")[1][:5], e.member, e.label, e.label_name,
    e.split) for e in found] == [
        ("train", "0", 0, "cat", "train"), ("train", "1", 1, "dog", "train"),
        ("valid", "0", 1, "dog", "validation"), ("valid", "1", None, "", "validation"),
    ]  # fmt: skip
    assert found[0].attributes == {"path": "0.png"}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": "struct"}, ("image", "", "", "")),
        ({"Photo": "struct", "text": "text"}, ("Photo", "", "", "")),
        ({"jpg": "bytes", "cls": "int"}, ("jpg", "", "", "")),
        ({"whatever": "bytes", "label": "int"}, ("whatever", "label", "", "")),
        ({"image": "struct", "mask": "struct", "split": "text"}, ("image", "", "split", "mask")),
        ({"mask": "struct", "image": "struct"}, ("image", "", "", "mask")),
        ({"embedding": "bytes", "img": "struct", "label": "text"}, ("img", "label", "", "")),
    ],
)
def test_columns_are_found_under_many_names(
    columns: dict[str, str], expected: tuple[str, str, str, str]
) -> None:
    from gan_core.datasets._parquet_columns import Columns

    kinds = {"struct": STRUCT, "bytes": pa.binary(), "text": pa.string(), "int": pa.int64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    got = Columns(schema, {"image": "", "label": "", "split": "", "mask": ""})
    assert (got.image, got.label, got.split, got.mask) == expected


def test_other_columns_travel_and_long_ones_stay(tmp_path: Path) -> None:
    table = pa.table({
        "image": images(2), "caption": ["a", "b" * 2000], "box": [[1.0, 2.0], [float("nan"), 4.0]],
        "blob": [b"x", b"y"],
        "vector": pa.array([[0.0] * 512] * 2, pa.list_(pa.float32(), 512)), "when": pa.array([0,
        1], pa.timestamp("s")),
        "flag": [True, None],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    source = opened(tmp_path)
    first, second = (dict(entry.attributes) for entry in entries(source))
    assert first == {
        "caption": "a",
        "box": [1.0, 2.0],
        "when": "1970-01-01T00:00:00",
        "flag": True,
        "path": "0.png",
    }
    assert second["box"] == [None, 4.0] and "caption" not in second and second["flag"] is None
    json.dumps([first, second], allow_nan=False)
    assert any("caption" in warning for warning in source.warnings)


def test_splits_of_a_column_go_before_the_file_name(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": images(4), "split": ["train", "val", "test", "extra"]}),
        tmp_path / "test.parquet",
    )
    assert [entry.split for entry in entries(opened(tmp_path))] == [
        "train",
        "validation",
        "test",
        "",
    ]


@pytest.mark.parametrize(("address", "split"), [
    ("train-00000-of-00004.parquet", "train"), ("data/test-0.parquet", "test"),
    ("validation.parquet", "validation"),
    ("default/train/0000.parquet", "train"), ("training_set.parquet", "train"),
    ("trainees.parquet", ""), ("0.parquet", ""),
])  # fmt: skip
def test_splits_by_file_name(tmp_path: Path, address: str, split: str) -> None:
    (tmp_path / address).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images(1)}), tmp_path / address)
    assert [entry.split for entry in entries(opened(tmp_path))] == [split]


@pytest.mark.parametrize("seed", range(3))
def test_any_rows_in_any_order_come_back(tmp_path: Path, seed: int) -> None:
    for number in range(2):
        pq.write_table(
            pa.table({"image": images(700, 1000 * number)}),
            tmp_path / f"{number}.parquet",
            row_group_size=300,
        )
    rng = np.random.default_rng(seed)
    wanted = [(f"{rng.integers(2)}.parquet", str(rng.integers(700))) for _ in range(150)]
    if seed:
        wanted = sorted(set(wanted), key=lambda pair: (pair[0], int(pair[1])))
    blobs = list(opened(tmp_path).read_many(wanted))
    assert [(blob.address, blob.member) for blob in blobs] == wanted
    assert all(blob.read() == png(1000 * int(blob.address[0]) + int(blob.member)) for blob in blobs)


def test_every_file_is_opened_once_for_rows_in_order(tmp_path: Path) -> None:
    """Counted in a process of its own: opening a file once per row would take 500 calls."""
    import subprocess
    import sys

    pq.write_table(pa.table({"image": images(500)}), tmp_path / "a.parquet", row_group_size=100)
    script = (
        "import sys\nfrom pathlib import Path\nfrom gan_core.config import SourceConfig\nfrom "
        "gan_core.datasets import parquet\n"
        "count = 0\n"
        "import pyarrow.parquet as pq\n"
        "real = pq.ParquetFile\n"
        "class Counted(real):\n"
        "    def __init__(self, *a, **k):\n"
        "        global count\n        count += 1\n        super().__init__(*a, **k)\n"
        "pq.ParquetFile = Counted\n"
        "source = parquet.open_source(SourceConfig(name='x', dataset='parquet'), "
        "Path(sys.argv[1]))\n"
        "assert len(list(source.read_many([('a.parquet', str(row)) for row in range(500)]))) == "
        "500\n"
        "print(count)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=root
    )
    assert done.stdout.strip() == "1", done.stderr


def test_rows_without_bytes_are_read_next_to_the_table_and_nowhere_else(tmp_path: Path) -> None:
    inside = tmp_path / "set"
    (inside / "images").mkdir(parents=True)
    (inside / "images" / "a.png").write_bytes(png(1))
    (tmp_path / "outside.png").write_bytes(png(2))
    paths = ["images/a.png", "../outside.png", str(tmp_path / "outside.png"), None]
    rows = pa.array([{"bytes": None, "path": path} for path in paths], STRUCT)
    pq.write_table(pa.table({"image": rows}), inside / "a.parquet")
    blobs = list(opened(inside).read_many([("a.parquet", str(row)) for row in range(4)]))
    assert blobs[0].read() == png(1)
    assert [blob.problem.partition(":")[0] for blob in blobs[1:]] == ["unreadable"] * 3


def test_a_damaged_file_is_a_row_and_a_damaged_part_costs_its_rows(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    pq.write_table(
        pa.table({"image": images(40)}),
        tmp_path / "part.parquet",
        row_group_size=10,
        compression="snappy",
    )
    data = bytearray((tmp_path / "part.parquet").read_bytes())
    group = pq.ParquetFile(tmp_path / "part.parquet").metadata.row_group(1).column(0)
    start = group.dictionary_page_offset or group.data_page_offset
    data[start : start + group.total_compressed_size] = bytes(group.total_compressed_size)
    (tmp_path / "part.parquet").write_bytes(data)
    source = opened(tmp_path)
    found = entries(source)
    assert found[0].address == "broken.parquet" and found[0].problem.startswith("damaged: ")
    assert str(tmp_path) not in found[0].problem
    assert len(found) == 41
    blobs = list(source.read_many([(entry.address, entry.member) for entry in found[1:]]))
    assert [bool(blob.problem) for blob in blobs] == [False] * 10 + [True] * 10 + [False] * 20
    assert blobs[-1].read() == png(39)


def test_a_table_without_images_says_which_columns_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1], "y": ["a"]}), tmp_path / "a.parquet")
    (entry,) = entries(opened(tmp_path))
    assert entry.problem == "unsupported: no image column among x, y; name it under options: image"
    pq.write_table(pa.table({"x": [1], "one": [png(1)], "two": [png(2)]}), tmp_path / "a.parquet")
    source = opened(tmp_path, image="two")
    (entry,) = entries(source)
    (blob,) = source.read_many([("a.parquet", "0")])
    assert not entry.problem and blob.read() == png(2)
    (entry,) = entries(opened(tmp_path, image="tow"))
    assert "did you mean 'two'" in entry.problem


def test_one_file_is_a_source_and_an_empty_folder_is_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": images(2)}), tmp_path / "only.parquet")
    source = opened(tmp_path / "only.parquet")
    assert [entry.address for entry in entries(source)] == ["only.parquet"] * 2
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"")
    with pytest.raises(RequestError, match="1 .jpg files"):
        opened(tmp_path / "sub").stamps()
    with pytest.raises(RequestError, match="only.parquet"):
        opened(tmp_path / "onyl.parquet")
