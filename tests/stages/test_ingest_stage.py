"""ingest: one row per image, failed ones too; only what is new is read; splits hold."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core.config import SourceConfig
from gan_core.contract import StageOutcome, StageRequest
from gan_core.errors import DataError
from gan_core.progress import silent
from gan_core.schemas import IMAGES, image_id
from gan_core.stages import ingest


def png(seed: int, size: int = 9) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    ).save(buffer, "PNG")
    return buffer.getvalue()


def run(
    tmp_path: Path,
    dataset: str,
    location: Path | None,
    *,
    state: bool = True,
    rehash: bool = False,
    workers: int = 2,
    **config: Any,
) -> tuple[list[dict[str, Any]], StageOutcome]:
    source = SourceConfig.model_validate({"name": "mine", "dataset": dataset, **config})
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    request = StageRequest(
        stage="ingest",
        node="ingest:mine",
        key="0" * 32,
        part={"source": source.model_dump(mode="json"), "fingerprint": "f"},
        context={
            "location": str(location) if location else None,
            "state": str(tmp_path / "state") if state else None,
            "rehash": rehash,
            "workers": workers,
        },
        work=work,
    )
    outcome = ingest.run(request, silent)
    table = pq.read_table(work / "images.parquet")
    assert table.schema.equals(IMAGES)
    assert outcome.counts["in"] == sum(
        count for name, count in outcome.counts.items() if name != "in"
    )
    assert outcome.counts["ok"] + outcome.counts["failed"] == table.num_rows
    return table.to_pylist(), outcome


def fill(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        (folder / f"{seed:04d}.png").write_bytes(png(seed))


def test_the_digits_are_whole(tmp_path: Path) -> None:
    rows, outcome = run(tmp_path, "digits", None)
    assert outcome.counts == {"in": 1797, "ok": 1797, "failed": 0, "left_out": 0}
    assert len({row["image_id"] for row in rows}) == 1797
    assert rows[3]["image_id"] == image_id("mine", "digits.csv.gz", "3")
    assert (
        rows[0]["width"],
        rows[0]["height"],
        rows[0]["format"],
        rows[0]["split"] in ("train", "test"),
    ) == (
        32,
        32,
        "PPM",
        True,
    )
    assert Counter(row["label"] for row in rows)[0] == 178 and outcome.summary["labelled"]
    share = np.mean([row["split"] == "test" for row in rows])
    assert abs(share - 0.2) < 0.03


def test_nothing_is_lost_and_every_failure_has_a_reason(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data / "cat", 3)
    fill(data / "dog", 3, 10)
    (data / "cat" / "empty.jpg").write_bytes(b"")
    (data / "cat" / "cut.png").write_bytes(png(1)[:-20])
    (data / "dog" / "page.jpg").write_bytes(b"<html>404</html>")
    (data / "dog" / "really a png.jpg").write_bytes(png(50))
    (data / "dog" / "gone.png").symlink_to(tmp_path / "nowhere")
    (data / "dog" / "readme.txt").write_text("x")
    (data / "dog" / "unknown").write_text("x")
    (data / "dog" / "image").write_bytes(png(51))
    rows, outcome = run(tmp_path, "folder", data)
    by_name = {row["address"]: row for row in rows}
    assert len(rows) == 12 and outcome.counts == {"in": 12, "ok": 8, "failed": 4, "left_out": 0}
    reasons = {
        name: row["reason"].partition(":")[0]
        for name, row in by_name.items()
        if row["status"] == "failed"
    }
    assert reasons == {
        "cat/empty.jpg": "empty", "cat/cut.png": "truncated", "dog/page.jpg": "not_an_image",
        "dog/gone.png": "unreadable",
    }  # fmt: skip
    assert (
        by_name["dog/really a png.jpg"]["format"] == "PNG" and by_name["cat/cut.png"]["width"] == 9
    )
    assert by_name["dog/image"]["status"] == "ok"
    assert [by_name[name]["label"] for name in ("cat/0000.png", "dog/0010.png")] == [0, 1]
    ignored = {".txt files": 1, "files of unknown ending that are no images": 1}
    assert outcome.summary["ignored"] == ignored and outcome.summary["reasons"]["empty"] == 1
    assert "4 of 12" in outcome.warnings[-1]


def test_threads_and_repeats_give_the_same_bytes(tmp_path: Path) -> None:
    fill(tmp_path / "data", 150)
    files = []
    for number, workers in enumerate((1, 4, 4)):
        (tmp_path / str(number)).mkdir()
        run(tmp_path / str(number), "folder", tmp_path / "data", workers=workers)
        files.append((tmp_path / str(number) / "work" / "images.parquet").read_bytes())
    assert files[0] == files[1] == files[2]


def overwrite(path: Path) -> None:
    """Other bytes of the same size and time: only reading tells."""
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_grown_folder_costs_only_its_new_files(tmp_path: Path) -> None:
    fill(tmp_path / "data", 30)
    before, first = run(tmp_path, "folder", tmp_path / "data")
    for path in (tmp_path / "data").iterdir():
        overwrite(path)
    fill(tmp_path / "data", 3, 100)
    after, second = run(tmp_path, "folder", tmp_path / "data")
    assert (first.summary["read"], second.summary["read"], second.summary["remembered"]) == (
        30,
        3,
        30,
    )
    assert after[:30] == before and len(after) == 33
    again, third = run(tmp_path, "folder", tmp_path / "data", rehash=True)
    assert third.summary["read"] == 33 and third.counts["failed"] == 30
    assert [row["status"] for row in again[:30]] == ["failed"] * 30


def test_rehash_is_remembered_and_gone_files_are_forgotten(tmp_path: Path) -> None:
    fill(tmp_path / "data", 10)
    run(tmp_path, "folder", tmp_path / "data")
    overwrite(tmp_path / "data" / "0003.png")
    run(tmp_path, "folder", tmp_path / "data", rehash=True)
    rows, outcome = run(tmp_path, "folder", tmp_path / "data")
    assert outcome.summary["read"] == 0 and rows[3]["status"] == "failed"
    for number in range(5, 10):
        (tmp_path / "data" / f"{number:04d}.png").unlink()
    run(tmp_path, "folder", tmp_path / "data")
    (piece,) = (tmp_path / "state").rglob("*.parquet")
    assert pq.read_table(piece).num_rows == 5


def test_a_file_that_was_touched_is_read_again(tmp_path: Path) -> None:
    fill(tmp_path / "data", 10)
    run(tmp_path, "folder", tmp_path / "data")
    (tmp_path / "data" / "0004.png").write_bytes(png(400))
    os.utime(tmp_path / "data" / "0005.png", ns=(1, 1))
    rows, outcome = run(tmp_path, "folder", tmp_path / "data")
    assert outcome.summary["read"] == 2 and all(row["status"] == "ok" for row in rows)


def test_a_damaged_memory_is_no_harm(tmp_path: Path) -> None:
    fill(tmp_path / "data", 10)
    before, _ = run(tmp_path, "folder", tmp_path / "data")
    (piece,) = (tmp_path / "state").rglob("*.parquet")
    piece.write_bytes(b"PAR1")
    after, outcome = run(tmp_path, "folder", tmp_path / "data")
    assert after == before and outcome.summary["read"] == 10
    _, outcome = run(tmp_path, "folder", tmp_path / "data")
    assert outcome.summary["read"] == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from gan_core.config import SourceConfig
from gan_core.datasets import _memory
from gan_core.stages import ingest
from gan_core.contract import StageRequest

def watch(done, total, unit, **figures):
    if done >= 200:
        os.kill(os.getpid(), signal.SIGKILL)

_memory._PIECE_ROWS = 40
folder = Path(sys.argv[1])
part = {"source": SourceConfig(name="mine").model_dump(mode="json")}
context = {"location": str(folder / "data"), "state": str(folder / "state"), "workers": 1}
key = "0" * 32
request = StageRequest(stage="ingest", node="i", key=key, part=part, context=context, work=folder)
ingest.run(request, watch)
"""


