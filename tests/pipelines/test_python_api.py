"""The public API on real runs: what a notebook does, from a recipe to scores, without Prefect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from torch import nn

import gan_core
from gan_core.errors import DataError, RequestError, UnknownName

SETTINGS = [
    "train.kimg=1",
    "sources.train.digits.limit=300",
    "evaluate.probes=[{name: ridge, grid: [1.0]}]",
    "evaluate.baselines=[pixels]",
    "inspect=[samples]",
    "dedup.mode=off",
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("home")
    return gan_core.run("digits", home=home, scale="debug", overrides=SETTINGS, device="cpu")


def test_importing_imports_neither_torch_nor_prefect() -> None:
    code = (
        "import sys, gan_core; print(sorted(set(gan_core.__all__) - set(dir(gan_core))));"
        "print([name for name in ('torch', 'prefect', 'sklearn', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_every_name_is_documented() -> None:
    for name in gan_core.__all__:
        assert getattr(gan_core, name).__doc__
        assert f"{name} " in str(gan_core.__doc__)
    with pytest.raises(AttributeError):
        getattr(gan_core, "no_such" + "_name")


def test_a_run_ends_with_features_scores_and_a_report(outcome: Any) -> None:
    assert outcome.record["state"] == "completed"
    assert outcome.report.stat().st_size > 10_000
    assert set(outcome.features) == {"digits:discriminator", "digits:pixels"}
    assert set(outcome.scores()["features"].to_pylist()) >= {"discriminator", "pixels"}


def test_a_second_run_computes_nothing(outcome: Any) -> None:
    home = outcome.folder.parents[1]
    again = gan_core.run("digits", home=home, scale="debug", overrides=SETTINGS, device="cpu")
    made = [node["node"] for node in again.record["nodes"] if not node["cached"]]
    assert again.artifacts == outcome.artifacts and made == []


def test_the_artifacts_are_those_of_the_flow(outcome: Any, discern: Any) -> None:
    """`discern run` finds every artifact of the API's run: the same keys."""
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    home = outcome.folder.parents[1]
    answer = discern("status", "digits", "--scale", "debug", *words, "--json", home=home)
    assert {row["state"] for row in answer.json["plan"]} == {"cached"}


def test_until_ends_earlier(outcome: Any) -> None:
    home = outcome.folder.parents[1]
    some = gan_core.run("digits", home=home, scale="debug", overrides=SETTINGS, until="pack")
    assert "train" not in some.artifacts and some.report is None


def test_features_are_read_with_their_lineage(outcome: Any) -> None:
    folder = outcome.features["digits:discriminator"]
    found = gan_core.read_features(folder)
    tensor = gan_core.read_features(folder, framework="torch")
    assert isinstance(tensor.values, torch.Tensor)
    assert np.array_equal(tensor.values.numpy(), found.values)
    assert {"network", "layers", "inputs"} <= found.lineage.keys()
    assert len(found.values) == found.rows.num_rows == len(found.labels) == len(found.split)
    layer = found.lineage["layers"][0]
    first = gan_core.read_features(folder, [layer["name"]], np.array([3, 1])).values
    assert np.array_equal(first, found.values[[3, 1], : layer["dims"]])


def test_extracted_features_are_those_of_the_run(outcome: Any) -> None:
    """The API gives the values of the stage extract: statistics over the same training images."""
    from gan_core.shards import PixelShards

    crops = PixelShards(outcome.artifacts["crop:digits"])
    pack = PixelShards(outcome.artifacts["pack"])
    images = crops.pixels(slice(None))
    written = gan_core.read_features(outcome.features["digits:discriminator"])
    order = {name: row for row, name in enumerate(crops.table["image_id"].to_pylist())}
    rows = [order[name] for name in written.rows["image_id"].to_pylist()]
    snapshot = gan_core.load_snapshot(outcome.snapshot)
    found = gan_core.extract_features(
        snapshot, images[rows], training_images=pack.pixels(slice(None)), device="cpu"
    )
    assert found.dtype == np.float32
    assert np.abs(found - written.values.astype(np.float32)).max() < 2e-2
    assert np.corrcoef(found.ravel(), written.values.astype(np.float32).ravel())[0, 1] > 0.9999


