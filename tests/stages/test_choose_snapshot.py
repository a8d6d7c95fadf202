"""The snapshot chosen by a probe on validation labels: the same one however training was
interrupted, and said of its features.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_core.config import TrainConfig
from gan_core.contract import StageOutcome, StageRequest
from gan_core.errors import DataError
from gan_core.features.parquet import read_lineage
from gan_core.networks.snapshot import CHOSEN, load_snapshot, read_meta, saw_labels
from gan_core.pipeline.nodes import Settings
from gan_core.pipeline.plan import build_plan
from gan_core.progress import silent
from gan_core.recipes import load_recipe
from gan_core.stages import evaluate, extract, train
from gan_core.training.probe import best_line, candidate_name
from gan_core.training.warm_start import warm_start
from tests.stages.digits_artifacts import digits_crops, evaluate_request, extract_request, given

SETTINGS: dict[str, Any] = {
    "network": {"name": "dcgan32_svhn", "width": 0.125},
    "batch": 16,
    "kimg": 0.43,
    "log_kimg": 0.05,
    "state_kimg": 0.1,
    "probe_kimg": 0.1,
    "choose": "best_probe",
}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of which a third carry a chance label: the probe cannot be right about all, so that
    its places differ.
    """
    folder = digits_crops(tmp_path_factory.mktemp("crops"), count=300)
    _relabel(folder, lambda number, label: number * 7 % 10 if number % 3 == 0 else label)
    return folder


def request(
    crops: Path, work: Path, *, state: str = "", limit: float | None = None, **changed: Any
) -> StageRequest:
    return StageRequest(
        stage="train",
        node="train",
        key="0" * 32,
        part={"train": {**SETTINGS, **changed}, "seed": 0, "threads": 1, "image_size": 32},
        inputs={"pack": [given("pack", crops)]},
        context={
            "device": "cpu",
            "state": str(work.parent / f"state-{state or work.name}"),
            "max_seconds": limit,
        },
        work=work,
    )


def run(crops: Path, work: Path, **given_: Any) -> StageOutcome:
    return train.run(request(crops, work, **given_), silent)


def test_the_choice_is_the_probes_and_does_not_depend_on_interruptions(
    crops: Path, tmp_path: Path
) -> None:
    whole = run(crops, tmp_path / "whole")
    lines = [
        json.loads(line) for line in (tmp_path / "whole" / "stats.jsonl").read_text().splitlines()
    ]
    seen = {
        line["kimg"]: line["probe_validation_accuracy"]
        for line in lines
        if "probe_validation_accuracy" in line
    }
    assert len(seen) == 6 and lines[-1].get("closing"), (
        "at the first line, every 0.1 kimg, and at the end"
    )
    best = max(seen, key=lambda kimg: seen[kimg])
    assert whole.summary["chosen"] == {"kimg": best, "validation_accuracy": seen[best]}
    assert read_meta(tmp_path / "whole" / CHOSEN)["kimg"] == best
    assert load_snapshot(tmp_path / "whole" / CHOSEN).meta["saw_labels"] == "validation"

    while not run(crops, tmp_path / "parts", limit=1.0).complete:
        pass
    run(crops, tmp_path / "short", state="shared", kimg=0.24)
    run(crops, tmp_path / "long", state="shared")
    for other in ("parts", "long"):
        assert (tmp_path / other / CHOSEN).read_bytes() == (
            tmp_path / "whole" / CHOSEN
        ).read_bytes()


def test_a_continued_training_chooses_among_its_own_fits(crops: Path, tmp_path: Path) -> None:
    """`on_new_data: continue`: the grown set's probe holds other images out, and here reads off
    less than the first one did.
    """
    first = run(crops, tmp_path / "first")
    other = digits_crops(tmp_path / "other", count=300)
    _relabel(other, lambda number, label: number * 7 % 10)
    warm_start(tmp_path / "state-first", tmp_path / "state-grown", 432, 800)
    grown = run(other, tmp_path / "grown", kimg=0.8)
    assert grown.complete and grown.summary["started_at_kimg"] == 0.432
    assert grown.summary["chosen"]["kimg"] > 0.432
    assert (
        grown.summary["chosen"]["validation_accuracy"]
        < first.summary["chosen"]["validation_accuracy"]
    )