def test_a_killed_ingest_keeps_what_it_has_read(tmp_path: Path) -> None:
    fill(tmp_path / "data", 200)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    rows, outcome = run(tmp_path, "folder", tmp_path / "data")
    assert len(rows) == 200 and outcome.summary["remembered"] == 200


def test_equal_files_never_straddle_splits(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data / "a", 60)
    for number in range(60):
        (data / "a" / f"copy{number}.png").write_bytes(png(number))
    rows, _ = run(tmp_path, "folder", data)
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["content_sha256"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {row["split"] for row in rows} == {"train", "test"}
    other, _ = run(tmp_path, "folder", data, split={"seed": 1})
    assert [row["split"] for row in other] != [row["split"] for row in rows]
    whole, _ = run(tmp_path, "folder", data, split={"test": 0})
    assert {row["split"] for row in whole} == {"train"}


def test_published_splits_hold_unless_set_otherwise(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill(data / "train" / "x", 20)
    fill(data / "val" / "x", 10, 100)
    rows, outcome = run(tmp_path, "folder", data)
    assert outcome.summary["splits"] == {"train": 20, "validation": 10}
    assert not outcome.summary["labelled"] and "one class only" in outcome.summary["not_evaluable"]
    rows, outcome = run(tmp_path, "folder", data, split={"use": "content"})
    assert set(outcome.summary["splits"]) == {"train", "test"}
    rows, outcome = run(tmp_path, "folder", data, splits=["validation"])
    assert (
        outcome.counts == {"in": 30, "ok": 10, "failed": 0, "left_out": 20}
        and outcome.summary["remembered"] == 10
    )
    with pytest.raises(DataError, match="no image in the splits test"):
        run(tmp_path, "folder", data, splits=["test"])


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("splits", [None, ["train"], ["test"]])
def test_a_limit_takes_what_reading_everything_would(
    tmp_path: Path, published: bool, splits: list[str] | None
) -> None:
    """The slow way: read all, then take the first rows of each split by lot."""
    from gan_core.randomness import unit_interval

    data = tmp_path / "data"
    for part in ("train", "test") if published else ("a", "b"):
        fill(data / part / "x", 400, 0 if part in ("train", "a") else 1000)
    everything, _ = run(tmp_path, "folder", data, state=False)
    lots = sorted(everything, key=lambda row: unit_interval("limit", row["image_id"]))
    expected = set()
    for split in splits or ("train", "test"):
        expected |= {row["image_id"] for row in [row for row in lots if row["split"] == split][:7]}
    rows, outcome = run(tmp_path, "folder", data, limit=7, splits=splits, state=False)
    assert {row["image_id"] for row in rows} == expected
    assert rows == [row for row in everything if row["image_id"] in expected], (
        "the same rows in the same order"
    )
    assert outcome.summary["read"] < 300 and outcome.counts["left_out"] == 800 - len(rows)


def test_classes_keep_their_numbers_under_a_limit(tmp_path: Path) -> None:
    for name in "edcba":
        fill(tmp_path / "data" / name, 4, ord(name))
    rows, _ = run(tmp_path, "folder", tmp_path / "data", limit=2)
    assert all(row["label"] == "abcde".index(row["label_name"]) for row in rows)


def test_a_row_without_a_label_has_no_name_of_one(tmp_path: Path) -> None:
    """label and label_name are null together, in a set of which some rows are labelled and in a
    heap of files.
    """
    fill(tmp_path / "heap", 3)
    rows, _ = run(tmp_path, "folder", tmp_path / "heap")
    assert [(row["label"], row["label_name"]) for row in rows] == [(None, None)] * 3
    table = pa.table(
        {
            "image": [{"bytes": png(seed), "path": None} for seed in range(4)],
            "label": [7, -1, None, 0],
        }
    )
    pq.write_table(table, tmp_path / "some.parquet")
    rows, _ = run(tmp_path, "parquet", tmp_path / "some.parquet")
    assert [(row["label"], row["label_name"]) for row in rows] == [
        (7, "7"),
        (None, None),
        (None, None),
        (0, "0"),
    ]


def test_attributes_and_masks_are_recorded(tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(1), "path": "a"}, {"bytes": png(2), "path": None}], struct)
    masks = pa.array([{"bytes": png(3), "path": None}, None], struct)
    (tmp_path / "data").mkdir()
    pq.write_table(
        pa.table({"image": images, "mask": masks, "pose": [3, 4]}),
        tmp_path / "data" / "train.parquet",
    )
    rows, outcome = run(tmp_path, "parquet", tmp_path / "data")
    first, second = (json.loads(row["attributes"]) for row in rows)
    assert first["pose"] == 3 and first["path"] == "a" and len(first["mask_sha256"]) == 64
    assert second == {"pose": 4} and outcome.summary["has_masks"]


def test_a_source_without_one_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").write_bytes(b"no")
    with pytest.raises(
        DataError, match=r"1 images were read and none can be used \(the first: not_an_image"
    ):
        run(tmp_path, "folder", tmp_path / "data")


@pytest.mark.data
def test_the_real_sets_are_whole(tmp_path: Path, real_data: Path) -> None:
    for dataset, place, counts in (
        ("cifar10", "cifar10", {"train": 50_000, "test": 10_000}),
        ("parquet", "streets", {"train": 367, "validation": 101, "test": 233}),
        ("folder", "rooms", None),
    ):
        _, outcome = run(tmp_path, dataset, real_data / place, state=False)
        assert outcome.counts["failed"] == 0
        assert counts is None or outcome.summary["splits"] == counts
