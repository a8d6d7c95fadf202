"""The stage hash on real digits, as the runner calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core import schemas
from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.dedup.hashing.autoencoder import Autoencoder
from gan_core.errors import DataError
from gan_core.progress import silent
from gan_core.shards import PixelShards, write_rows, write_shard
from gan_core.stages import hash as stage
from tests.images import digits

SHORT = {"epochs": 1, "min_steps": 60, "batch": 64}


def crop_artifact(
    folder: Path, pixels: np.ndarray, splits: list[str], source: str = "digits", failed: int = 1
) -> StageInput:
    """A crop artifact of two shards with `failed` rows without pixels."""
    folder.mkdir(parents=True)
    half = len(pixels) // 2
    write_shard(folder, 0, pixels[:half])
    write_shard(folder, 1, pixels[half:])
    rows = []
    for row in range(len(pixels) + failed):
        ok = row < len(pixels)
        rows.append(
            {
                "image_id": schemas.image_id(source, f"{row}.png"),
                "box": 0 if ok else -1,
                "source": source,
                "address": f"{row}.png",
                "member": "",
                "split": splits[row] if ok else "train",
                **dict(zip(("x0", "y0", "x1", "y1"), (0.0, 0.0, 32.0, 32.0), strict=True)),
                "status": "ok" if ok else "failed",
                "reason": "" if ok else "truncated: 3 bytes",
                "shard": (0 if row < half else 1) if ok else None,
                "row": (row if row < half else row - half) if ok else None,
            }
        )
    write_rows(folder, pa.Table.from_pylist(rows, schema=schemas.CROPS))
    return StageInput(ref=ArtifactRef(stage="crop", key="0" * 32, digest="0" * 64), path=folder)


def run(work: Path, crops: list[StageInput], seed: int = 0, **settings: object) -> StageOutcome:
    work.mkdir()
    part = {"hash": {**SHORT, **settings}, "seed": seed, "threads": 1}
    return stage.run(
        StageRequest(
            stage="hash", node="hash", key="1" * 32, part=part, inputs={"crops": crops}, work=work
        ),
        silent,
    )


def test_every_usable_row_of_every_source_and_split_gets_its_code(tmp_path: Path) -> None:
    pixels = digits(60)
    splits = ["test" if row % 4 == 0 else "train" for row in range(40)]
    crops = [
        crop_artifact(tmp_path / "a", pixels[:40], splits),
        crop_artifact(tmp_path / "b", pixels[40:], ["train"] * 20, source="more", failed=0),
    ]
    outcome = run(tmp_path / "out", crops)
    table = pq.read_table(tmp_path / "out" / "codes.parquet")
    assert table.schema.equals(schemas.CODES)
    assert outcome.counts == {"in": 60, "encoded": 60, "fitted_on": 50}
    assert (
        table["image_id"].to_pylist()
        == PixelShards([item.path for item in crops]).table["image_id"].to_pylist()
    )
    encoder = Autoencoder.load(tmp_path / "out" / "encoder.safetensors")
    assert b"".join(table["code"].to_pylist()) == encoder.encode(pixels).tobytes()
    assert outcome.summary["health"]["rows"] == 60 and encoder.about["rows"] == 50


def test_test_rows_do_not_touch_the_encoder(tmp_path: Path) -> None:
    pixels = digits(40)
    other = pixels.copy()
    other[30:] = 255 - other[30:]
    splits = ["train"] * 30 + ["test"] * 10
    for name, values in (("a", pixels), ("b", other)):
        run(tmp_path / f"out-{name}", [crop_artifact(tmp_path / name, values, splits)])
    read = [(tmp_path / f"out-{name}" / "encoder.safetensors").read_bytes() for name in "ab"]
    assert read[0] == read[1]


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    crops = [crop_artifact(tmp_path / "crops", digits(50), ["train"] * 50)]
    run(tmp_path / "a", crops, fit_rows=20)
    run(tmp_path / "b", crops, fit_rows=20)
    run(tmp_path / "c", crops, seed=1, fit_rows=20)
    for name in ("codes.parquet", "encoder.safetensors"):
        bytes_of = [(tmp_path / out / name).read_bytes() for out in "abc"]
        assert bytes_of[0] == bytes_of[1] != bytes_of[2]


def test_identical_images_are_reported_as_an_overfull_code(tmp_path: Path) -> None:
    crops = [
        crop_artifact(
            tmp_path / "crops", np.repeat(digits(1), 1200, axis=0), ["train"] * 1200, failed=0
        )
    ]
    outcome = run(tmp_path / "out", crops, min_steps=2)
    assert outcome.summary["health"]["distinct_codes"] == 1
    assert any("over-full" in warning for warning in outcome.warnings)


def test_one_image_is_enough_and_none_is_a_data_error(tmp_path: Path) -> None:
    outcome = run(tmp_path / "one", [crop_artifact(tmp_path / "single", digits(2)[1:], ["train"])])
    assert outcome.counts["encoded"] == 1
    with pytest.raises(DataError):
        run(tmp_path / "none", [crop_artifact(tmp_path / "tests", digits(4), ["test"] * 4)])
