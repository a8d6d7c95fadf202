"""Sources by role: trained on one set and evaluated on another, folders with and without classes,
one class, too few images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

Ask = Callable[..., dict[str, Any]]

TRANSFER = """
name: askew
about: trained on the digits, evaluated on the same digits turned by 25 degrees
sources:
  train:
    - {name: digits, dataset: digits, limit: 600}
  evaluate:
    - {name: turned, dataset: digits, limit: 600, options: {rotate: 25.0}}
hash: {epochs: 1}
train:
  network: {name: dcgan32_svhn, width: 0.125}
  kimg: 2
  batch: 32
evaluate:
  labels_per_class: [10]
  draws: 2
  probes: [{name: linear_svm, grid: [0.001, 0.1]}]
  baselines: [pixels]
inspect: [samples]
"""

SETTINGS = (
    "train.network.width=0.125",
    "train.kimg=0.2",
    "train.batch=8",
    "evaluate.baselines=[pixels]",
    "inspect=[samples]",
)
SMALL = ("--scale", "debug", *(word for setting in SETTINGS for word in ("--set", setting)))


def write_images(folder: Path, count: int, seed: int) -> None:
    """Real digits as PNG files of 40x40 pixels."""
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.random.default_rng(seed).choice(1797, count, replace=False)
    for number in chosen:
        image = cv2.resize(
            (load_digits().images[number] * 15).astype(np.uint8),
            (40, 40),
            interpolation=cv2.INTER_CUBIC,
        )
        cv2.imwrite(str(folder / f"{number}.png"), image)


def test_trained_on_one_set_and_evaluated_on_another(tmp_path: Path, answer: Ask) -> None:
    recipe = tmp_path / "askew.yaml"
    recipe.write_text(TRANSFER)
    result = answer(tmp_path / "home", "run", str(recipe), "--json")
    made = set(result["computed"])
    assert {"ingest:digits", "ingest:turned", "crop:turned", "extract:turned:discriminator"} <= made
    assert not any(name.startswith(("extract:digits", "evaluate:digits")) for name in made)
    scores = {(row["features"], row["probe"]): row["mean"] for row in result["summary"]["scores"]}
    assert scores["discriminator", "linear_svm"] > 0.5, (
        "features of upright digits still tell turned ones apart"
    )
    assert result["summary"]["transfer"] is True


@pytest.mark.slow  # test_growing_set.py evaluates such a folder in the default run
def test_a_folder_with_classes_is_evaluated(tmp_path: Path, answer: Ask) -> None:
    for seed, name in enumerate(("cats", "dogs", "birds")):
        write_images(tmp_path / "images" / name, 24, seed)
    result = answer(
        tmp_path / "home", "run", "folder", "--data", str(tmp_path / "images"), *SMALL, "--json"
    )
    assert {row["probe"] for row in result["summary"]["scores"]} >= {
        "linear_svm",
        "logistic",
        "chance",
    }


def test_a_folder_without_classes_does_the_rest_and_says_so(tmp_path: Path, answer: Ask) -> None:
    write_images(tmp_path / "images", 60, 0)
    result = answer(
        tmp_path / "home", "run", "folder", "--data", str(tmp_path / "images"), *SMALL, "--json"
    )
    assert not any(name.startswith("evaluate") for name in result["computed"])
    assert "extract:folder:discriminator" in result["computed"]
    assert "nothing to evaluate" in Path(result["report"]).read_text().lower()
    again = answer(
        tmp_path / "home", "run", "folder", "--data", str(tmp_path / "images"), *SMALL, "--json"
    )
    assert again["computed"] == []


@pytest.mark.slow
def test_one_class_only_is_said_and_the_rest_is_done(tmp_path: Path, answer: Ask) -> None:
    write_images(tmp_path / "images" / "cats", 60, 0)
    result = answer(
        tmp_path / "home", "run", "folder", "--data", str(tmp_path / "images"), *SMALL, "--json"
    )
    assert (
        "nothing to evaluate" in result["summary"]["sentence"]
        and "labels" in result["summary"]["sentence"]
    )
    assert not any(name.startswith("evaluate") for name in result["computed"])


def test_fewer_images_than_a_batch(tmp_path: Path, answer: Ask) -> None:
    write_images(tmp_path / "images", 9, 0)
    arguments = ("--data", str(tmp_path / "images"), *SMALL, "--set", "train.batch=64", "--json")
    result = answer(tmp_path / "home", "run", "folder", *arguments, code=1)
    assert "batch" in result["error"] and result["remedy"]


@pytest.mark.data
@pytest.mark.slow
def test_cifar10_from_parquet_at_debug_scale(tmp_path: Path, answer: Ask, real_data: Path) -> None:
    result = answer(
        tmp_path / "home",
        "run",
        "cifar10",
        "--data",
        str(real_data / "cifar10"),
        "--scale",
        "debug",
        "--set",
        "inspect=[samples]",
        "--set",
        "evaluate.probes=[{name: linear_svm, grid: [1.0e-3]}]",
        "--set",
        "evaluate.baselines=[pixels]",
        "--json",
    )
    flow = result["summary"]["flow"]["cifar10"]
    assert flow, result["summary"]
    scores = {
        (row["features"], row["labels"]): row["mean"]
        for row in result["summary"]["scores"]
        if row["probe"] == "linear_svm"
    }
    assert scores["discriminator", "40"] > 0.15, "better than chance on ten classes"
