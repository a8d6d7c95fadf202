"""Train as a stage, on scikit-learn's digits: what it writes, continues, refuses."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.errors import DataError, RequestError
from gan_core.networks.snapshot import last_snapshot, load_snapshot
from gan_core.progress import silent
from gan_core.schemas import image_id
from gan_core.stages import train
from tests.packs import write_pack

SETTINGS: dict[str, Any] = {
    "network": {"name": "dcgan32_svhn", "width": 0.125},
    "batch": 16,
    "kimg": 0.64,
    "log_kimg": 0.1,
    "state_kimg": 0.2,
}


@cache
def digits() -> np.ndarray[Any, Any]:
    from sklearn.datasets import load_digits

    small = (load_digits().images[:256] * 15.9375).astype(np.uint8)
    return np.stack([cv2.cvtColor(cv2.resize(d, (32, 32)), cv2.COLOR_GRAY2RGB) for d in small])


def packed(folder: Path, count: int = 256) -> Path:
    """A pack artifact of the first `count` digits."""
    ids = [image_id("digits", "", str(n)) for n in range(count)]
    return write_pack(folder, digits()[:count], image_id=ids)


def request(
    root: Path,
    name: str,
    *,
    state: str | None = None,
    limit: float | None = None,
    count: int = 256,
    start: Path | None = None,
    **changed: Any,
) -> StageRequest:
    ref = ArtifactRef(stage="pack", key="0" * 32, digest="0" * 64)
    return StageRequest(
        stage="train",
        node="train",
        key="0" * 32,
        part={"train": {**SETTINGS, **changed}, "seed": 0, "threads": 1, "image_size": 32},
        inputs={"pack": [StageInput(ref=ref, path=packed(root / f"pack{count}", count))]},
        context={
            "device": "cpu",
            "state": str(root / "state" / (state or name)),
            "max_seconds": limit,
            "start": start and str(start),
        },
        work=root / name,
    )


def run(*args: Any, **kwargs: Any) -> StageOutcome:
    return train.run(request(*args, **kwargs), silent)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(last_snapshot(folder))


def same(a: Path, b: Path) -> bool:
    return last_snapshot(a).read_bytes() == last_snapshot(b).read_bytes()


@pytest.mark.parametrize("mode", ["paper", "modern"])
def test_a_training_leaves_snapshots_statistics_and_grids(tmp_path: Path, mode: str) -> None:
    outcome = run(tmp_path, "a", options={"mode": mode}, snapshot_kimg=0.32)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "stats.jsonl" in names and "grid-000000.png" in names
    assert [name for name in names if name.startswith("snapshot")] == [
        f"snapshot-000000_{n}.safetensors" for n in (320, 640)
    ]
    assert [name for name in names if name.startswith("grid-")][1:] == [
        f"grid-000000_{n}.png" for n in (128, 256, 384, 512, 640)
    ]
    lines = [json.loads(line) for line in (tmp_path / "a" / "stats.jsonl").read_text().splitlines()]
    assert [round(line["kimg"], 1) for line in lines] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6]
    assert lines[-1]["images"] == 640 and {
        "loss_discriminator",
        "loss_generator",
        "score_real",
        "score_fake",
    } <= set(lines[-1])
    assert outcome.complete and outcome.summary["kimg"] == 0.64
    updates = outcome.summary["updates"]
    assert updates == {"generator": 40, "discriminator": 40}
    assert outcome.summary["minibatches"] == (
        80 if mode == "paper" else 40
    )  # paper: a minibatch feeds one of the two
    snapshot = load_snapshot(last_snapshot(tmp_path / "a"))
    assert snapshot.meta["options"]["mode"] == mode and snapshot.meta["kimg"] == 0.64
    assert (snapshot.average is None) == (mode == "paper")
    assert snapshot.grid_latents.shape == (64, 100)
    assert str(tmp_path) not in json.dumps(snapshot.meta)
    events = EventAccumulator(str(tmp_path / "a" / "tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in events.Scalars("loss_generator")] == [
        line["images"] for line in lines
    ]
    assert events.Scalars("score_real")[-1].value == pytest.approx(
        lines[-1]["score_real"], rel=1e-5
    )
    assert (
        len(events.Images("samples")) == 6
        and events.Images("samples")[-1].encoded_image_string[:4] == b"\x89PNG"
    )


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    run(tmp_path, "a", kimg=0.16)
    run(tmp_path, "b", kimg=0.16)
    assert same(tmp_path / "a", tmp_path / "b")
    other = request(tmp_path, "c", kimg=0.16)
    train.run(other.model_copy(update={"part": {**other.part, "seed": 1}}), silent)
    assert not same(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("mode", ["paper", "modern"])
def test_stopped_by_time_and_continued_it_ends_in_the_same_weights(
    tmp_path: Path, mode: str
) -> None:
    run(tmp_path, "whole", options={"mode": mode}, kimg=0.32, flip=True)
    starts = 0
    while True:
        outcome = run(tmp_path, "state", options={"mode": mode}, kimg=0.32, flip=True, limit=0.05)
        starts += 1
        if outcome.complete:
            break
        assert (
            not list((tmp_path / "state").glob("snapshot-*")) and "continues" in outcome.warnings[0]
        )
        assert starts < 60
    assert starts > 1
    assert same(tmp_path / "whole", tmp_path / "state")


def test_asked_for_more_it_continues_and_for_less_it_does_not_use_the_future(
    tmp_path: Path,
) -> None:
    run(tmp_path, "straight", kimg=0.48)
    run(tmp_path, "short", kimg=0.24, state="shared")
    longer = run(tmp_path, "long", kimg=0.48, state="shared")
    assert longer.summary["started_at_kimg"] == pytest.approx(0.24)
    assert same(tmp_path / "straight", tmp_path / "long")
    run(tmp_path, "short-again", kimg=0.24, state="shared")
    assert same(tmp_path / "short", tmp_path / "short-again")
    again = run(tmp_path, "long-again", kimg=0.48, state="shared")
    assert again.summary["started_at_kimg"] == pytest.approx(
        0.48
    )  # the longer training's own states were left alone
    assert same(tmp_path / "straight", tmp_path / "long-again")


def test_how_often_it_is_watched_changes_no_weight(tmp_path: Path) -> None:
    run(tmp_path, "a", kimg=0.16)
    run(tmp_path, "b", kimg=0.16, log_kimg=0.03, state_kimg=0.05, grid_kimg=0.04)
    assert same(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_scheduled_snapshots_do_not_depend_on_where_an_earlier_training_stopped(
    tmp_path: Path,
) -> None:
    run(tmp_path, "straight", kimg=4.0, snapshot_kimg=2.0, batch=64)
    run(tmp_path, "first", kimg=3.0, snapshot_kimg=2.0, batch=64, state="shared")
    run(tmp_path, "second", kimg=4.0, snapshot_kimg=2.0, batch=64, state="shared")
    names = sorted(p.name for p in (tmp_path / "straight").glob("snapshot-*"))
    assert names == ["snapshot-000002.safetensors", "snapshot-000004.safetensors"]
    assert sorted(p.name for p in (tmp_path / "second").glob("snapshot-*")) == names
    assert all(
        (tmp_path / "straight" / n).read_bytes() == (tmp_path / "second" / n).read_bytes()
        for n in names
    )


def test_an_encoder_is_fitted_to_the_averaged_generator_of_another_training(tmp_path: Path) -> None:
    run(tmp_path, "gan")
    start = last_snapshot(tmp_path / "gan")
    given: dict[str, Any] = {"method": "latent_regression", "start": start, "learning_rate": 1e-3}
    outcome = run(tmp_path, "fit", **given)
    errors = [line["loss_encoder"] for line in outcome.summary["curve"]]
    assert errors[-1] < 0.7 * errors[0], errors
    finished, copied = weights(tmp_path / "gan"), weights(tmp_path / "fit")
    parameters = [n for n in copied if n.startswith("generator.") and "running" not in n]
    assert parameters
    for name in parameters:
        ema = finished[name.replace("generator.", "generator_ema.")]
        assert torch.equal(copied[name], ema), name
    assert not any(name.startswith("discriminator") for name in copied)


def test_a_gan_starts_from_the_weights_of_another_and_not_from_those_of_another_size(
    tmp_path: Path,
) -> None:
    run(tmp_path, "first", kimg=0.16)
    start = last_snapshot(tmp_path / "first")
    run(tmp_path, "second", kimg=0.016, learning_rate=1e-9, weight_decay=0, start=start)
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    for name in before:
        if name.startswith(("generator.", "discriminator.")) and "running" not in name:
            assert torch.allclose(before[name], after[name], atol=1e-7), name
    with pytest.raises(RequestError, match="does not fit") as caught:
        run(tmp_path, "wider", start=start, network={"name": "dcgan32_svhn", "width": 0.25})
    assert "train.network.width=0.125" in caught.value.remedy


def test_fewer_images_than_a_batch_are_refused_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="10 images, and one batch takes 16") as caught:
        run(tmp_path, "a", count=10)
    assert caught.value.remedy == "more images, or --set train.batch=8"


def test_where_dedup_left_too_few_it_is_named_as_the_remedy(tmp_path: Path) -> None:
    counts = {"in": 42, "kept": 10, "duplicates": 30, "failed": 2}
    given = packed(tmp_path / "pack10", 10) / "manifest.json"
    given.write_text(json.dumps({"outcome": {"counts": counts}}))
    with pytest.raises(DataError, match="Of 40, dedup has left out 30") as caught:
        run(tmp_path, "a", count=10)
    assert (
        "--set dedup.mode=off" in caught.value.remedy and "more images" not in caught.value.remedy
    )
    given.write_text(json.dumps({"outcome": {"counts": {**counts, "duplicates": 3}}}))
    with pytest.raises(DataError, match="Of 13, dedup has left out 3") as caught:
        run(tmp_path, "a", count=10)
    assert caught.value.remedy == "more images, or --set train.batch=8", (
        "the duplicates would not be enough either"
    )


def test_a_few_images_are_trained_on_with_a_warning(tmp_path: Path) -> None:
    assert "memorise them" in run(tmp_path, "a", count=24, kimg=0.064).warnings[-1]


def test_train_needs_neither_prefect_nor_faiss() -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['prefect'] = None; sys.modules['faiss'] = None\n"
        "import gan_core.stages.train, gan_core.training.loop, gan_core.stages.pack"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
