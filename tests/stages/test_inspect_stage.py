"""Stage inspect on a snapshot of a real, short training on digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from gan_core.reporting.pictures import read_image, tiles_of
from sklearn.datasets import load_digits

from gan_core.config import NetworkConfig, TrainConfig
from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.networks.snapshot import generate, last_snapshot, load_snapshot
from gan_core.progress import silent
from gan_core.stages import inspect
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train
from gan_core.vision.tensors import to_uint8


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


def run(folder: Path, work: Path, pack: Path | None = None, **section: Any) -> StageOutcome:
    ref = ArtifactRef(stage="train", key="0" * 32, digest="0" * 64)
    inputs = {"snapshot": [StageInput(ref=ref, path=folder)]}
    if pack is not None:
        inputs["pack"] = [StageInput(ref=ref, path=pack)]
    part = {"inspect": section, "seed": 0, "threads": 1}
    request = StageRequest(
        stage="inspect",
        node="inspect",
        key="1" * 32,
        part=part,
        inputs=inputs,
        context={"device": "cpu"},
        work=work,
    )
    return inspect.run(request, silent)


def test_sheets_hold_what_the_generator_gives(snapshot_folder: Path, tmp_path: Path) -> None:
    outcome = run(snapshot_folder, tmp_path, samples=70, walks=3, walk_steps=5)
    assert outcome.counts == {"figures": 4, "samples": 70, "walks": 3}
    tiles = tiles_of(read_image(tmp_path / "samples.png"), 32)
    assert tiles is not None
    snapshot = load_snapshot(last_snapshot(snapshot_folder))
    expected = to_uint8(generate(snapshot, snapshot.grid_latents)).numpy()
    assert (
        tiles.reshape(-1, 32, 32, 3)[:64] == expected
    ).all()  # the latents of the training's grids come first
    walk = tiles_of(read_image(tmp_path / "walk.png"), 32)
    assert walk is not None and walk.shape[:2] == (3, 5)
    assert (walk[:-1, -1] == walk[1:, 0]).all()
    numbers = json.loads((tmp_path / "walk.json").read_text())
    slow = [
        np.abs(row[i + 1].astype(int) - row[i].astype(int)).mean() / 255
        for row in walk
        for i in range(4)
    ]
    assert numbers["mean_step"] == pytest.approx(np.mean(slow), abs=1e-6)
    assert (
        outcome.summary["mean_step"] == numbers["mean_step"] and numbers["path"] == "straight line"
    )


def test_content_is_the_same_again(snapshot_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(snapshot_folder, tmp_path / name, samples=16, walks=2, walk_steps=4)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        f"{name}.{kind}"
        for name in ("arithmetic", "guided", "samples", "walk")
        for kind in ("json", "png")
    ]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_guided_looks_at_training_images_where_there_are_some(
    snapshot_folder: Path, tmp_path: Path
) -> None:
    import pyarrow as pa

    from gan_core import schemas
    from gan_core.shards import write_rows, write_shard

    pack = tmp_path / "pack"
    pack.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    write_shard(pack, 0, pixels)
    rows = [
        {"image_id": f"{n:032x}", "box": 0, "status": "ok", "shard": 0, "row": n} for n in range(20)
    ]
    write_rows(pack, pa.Table.from_pylist(rows, schema=schemas.CROPS))
    run(
        snapshot_folder,
        tmp_path / "out",
        pack=pack,
        samples=4,
        walks=1,
        walk_steps=2,
        guided=2,
        arithmetic=False,
    )
    numbers = json.loads((tmp_path / "out" / "guided.json").read_text())
    assert (
        numbers["of"] == "training images" and numbers["images"] == 20 and numbers["features"] == 2
    )
    tiles = tiles_of(read_image(tmp_path / "out" / "guided.png"), 32)
    assert tiles is not None and tiles.shape[:2] == (2, 12)
    for shown in tiles[:, :4].reshape(-1, 32, 32, 3):
        assert (np.abs(pixels.astype(int) - shown).max(axis=(1, 2, 3)) <= 1).any()
    assert not (tmp_path / "out" / "arithmetic.png").exists()


def test_a_collapsed_generator_is_warned_of(snapshot_folder: Path, tmp_path: Path) -> None:
    """A fault: all weights of the first layer are zero, so every latent gives the same image."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = last_snapshot(snapshot_folder)
    tensors = load_file(path)
    for name in tensors:
        if name.endswith("project.operation.weight"):
            tensors[name] = torch.zeros_like(tensors[name])
    with safe_open(path, framework="pt") as file:
        save_file(tensors, tmp_path / path.name, metadata=file.metadata())
    outcome = run(tmp_path, tmp_path / "out", samples=16, walks=2, walk_steps=4)
    assert len(outcome.warnings) == 1 and "collapsed" in outcome.warnings[0]
    assert not run(snapshot_folder, tmp_path / "fine", samples=16, walks=2, walk_steps=4).warnings
