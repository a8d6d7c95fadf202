"""Runs side by side, on tables made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gan_core import schemas
from gan_core.files import write_table
from gan_core.reporting.compare import ComparedRun, compare, differing_settings, page, sentences

IMAGES, DRAWS = 400, 3


def run_of(folder: Path, name: str, right: np.ndarray, kimg: int) -> ComparedRun:
    """A run whose probe is right where `right` [draws, images] says so."""
    folder = folder / name
    folder.mkdir()
    scores: list[dict[str, Any]] = []
    predictions = []
    for draw in range(DRAWS):
        cell = {"features": "discriminator", "probe": "linear_svm", "labels": "10", "draw": draw}
        values = {field.name: None for field in schemas.SCORES} | cell
        values |= {
            "source": "digits",
            "label_count": 100,
            "chosen": 0.1,
            "test_set": "all",
            "test_rows": IMAGES,
            "test_accuracy": float(right[draw].mean()),
            "saw_labels": "",
            "classes": 2,
        }
        scores.append(values)
        columns = {
            "image_id": [f"{number:05d}" for number in range(IMAGES)],
            "box": [0] * IMAGES,
            **{key: [value] * IMAGES for key, value in cell.items()},
            "label": [1] * IMAGES,
            "predicted": right[draw].astype(np.int32).tolist(),
        }
        order = [columns[field.name] for field in schemas.PREDICTIONS]
        predictions.append(pa.table(order, schema=schemas.PREDICTIONS))
    write_table(pa.Table.from_pylist(scores, schema=schemas.SCORES), folder / "scores.parquet")
    write_table(pa.concat_tables(predictions), folder / "predictions.parquet")
    return ComparedRun(name, {"train": {"kimg": kimg, "batch": 64}}, (folder,))


@pytest.fixture()
def runs(tmp_path: Path) -> list[ComparedRun]:
    random = np.random.default_rng(0)
    first = random.random((DRAWS, IMAGES)) < 0.7
    better = first | (random.random((DRAWS, IMAGES)) < 0.3)
    equal = first ^ (random.random((DRAWS, IMAGES)) < 0.02)
    return [
        run_of(tmp_path, name, right, kimg)
        for name, right, kimg in (("a", first, 10), ("better", better, 20), ("equal", equal, 10))
    ]


def test_differences_are_paired_and_noise_is_named(runs: list[ComparedRun]) -> None:
    found = compare(runs)
    (cell,) = found["scores"]
    gap = cell["runs"]["better"]["difference"]
    expected = cell["runs"]["better"]["mean"] - cell["runs"]["a"]["mean"]
    assert gap["paired"] and gap["verdict"] == "above" and gap["mean"] == pytest.approx(expected)
    # both are right on the same images for the most part: paired is far narrower than two intervals
    assert gap["half"] < cell["runs"]["a"]["half"]
    assert cell["runs"]["equal"]["difference"]["verdict"] == "level"
    noisy, clear = "equal against a", "better against a"
    for line in sentences(found):
        assert ("within noise" in line) == (noisy in line) and (noisy in line or clear in line)
    text = page(found, runs)
    assert "train.kimg" in text and "train.batch" not in text


def test_settings_that_one_recipe_alone_has_are_listed() -> None:
    rows = differing_settings([{"a": {"b": 1}}, {"a": {"b": 1, "c": [2]}}])
    assert rows == [{"setting": "a.c", "values": [None, [2]]}]
