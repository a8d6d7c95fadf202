"""Inspections of labelled features (feature_map, neighbours, layers) on planted ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from gan_core import schemas
from gan_core.config import EvaluateConfig, ProbeConfig
from gan_core.evaluation.scoring import evaluate_arrays
from gan_core.features.parquet import ROW_COLUMNS, FeatureWriter, feature_name
from gan_core.inspection import feature_map, layers, neighbours
from gan_core.inspection.base import Context, NotApplicable
from gan_core.shards import write_rows, write_shard

COUNT, DIMS = 240, 12


def made(folder: Path, *, informative: str) -> Context:
    """Three classes of COUNT images, two thirds of them in train; `informative`: 'features' or
    'pixels' tell the class, the others are noise.
    """
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, COUNT)
    centres = {"features": random.normal(0, 3, (3, DIMS)), "pixels": random.normal(0, 60, (3, 192))}
    features = random.normal(size=(COUNT, DIMS))
    pixels = random.normal(128, 20, (COUNT, 192))
    if informative == "features":
        features += centres["features"][labels]
    else:
        pixels += centres["pixels"][labels]
    common = [
        {
            "image_id": f"{n:032x}",
            "box": 0,
            "source": "s",
            "split": "train" if n % 3 else "test",
            "label": int(label),
            "label_name": "abc"[label],
        }
        for n, label in enumerate(labels)
    ]
    crops, extracted = folder / "crops", folder / "features"
    # the crops are in another order than the features
    order = random.permutation(COUNT)
    images = pixels.clip(0, 255).astype(np.uint8).reshape(COUNT, 8, 8, 3)
    write_shard(crops, 0, images[order])
    rows = [{**common[n], "status": "ok", "shard": 0, "row": row} for row, n in enumerate(order)]
    write_rows(crops, pa.Table.from_pylist(rows, schema=schemas.CROPS))
    table = pa.Table.from_pylist([{**row, "kept": True} for row in common], schema=ROW_COLUMNS)
    with FeatureWriter(extracted / feature_name(0), {"layer": (DIMS, 1, 1)}, {}) as writer:
        writer.write(table, {"layer": features.astype(np.float16).reshape(COUNT, DIMS, 1, 1)})
    return Context(cast(Any, None), features=extracted, crops=crops)


def test_purity_says_whether_features_or_pixels_know_the_label(tmp_path: Path) -> None:
    options = feature_map.Options(images=80)
    found = feature_map.inspect(made(tmp_path / "a", informative="features"), options)
    numbers = found.numbers
    assert numbers["features"]["mean"] > 0.95 and numbers["map"]["mean"] > 0.9
    assert max(numbers[name]["mean"] for name in ("pixels", "shuffled")) < 0.5
    assert "above raw pixels" in found.sentence
    found = feature_map.inspect(made(tmp_path / "b", informative="pixels"), options)
    assert found.numbers["pixels"]["mean"] > 0.95 and found.numbers["map"]["mean"] < 0.5
    assert "below raw pixels" in found.sentence
    points, images = found.figures
    assert points.image.shape == images.image.shape == (feature_map.SIDE, feature_map.SIDE, 3)
    again = feature_map.inspect(made(tmp_path / "b", informative="pixels"), options)
    assert all(
        (a.image == b.image).all() for a, b in zip(found.figures, again.figures, strict=True)
    )


def test_an_image_is_not_its_own_neighbour() -> None:
    found = feature_map.others(np.array([[0, 1, 2], [2, 1, 0], [0, 1, 3]]))
    assert found.tolist() == [[1, 2], [2, 0], [0, 1]]  # row 2: an equal image took its place


def test_precision_of_neighbours_is_that_of_a_full_sort(tmp_path: Path) -> None:
    context = made(tmp_path, informative="features")
    options = neighbours.Options(k=4, queries=1000, against=1000, shown=7)
    found = neighbours.inspect(context, options)
    test = neighbours.read_labelled(context, "test", 1000, "neighbours queries")
    train = neighbours.read_labelled(context, "train", 1000, "neighbours against")
    assert (len(test.labels), len(train.labels)) == (80, 160)
    shares = []
    for vector, label in zip(test.features.astype(np.float64), test.labels, strict=True):
        known = train.features.astype(np.float64)
        cosines = known @ vector / np.linalg.norm(known, axis=1) / np.linalg.norm(vector)
        shares.append(np.mean(train.labels[np.argsort(-cosines)[:4]] == label))
    assert found.numbers["features"]["mean"] == pytest.approx(np.mean(shares), abs=1e-6)
    chance = np.mean([(train.labels == label).mean() for label in test.labels])
    assert found.numbers["chance"] == pytest.approx(chance, abs=1e-6)
    assert "more than by raw pixels" in found.sentence


def test_without_features_the_remedy_is_named() -> None:
    with pytest.raises(NotApplicable, match="--features"):
        neighbours.inspect(Context(cast(Any, None)), neighbours.Options())


def test_layers_are_scored_as_evaluation_scores_them(tmp_path: Path) -> None:
    """Of layer `signal` the mean over the grid knows the label, its single places hardly do."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    signal = random.normal(0, 3, (300, 4, 4, 4)) + random.normal(0, 2, (3, 4, 1, 1))[labels]
    values = {
        "noise": random.normal(size=(300, 2, 2, 2)).astype(np.float16),
        "signal": signal.astype(np.float16),
    }
    rows = [
        {
            "image_id": f"{n:032x}",
            "box": 0,
            "split": "train" if n % 3 else "test",
            "label": int(label),
            "kept": True,
        }
        for n, label in enumerate(labels)
    ]
    shapes = {name: one.shape[1:] for name, one in values.items()}
    with FeatureWriter(tmp_path / feature_name(0), shapes, {}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=ROW_COLUMNS), values)
    grid = [1.0, 100.0, 1e4, 1e6, 1e8]  # evaluation adds values where the best is an end
    options = layers.Options(probe="ridge", labels=20, draws=2, grid=grid)
    found = layers.inspect(Context(cast(Any, None), features=tmp_path), options)
    accuracy = found.numbers["accuracy"]
    assert accuracy["signal"]["average"]["mean"] > 0.9 > accuracy["signal"]["as stored"]["mean"]
    assert max(one["mean"] for one in accuracy["noise"].values()) < 0.5
    assert "best on validation is signal (average)" in found.sentence
    whole = np.concatenate([one.reshape(300, -1) for one in values.values()], 1)
    expected = evaluate_arrays(
        whole,
        labels,
        [row["split"] for row in rows],
        EvaluateConfig(labels_per_class=[20], draws=2),
        ProbeConfig(name="ridge", grid=grid),
    )["20"]
    ours = accuracy["all joined"]["as stored"]
    assert ours["mean"] == pytest.approx(expected["mean"], abs=1e-6)
    assert ours["validation"] == pytest.approx(expected["validation"], abs=1e-6)
