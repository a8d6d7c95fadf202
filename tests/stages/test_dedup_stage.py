"""The stages hash and dedup together on real digits with planted duplicates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core import schemas
from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.dedup.tables import PAIRS
from gan_core.errors import DataError
from gan_core.progress import silent
from gan_core.shards import write_rows, write_shard
from gan_core.stages import dedup as stage
from gan_core.stages import hash as hash_stage
from tests.images import digits


def crop_artifact(
    folder: Path, pixels: np.ndarray, splits: list[str], sides: list[int]
) -> StageInput:
    folder.mkdir(parents=True)
    write_shard(folder, 0, pixels)
    rows = [
        {
            "image_id": schemas.image_id("digits", f"{row}.png"),
            "box": 0,
            "source": "digits",
            "address": f"{row}.png",
            "member": "",
            "split": splits[row],
            **dict(
                zip(
                    ("x0", "y0", "x1", "y1"),
                    (0.0, 0.0, float(sides[row]), float(sides[row])),
                    strict=True,
                )
            ),
            "status": "ok",
            "reason": "",
            "shard": 0,
            "row": row,
        }
        for row in range(len(pixels))
    ]
    write_rows(folder, pa.Table.from_pylist(rows, schema=schemas.CROPS))
    return StageInput(ref=ArtifactRef(stage="crop", key="0" * 32, digest="0" * 64), path=folder)


def prepare(
    tmp_path: Path, pixels: np.ndarray, splits: list[str], sides: list[int]
) -> dict[str, list[StageInput]]:
    """A crop artifact and its hash artifact, as inputs of dedup."""
    crops = [crop_artifact(tmp_path / "crops", pixels, splits, sides)]
    (tmp_path / "hash").mkdir()
    part = {"hash": {"epochs": 1, "min_steps": 60, "batch": 64}, "seed": 0, "threads": 1}
    request = StageRequest(
        stage="hash",
        node="hash",
        key="1" * 32,
        part=part,
        inputs={"crops": crops},
        work=tmp_path / "hash",
    )
    hash_stage.run(request, silent)
    codes = [
        StageInput(
            ref=ArtifactRef(stage="hash", key="1" * 32, digest="1" * 64), path=tmp_path / "hash"
        )
    ]
    return {"codes": codes, "crops": crops}


def run(
    work: Path, inputs: dict[str, list[StageInput]], **settings: Any
) -> tuple[StageOutcome, list[dict[str, Any]]]:
    work.mkdir()
    part = {"dedup": settings, "threads": 1}
    outcome = stage.run(
        StageRequest(
            stage="dedup", node="dedup", key="2" * 32, part=part, inputs=inputs, work=work
        ),
        silent,
    )
    table = pq.read_table(work / "duplicates.parquet")
    assert table.schema.equals(schemas.DUPLICATES)
    assert pq.read_table(work / "pairs.parquet").schema.equals(PAIRS)
    assert (
        outcome.counts["in"]
        == outcome.counts["kept"] + outcome.counts["duplicates"]
        == table.num_rows
    )
    return outcome, table.to_pylist()


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, list[StageInput]]:
    """80 digits: rows 60..69 equal rows 0..9 (row 60 of a larger original), rows 70..79 equal rows
    10..19 but are test rows.
    """
    pixels = digits(60)
    pixels = np.concatenate([pixels, pixels[:20]])
    splits = ["train"] * 70 + ["test"] * 10
    return prepare(tmp_path, pixels, splits, [32] * 60 + [64] + [32] * 19)


@pytest.mark.parametrize("mode", ["verified", "paper", "radius"])
def test_planted_duplicates_are_found_and_one_of_each_is_kept(
    planted: dict[str, list[StageInput]], tmp_path: Path, mode: str
) -> None:
    outcome, rows = run(tmp_path / mode, planted, mode=mode)
    assert len(rows) == 70 and {row["split"] for row in rows} == {"train"}
    by_address = {row["address"]: row for row in rows}
    for original in range(10):
        pair = [by_address[f"{original}.png"], by_address[f"{original + 60}.png"]]
        assert pair[0]["group"] == pair[1]["group"] != ""
    assert (
        by_address["60.png"]["keep"] and not by_address["0.png"]["keep"]
    )  # the larger original stays
    left_out = [row for row in rows if not row["keep"]]
    assert all(row["reason"] and row["score"] is not None for row in left_out)
    assert all(row["score"] is None and row["reason"] == "" for row in rows if row["keep"])
    for row in left_out:
        representative = next(
            other for other in rows if f"{other['image_id']}:{other['box']}" == row["group"]
        )
        assert representative["keep"] and representative["group"] == row["group"]
    assert outcome.summary["groups"] >= 10


def test_paper_mode_is_collision_of_codes_and_nothing_else(
    planted: dict[str, list[StageInput]], tmp_path: Path
) -> None:
    codes = pq.read_table(planted["codes"][0].path / "codes.parquet")["code"].to_pylist()[:70]
    outcome, _ = run(tmp_path / "paper", planted, mode="paper")
    assert outcome.counts["kept"] == len(set(codes))


def test_mode_off_keeps_everything(planted: dict[str, list[StageInput]], tmp_path: Path) -> None:
    outcome, rows = run(tmp_path / "off", planted, mode="off")
    assert outcome.counts == {"in": 70, "kept": 70, "duplicates": 0}
    assert all(row["keep"] and row["group"] == "" for row in rows)


def test_equal_requests_write_equal_bytes(
    planted: dict[str, list[StageInput]], tmp_path: Path
) -> None:
    for name in "ab":
        run(tmp_path / name, planted)
    for file in ("duplicates.parquet", "pairs.parquet", "leaked.parquet", "quality.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_all_images_identical_leaves_one_and_warns(tmp_path: Path) -> None:
    inputs = prepare(tmp_path, np.repeat(digits(1), 30, axis=0), ["train"] * 30, [32] * 30)
    for mode in ("verified", "paper", "radius"):
        outcome, rows = run(tmp_path / mode, inputs, mode=mode, max_group=20)
        assert outcome.counts == {"in": 30, "kept": 1, "duplicates": 29}
        assert len({row["group"] for row in rows}) == 1 and outcome.warnings


def test_a_single_image_is_kept_and_none_is_a_data_error(tmp_path: Path) -> None:
    inputs = prepare(tmp_path / "one", digits(1), ["train"], [32])
    outcome, rows = run(tmp_path / "out", inputs)
    assert outcome.counts == {"in": 1, "kept": 1, "duplicates": 0} and rows[0]["group"] == ""
    crops = [crop_artifact(tmp_path / "tests", digits(3), ["test"] * 3, [32] * 3)]
    with pytest.raises(DataError):
        run(tmp_path / "none", {"codes": inputs["codes"], "crops": crops})


def test_the_default_mode_leaves_different_digits_alone_and_says_why(tmp_path: Path) -> None:
    pixels = digits(400)
    inputs = prepare(tmp_path, np.concatenate([pixels, pixels[:3]]), ["train"] * 403, [32] * 403)
    outcome, _ = run(tmp_path / "out", inputs)
    assert 3 <= outcome.counts["duplicates"] <= 8
    assert outcome.summary["threshold"] > 0.93 and any(
        "raised" in warning for warning in outcome.warnings
    )


def test_leaked_images_are_named_and_not_removed(
    planted: dict[str, list[StageInput]], tmp_path: Path
) -> None:
    outcome, _ = run(tmp_path / "out", planted)
    leaked = pq.read_table(tmp_path / "out" / "leaked.parquet").to_pylist()
    exact = {
        (row["address_a"], row["address_b"])
        for row in leaked
        if row["reason"] == "identical pixels"
    }
    assert exact == {(f"{70 + row}.png", f"{10 + row}.png") for row in range(10)}
    assert (
        outcome.summary["leakage"]["test"]["rows"]
        == 10
        == outcome.summary["leakage"]["test"]["leaked"]
    )
    run(tmp_path / "paper", planted, mode="paper")
    assert pq.read_table(tmp_path / "paper" / "leaked.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("verified", {"sweep", "look_alikes", "injected"}),
        ("paper", {"sweep", "unconfirmed", "injected", "health"}),
        ("off", set()),
    ],
)
def test_quality_says_what_the_search_is_worth(
    planted: dict[str, list[StageInput]], tmp_path: Path, mode: str, message: set[str]
) -> None:
    outcome, _ = run(tmp_path / mode, planted, mode=mode)
    quality = json.loads((tmp_path / mode / "quality.json").read_text())
    assert set(quality) == {"mode", *message}
    if message:
        (used,) = (row for row in quality["sweep"] if row["used"])
        assert (used["pairs"], used["removed"]) == (
            outcome.summary["pairs"],
            outcome.counts["duplicates"],
        )
        assert (
            used["groups"] == outcome.summary["groups"]
            and quality["injected"]["kept_out"]["identical"] == 1.0
        )
    run(tmp_path / "unmeasured", planted, mode=mode, measure=False)
    assert set(json.loads((tmp_path / "unmeasured" / "quality.json").read_text())) == {
        "mode",
        *message & {"health"},
    }