def test_the_best_line_is_the_first_of_equals_and_no_end_of_a_shorter_training() -> None:
    lines = [
        {"images": n, "probe_validation_accuracy": a} for n, a in ((1, 0.2), (2, 0.5), (3, 0.5))
    ]
    shorter_ended = {"images": 4, "probe_validation_accuracy": 0.9, "closing": True}
    assert best_line([*lines, shorter_ended, {"images": 5}])["images"] == 2  # type: ignore[index]
    assert best_line([*lines, shorter_ended])["images"] == 4  # type: ignore[index]
    assert best_line([{"images": 1}]) is None and candidate_name(1) < candidate_name(10)


def test_lineage_and_scores_say_that_validation_labels_were_seen(
    crops: Path, tmp_path: Path
) -> None:
    run(crops, tmp_path / "train", kimg=0.1)
    taken = extract_request(
        crops,
        tmp_path / "features",
        "discriminator",
        inputs={"snapshot": [given("train", tmp_path / "train")]},
    )
    extract.run(taken, silent)
    assert read_lineage(tmp_path / "features")["network"]["saw_labels"] == "validation"
    evaluate.run(
        evaluate_request(
            tmp_path / "features", tmp_path / "cell", grid=[1e-3], draws=1, labels_per_class=[5]
        ),
        silent,
    )
    assert pq.read_table(tmp_path / "cell" / "scores.parquet")["saw_labels"].to_pylist() == [
        "validation"
    ]


def test_features_of_a_network_that_knew_labels_say_so_and_know_no_label_themselves(
    tmp_path: Path,
) -> None:
    crops = _crops28(tmp_path / "crops")
    network = {"name": "dcgan28_mnist", "width": 0.125}
    made = request(crops, tmp_path / "train", network=network, kimg=0.1, choose="last")
    train.run(made.model_copy(update={"part": {**made.part, "image_size": 28}}), silent)
    for name in ("features", "relabelled"):
        taken = extract_request(
            crops,
            tmp_path / name,
            "discriminator",
            inputs={"snapshot": [given("train", tmp_path / "train")]},
        )
        extract.run(taken, silent)
        assert read_lineage(tmp_path / name)["network"]["saw_labels"] == "training"
        if name == "features":
            _relabel(crops, lambda _, label: (label + 1) % 10)
    for path in (tmp_path / "features").glob("features-*.parquet"):
        mine, other = pq.read_table(path), pq.read_table(tmp_path / "relabelled" / path.name)
        assert mine["conv2"].equals(other["conv2"]) and not mine["label"].equals(other["label"])


def _crops28(folder: Path) -> Path:
    """The digits with two pixels cut off each side."""
    import numpy as np

    from gan_core.shards import write_shard

    digits_crops(folder, count=200)
    for path in sorted(folder.glob("pixels-*.npy")):
        write_shard(folder, int(path.stem.split("-")[1]), np.load(path)[:, 2:30, 2:30])
    return folder


def _relabel(crops: Path, change: Callable[[int, int], int]) -> None:
    table = pq.read_table(crops / "crops.parquet")
    found = [
        None if label is None else change(number, label)
        for number, label in enumerate(table["label"].to_pylist())
    ]
    labels = pa.array(found, pa.int32())
    pq.write_table(
        table.set_column(table.schema.get_field_index("label"), "label", labels),
        crops / "crops.parquet",
    )


def test_without_labels_there_is_nothing_to_choose_by(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labels to fit a probe on"):
        run(digits_crops(tmp_path / "crops", count=80, labels="none"), tmp_path / "train")
    with pytest.raises(ValueError, match="needs a probe"):
        TrainConfig(choose="best_probe")


def test_how_often_the_probe_is_fitted_is_in_the_key_only_where_it_chooses() -> None:
    def key(*overrides: str) -> dict[str, Any]:
        recipe, _ = load_recipe("digits", overrides=["train.precision=float32", *overrides])
        nodes = build_plan(recipe, {"digits": "f"}, Settings())
        return next(node for node in nodes if node.id == "train").key_part["train"]

    assert key() == key("train.probe_kimg=2", "train.log_kimg=1")
    chosen = key("train.choose=best_probe", "train.probe_kimg=2")
    assert (
        chosen != key("train.choose=best_probe", "train.probe_kimg=3") and chosen["probe_kimg"] == 2
    )
    assert (
        key() == key("train.processes=1") == key("train.processes=auto") != key("train.processes=2")
    )


def test_what_a_snapshot_saw() -> None:
    assert saw_labels({"prior": {"classes": 0}}) == "" and saw_labels({}) == ""
    assert saw_labels({"prior": {"classes": 10}, "saw_labels": "validation"}) == "training"
