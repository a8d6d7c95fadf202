"""Planted problems are found by `discern validate`, and nothing is said of ordinary images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from flows.commands.validate import validate, validate_images
from gan_core.errors import RequestError
from gan_core.vision.quality import PROBLEMS, measure, problems

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(load_sample_image("china.jpg"))


def test_each_planted_problem_is_found_alone(photo: np.ndarray) -> None:
    height, width = photo.shape[:2]
    planted = {
        "dark": photo // 5,
        "bright": 255 - photo // 30,
        "blurry": cv2.GaussianBlur(photo, (0, 0), 25),
        "low information": np.full_like(photo, 120),
        "odd aspect ratio": photo[: width // 4],
        "odd size": np.tile(photo, (12, 12, 1)),
        "tiny": cv2.resize(photo, (42, 28)),
        "grey": np.repeat(photo[..., :1], 3, axis=2),
    }
    assert tuple(planted) == PROBLEMS
    usual = [measure(photo), measure(np.asarray(load_sample_image("flower.jpg")))] * 9
    assert problems(usual) == [[]] * 18
    for name, image in planted.items():
        assert name in problems([*usual, measure(image)])[-1], name
    assert problems([*usual, measure(planted["grey"])])[-1] == ["grey"]
    # The percentiles are those of the formula, pixel by pixel.
    small = photo[:40, :50].astype(float)
    bright = [
        (0.241 * r * r + 0.691 * g * g + 0.068 * b * b) ** 0.5 / 255
        for r, g, b in small.reshape(-1, 3)
    ]
    assert measure(photo[:40, :50]).brightness_99 == pytest.approx(np.percentile(bright, 99), 1e-5)


def test_a_folder_with_planted_faults(photo: np.ndarray, tmp_path: Path) -> None:
    place = tmp_path / "set"
    files = {
        "train/cat/a.png": photo,
        "train/cat/dark.png": photo // 6,
        "train/dog/b.png": photo[:, ::-1],
        "test/cat/again.png": photo,
        "test/dog/c.png": photo[::-1],
    }
    for name, image in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / name), image[..., ::-1])
    (place / "train" / "cow").mkdir()
    (place / "test" / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = validate_images(place)
    assert found.images == 6 and list(found.unreadable) == ["test/dog/broken.png"]
    assert found.classes == {"cat": 3, "dog": 3} and found.splits == {"test": 3, "train": 3}
    assert found.empty_classes == ["train/cow"]
    assert found.across_splits == found.duplicates == [["test/cat/again.png", "train/cat/a.png"]]
    assert {name: listed for name, listed in found.problems.items() if listed} == {
        "dark": ["train/cat/dark.png"]
    }
    sheet = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "flows.cli", "validate", str(place), "--json"]
    done = subprocess.run(
        [*command, "--sheet", str(sheet)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    result = json.loads(done.stdout)
    assert result["problems"] == found.problems and result["duplicates"] == found.duplicates
    assert cv2.imread(str(sheet)).shape[1] > 300
    with pytest.raises(RequestError):  # a sheet is never replaced
        validate(place, sheet)