def test_evaluate_agrees_with_scikit_learn(outcome: Any) -> None:
    features = gan_core.read_features(outcome.features["digits:pixels"])
    found = gan_core.evaluate(features, probe="linear_svm", grid=[1e-6, 1e-5], device="cpu")["all"]
    train = np.array([name == "train" for name in features.split])
    values = features.values.astype(np.float32)
    reference = RidgeClassifier(1e4).fit(values[train], features.labels[train])
    test = np.array([name == "test" for name in features.split])
    accuracy = float(reference.score(values[test], features.labels[test]))
    assert abs(found["mean"] - accuracy) < 0.12 and found["mean"] > 0.7
    assert found["low"] <= found["mean"] <= found["high"]
    with pytest.raises(RequestError, match="neither labels nor splits"):
        gan_core.evaluate(values)


def test_samples_and_inspections_of_a_snapshot(outcome: Any) -> None:
    images = gan_core.sample(outcome.snapshot, 5, seed=1)
    assert images.shape == (5, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(images, gan_core.sample(outcome.snapshot, 5, seed=1))
    assert not np.array_equal(images, gan_core.sample(outcome.snapshot, 5, seed=2))
    found = gan_core.inspect(outcome.snapshot, "samples")
    assert found.figures[0].image.dtype == np.uint8
    with pytest.raises(UnknownName):
        gan_core.inspect(outcome.snapshot, "sample")


def test_duplicates_in_a_folder(tmp_path: Path) -> None:
    import cv2

    random = np.random.default_rng(0)
    for number in range(4):
        image = cv2.resize(random.integers(0, 255, (6, 6, 3)).astype(np.uint8), (64, 64))
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
        if number == 2:
            cv2.imwrite(str(tmp_path / "smaller.png"), cv2.resize(image, (48, 48)))
    table = gan_core.find_duplicates(tmp_path).to_pylist()
    dropped = {row["address"]: row["representative_address"] for row in table if not row["keep"]}
    assert dropped == {"smaller.png": "2.png"}


def images_of(table: Any, count: int) -> Any:
    import cv2

    data = [row["bytes"] for row in table["img"].slice(0, count).to_pylist()]
    decoded = [cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in data]
    return np.stack(decoded)[..., ::-1].copy(), table["label"].slice(0, count).to_numpy()


def test_a_transformer_in_a_pipeline_of_scikit_learn(real_data: Path) -> None:
    file = sorted((real_data / "cifar10").glob("**/*train*.parquet"))[0]
    images, labels = images_of(pq.read_table(file), 400)
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(2048, 1)),
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    extractor = gan_core.FeatureExtractor(network, device="cpu")
    pipeline = make_pipeline(clone(extractor), LogisticRegression(max_iter=50))
    pipeline.fit(images[:300], labels[:300])
    assert pipeline.score(images[300:], labels[300:]) > 0.15
    fitted = extractor.fit(images[:300])
    features = fitted.transform(images[300:])
    assert features.shape == (100, fitted.n_features_out_) == (100, 48 * 16)
    assert list(fitted.get_feature_names_out()[[0, -1]]) == ["0_0", "3_511"]
    # an image's features depend on no other image
    assert np.allclose(features[7:8], fitted.transform(images[307:308]), atol=2e-3)
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    with pytest.raises(DataError, match="float32"):
        fitted.transform(images.astype(np.float32))


def test_a_home_on_an_object_store_is_refused() -> None:
    with pytest.raises(RequestError, match="is no folder"):
        gan_core.run("digits", home="memory://home")
