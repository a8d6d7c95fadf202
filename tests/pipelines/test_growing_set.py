"""A folder that grows between runs: only new files are read, and `train.on_new_data` says what
becomes of the snapshot.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.operating import Api

Answer = dict[str, Any]
Ask = Callable[..., Answer]
SETTINGS = (
    "train.kimg=0.2",
    "train.batch=16",
    "evaluate.labels_per_class=[5]",
    "evaluate.probes=[{name: ridge}]",
    "evaluate.baselines=[random]",
    "inspect=[samples]",
)


def run_of(data: Path, *settings: str, verb: str = "run") -> list[str]:
    chosen = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    return [verb, "folder", "--data", str(data), "--scale", "debug", "--json", *chosen]


def add_digits(data: Path, start: int, stop: int) -> None:
    """Real digits 0 to 2 as PNG files in class folders: the ones with these numbers."""
    import cv2
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = [index for index, label in enumerate(digits.target) if label < 3][start:stop]
    for index in chosen:
        folder = data / f"class-{digits.target[index]}"
        folder.mkdir(parents=True, exist_ok=True)
        large = cv2.resize(
            digits.images[index] * 15.9, (32, 32), interpolation=cv2.INTER_LINEAR
        ).astype("uint8")
        cv2.imwrite(str(folder / f"{index:04d}.png"), large)


def spoil(data: Path) -> None:
    """Makes every file unreadable without a sign of it from outside: same size, same time of
    change.
    """
    for path in data.glob("*/*.png"):
        known = path.stat()
        path.write_bytes(b"\0" * known.st_size)
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))


def node(result: Answer, name: str) -> dict[str, Any]:
    return next(entry for entry in result["nodes"] if entry["node"] == name)


def folder_of(home: Path, result: Answer, name: str) -> Path:
    ref = node(result, name)["ref"]
    return home / "artifacts" / ref["stage"] / ref["key"] / ref["digest"][:12]


def manifest_of(home: Path, result: Answer, name: str) -> dict[str, Any]:
    return json.loads((folder_of(home, result, name) / "manifest.json").read_text())


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, answer: Ask) -> tuple[Path, Path, Answer]:
    """A home with a finished run over 160 images, the folder, what was said; to be copied."""
    root = tmp_path_factory.mktemp("growing")
    (root / "home").mkdir()
    add_digits(root / "data", 0, 160)
    return root / "home", root / "data", answer(root / "home", *run_of(root / "data"))


@pytest.fixture
def grown(before: tuple[Path, Path, Answer], tmp_path: Path) -> tuple[Path, Path, Answer]:
    """Copies, the folder grown by 40 images, and no old file readable any more."""
    home, data, result = before
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    shutil.copytree(data, tmp_path / "data")
    spoil(tmp_path / "data")
    add_digits(tmp_path / "data", 160, 200)
    return tmp_path / "home", tmp_path / "data", result


def test_ignore_keeps_the_snapshot_and_new_images_get_features_and_scores(
    grown: tuple[Path, Path, Answer], answer: Ask, server: dict[str, str]
) -> None:
    import pyarrow.parquet as pq

    home, data, first = grown
    result = answer(home, *run_of(data, "train.on_new_data=ignore"))
    api = Api(server)
    shown = api.until(
        lambda: api.tasks(result["flow_run"], 1),
        lambda tasks: {"train", "pack:trained", "report"} <= set(tasks),
    )
    assert shown["train"]["state_name"] == shown["pack:trained"]["state_name"] == "Cached"
    assert {"training", "report"} <= set(api.artifacts(result["flow_run"])), (
        "the run's page shows what is in use"
    )
    made = set(result["computed"])
    assert not {"train", "inspect:samples"} & made, "they read the old snapshot and its set alone"
    assert {
        "ingest:folder",
        "crop:folder",
        "pack",
        "extract:folder:discriminator",
        "report",
    } <= made
    assert node(result, "train")["ref"] == node(first, "train")["ref"]
    # Only new files were read: the old ones hold zeros by now.
    assert manifest_of(home, result, "ingest:folder")["outcome"]["summary"]["read"] == 40
    crop = manifest_of(home, result, "crop:folder")["outcome"]
    assert (crop["summary"]["read"], crop["summary"]["reused"]) == (40, 160) and crop["counts"][
        "ok"
    ] == 200
    # Every image has features; their lineage names the set of the snapshot and the one that it has
    # grown to.
    (features,) = folder_of(home, result, "extract:folder:discriminator").glob("features-*.parquet")
    table = pq.read_table(features)
    assert table.num_rows == 200
    lineage = json.loads(table.schema.metadata[b"discern"])
    assert lineage["inputs"]["pack"] == [node(first, "pack")["ref"]["digest"]]
    assert (
        lineage["inputs"]["grown"]
        == [node(result, "pack")["ref"]["digest"]]
        != lineage["inputs"]["pack"]
    )
    assert lineage["inputs"]["snapshot"] == [node(first, "train")["ref"]["digest"]]
    predictions = pq.read_table(
        folder_of(home, result, "evaluate:folder:discriminator:ridge") / "predictions.parquet"
    )
    old = pq.read_table(
        next(folder_of(home, first, "extract:folder:discriminator").glob("features-*.parquet"))
    )
    assert set(predictions["image_id"].to_pylist()) - set(old["image_id"].to_pylist()), (
        "new test images are scored"
    )
    assert (
        result["growth"]["how"] == "keep" and 0 < result["growth"]["new"] < result["growth"]["of"]
    )
    # The store alone decides: asked again, nothing is done.
    assert answer(home, *run_of(data, "train.on_new_data=ignore"))["computed"] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_few_new_images_leave_the_snapshot_and_many_do_not(
    grown: tuple[Path, Path, Answer], answer: Ask
) -> None:
    home, data, first = grown
    few = answer(home, *run_of(data, "train.min_new_share=0.5"), "--dry-run")
    assert {row["state"] for row in few["plan"] if row["node"] == "train"} == {"after"}, (
        "not known before the set is packed"
    )
    kept = answer(home, *run_of(data, "train.min_new_share=0.5", verb="train"))
    assert node(kept, "train")["ref"] == node(first, "train")["ref"]
    retrained = answer(home, *run_of(data, "train.min_new_share=0.1", verb="train"))
    assert retrained["computed"] == ["train"]
    usual = answer(home, *run_of(data, verb="train"))
    assert usual["computed"] == [], "the default trains again"
    assert (
        node(usual, "train")["ref"]
        == node(retrained, "train")["ref"]
        != node(first, "train")["ref"]
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_continue_goes_on_from_the_old_state_and_says_so_in_its_key(
    grown: tuple[Path, Path, Answer], answer: Ask, tmp_path: Path
) -> None:
    home, data, first = grown
    second = tmp_path / "second"
    shutil.copytree(home, second, symlinks=True)
    ask = run_of(data, "train.on_new_data=continue", "train.continue_kimg=0.1", verb="train")
    result = answer(home, *ask)
    assert "train" in result["computed"]
    made = manifest_of(home, result, "train")
    assert made["part"]["continued"] == {
        "training": node(first, "train")["ref"]["digest"],
        "kimg": 0.2,
    }
    assert made["inputs"]["pack"][0]["digest"] == node(result, "pack")["ref"]["digest"]
    summary = made["outcome"]["summary"]
    old = manifest_of(home, first, "train")["outcome"]["summary"]
    assert summary["started_at_kimg"] == old["kimg"] and summary["kimg"] == pytest.approx(
        old["kimg"] + 0.1, abs=0.017
    )
    assert answer(home, *ask)["computed"] == []
    plan = answer(
        home, *run_of(data, "train.on_new_data=continue", "train.continue_kimg=0.1"), "--dry-run"
    )["plan"]
    assert "pack:trained" not in {row["node"] for row in plan}, (
        "later stages use the set that was trained on last"
    )
    # Equal requests give equal weights, also by way of a state that was taken over.
    assert node(answer(second, *ask), "train")["ref"] == node(result, "train")["ref"]
    # Without the old state nothing can go on: it is trained again, under the key of that, and the
    # run says why.
    shutil.rmtree(second / "state" / "train")
    shutil.rmtree(second / "artifacts" / "train" / node(result, "train")["ref"]["key"])
    retrained = answer(second, *ask)
    assert (
        retrained["computed"] == ["train"]
        and "continued" not in manifest_of(second, retrained, "train")["part"]
    )
