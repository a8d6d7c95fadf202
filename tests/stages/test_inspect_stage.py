"""Stage inspect on a snapshot of a real, short training on digits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from gan_core.config import NetworkConfig, TrainConfig
from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.networks.snapshot import generate, last_snapshot, load_snapshot
from gan_core.progress import silent
from gan_core.reporting.images import read_image, tiles_of
from gan_core.shards import PixelShards
from gan_core.stages import inspect
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train
from gan_core.vision.tensors import to_uint8
from tests.packs import write_pack


@pytest.fixture(scope="module")
def snapshot_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of 32 px, trained on 512 digits for 1 kimg."""
    pixels = np.clip(load_digits().images[:512] * 16, 0, 255).astype(np.uint8)
    pictures = np.stack([cv2.resize(image, (32, 32)) for image in pixels])[..., None].repeat(
        3, axis=3
    )
    settings = TrainConfig(network=NetworkConfig(name="dcgan32_svhn", width=0.25), kimg=1, batch=32)
    folder = tmp_path_factory.mktemp("train")
    trained = train(ArrayImages(pictures), Context(settings, folder, 32))
    return Path(next(path for path in trained.products if path.suffix == ".safetensors")).parent


def run(
    folder: Path, work: Path, name: str, pack: Path | None = None, **options: Any
) -> StageOutcome:
    ref = ArtifactRef(stage="train", key="0" * 32, digest="0" * 64)
    inputs = {"snapshot": [StageInput(ref=ref, path=folder)]}
    if pack is not None:
        inputs["pack"] = [StageInput(ref=ref, path=pack)]
    part = {"inspection": {"name": name, "options": options}, "seed": 0, "threads": 1}
    request = StageRequest(
        stage="inspect",
        node=f"inspect:{name}",
        key="1" * 32,
        part=part,
        inputs=inputs,
        context={"device": "cpu"},
        work=work,
    )
    return inspect.run(request, silent)


def content(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "inspection.json").read_text())
    return found


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training set of 40 random images."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    return write_pack(tmp_path_factory.mktemp("pack"), pixels)


def test_samples_begin_with_the_latents_of_the_trainings_grids(
    snapshot_folder: Path, tmp_path: Path, pack: Path
) -> None:
    outcome = run(snapshot_folder, tmp_path, "samples", pack, count=70)
    assert outcome.counts == {"figures": 1}
    tiles = tiles_of(read_image(tmp_path / "samples.png"), 32)
    assert tiles is not None
    snapshot = load_snapshot(last_snapshot(snapshot_folder))
    expected = to_uint8(generate(snapshot, snapshot.grid_latents)).numpy()
    assert (tiles.reshape(-1, 32, 32, 3)[:64] == expected).all()
    numbers = content(tmp_path)["numbers"]
    assert 0 < numbers["contrast_ratio"] < 2 and numbers["diversity"] < numbers["diversity_real"]


def test_walks_are_measured_step_by_step(snapshot_folder: Path, tmp_path: Path) -> None:
    run(snapshot_folder, tmp_path, "walks", rows=3, steps=5)
    walk = tiles_of(read_image(tmp_path / "walk.png"), 32)
    assert walk is not None and walk.shape[:2] == (3, 5)
    assert (walk[:-1, -1] == walk[1:, 0]).all()
    numbers = content(tmp_path)["numbers"]
    slow = [
        np.abs(row[i + 1].astype(int) - row[i].astype(int)).mean() / 255
        for row in walk
        for i in range(4)
    ]
    assert numbers["mean_step"] == pytest.approx(np.mean(slow), abs=1e-6)
    assert numbers["path"] == "straight line"


@pytest.mark.parametrize("name", ["samples", "walks", "guided", "arithmetic"])
def test_equal_requests_write_equal_bytes(snapshot_folder: Path, tmp_path: Path, name: str) -> None:
    options = {"samples": 80, "draws": 5} if name == "arithmetic" else {}
    for work in ("a", "b"):
        run(snapshot_folder, tmp_path / work, name, **options)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert set(files) == {"inspection.json"} | {
        figure["file"] for figure in content(tmp_path / "a")["figures"]
    }
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_guided_traces_training_images_where_there_are_some(
    snapshot_folder: Path, tmp_path: Path, pack: Path
) -> None:
    run(snapshot_folder, tmp_path, "guided", pack, features=2)
    numbers = content(tmp_path)["numbers"]
    assert numbers["of"] == "training images" and numbers["images"] == 40
    tiles = tiles_of(read_image(tmp_path / "guided_images.png"), 32)
    assert tiles is not None and tiles.shape[:2] == (2, 4)
    pixels = PixelShards([pack]).pixels(slice(None)).astype(int)
    for shown in tiles.reshape(-1, 32, 32, 3):
        assert (np.abs(pixels - shown).max(axis=(1, 2, 3)) <= 1).any()


def test_what_cannot_be_done_says_why(snapshot_folder: Path, tmp_path: Path) -> None:
    outcome = run(snapshot_folder, tmp_path, "memorisation")
    assert not outcome.summary["applicable"] and "no training set" in outcome.summary["sentence"]
    assert content(tmp_path)["figures"] == []


def test_a_collapsed_generator_gets_a_warning(snapshot_folder: Path, tmp_path: Path) -> None:
    """A fault: all weights of the first layer are zero, so every latent gives the same image."""
    path = last_snapshot(snapshot_folder)
    tensors = load_file(path)
    for name in tensors:
        if name.endswith("project.operation.weight"):
            tensors[name] = torch.zeros_like(tensors[name])
    with safe_open(path, framework="pt") as file:
        save_file(tensors, tmp_path / path.name, metadata=file.metadata())
    outcome = run(tmp_path, tmp_path / "out", "samples", count=16)
    assert len(outcome.warnings) == 1 and "not learned to draw" in outcome.warnings[0]
    assert not run(snapshot_folder, tmp_path / "fine", "samples", count=16).warnings


def test_subspaces_of_a_training_set_with_labels(
    snapshot_folder: Path, tmp_path: Path, pack: Path
) -> None:
    outcome = run(snapshot_folder, tmp_path / "none", "subspaces", pack)
    assert not outcome.summary["applicable"] and "no labels" in outcome.summary["sentence"]
    digits = load_digits()
    grey = np.stack(
        [cv2.resize(image.astype(np.float32) * 15, (32, 32)) for image in digits.images]
    )
    pixels = grey[:150, ..., None].repeat(3, 3).round().astype(np.uint8)
    write_pack(tmp_path, pixels, label=digits.target[:150].tolist())
    options = {"images": 150, "samples": 60, "ranks": [2], "noise": [0.1]}
    for kimg in (1, 2):
        name = f"snapshot-00000{kimg}.safetensors"
        shutil.copyfile(last_snapshot(snapshot_folder), tmp_path / name)
    outcome = run(tmp_path, tmp_path / "out", "subspaces", tmp_path, **options)
    numbers = outcome.summary["numbers"]
    assert outcome.counts == {"figures": 2} and numbers["linear_head"]
    assert set(numbers["subspaces"]) == {"values, rank 1", "maps, rank 2"}
    whole, without = numbers["all"], numbers["subspaces"]["values, rank 1"]["rest"]
    assert whole["classes"][0] > 0.6  # chance is 0.1
    assert abs(without["classes"][0] - whole["classes"][0]) < 0.05
    first, last = numbers["over_training"]
    assert first == last
    expected = numbers["subspaces"]["maps, rank 2"]["energy"]["real"]
    assert last["energy"]["maps, rank 2"]["real"] == pytest.approx(expected, rel=0.2)
