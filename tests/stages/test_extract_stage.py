"""Extract on real digits: what it writes, that it streams, resumes and needs neither Prefect nor
FAISS.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from gan_core import schemas
from gan_core.config import ExtractConfig
from gan_core.contract import StageRequest
from gan_core.errors import DataError, RequestError, UnknownName
from gan_core.features.external.fingerprint import stamp_of
from gan_core.features.external.weights import build_module, load_weights
from gan_core.features.parquet import read_features, read_lineage, read_rows
from gan_core.files import sha256_file
from gan_core.progress import silent
from gan_core.shards import PixelShards, write_rows
from gan_core.stages import extract, inspect, train
from tests.stages.digits_artifacts import digits_crops, extract_request, given

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_crops(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="module")
def features(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("features")
    extract.run(extract_request(crops, work), silent)
    return work


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("features-*.parquet"))}


def test_sizes_are_computed_and_said(crops: Path, tmp_path: Path) -> None:
    outcome = extract.run(extract_request(crops, tmp_path), silent)
    assert outcome.summary["dims"] == (16 + 32 + 64) * 16 == 1792
    assert outcome.summary["length"] == "256 (conv1) + 512 (conv2) + 1,024 (conv3) = 1,792"
    assert outcome.counts == {"in": 400, "ok": 400}


def test_features_are_those_of_the_network_run_by_hand(crops: Path, features: Path) -> None:
    """Everything redone the obvious way: statistics from the same training batches, one image at a
    time, numpy pooling.
    """
    from gan_core.baselines import random
    from gan_core.features.extract import set_statistics
    from gan_core.vision.tensors import to_float

    matrix, table = read_features(features)
    network = random.network({"name": "dcgan32_svhn", "width": 0.25}, 0)
    images = PixelShards(crops)
    set_statistics(network, images.pixels, len(images), 10_000, 0, "cpu")
    by_id = {name: row for row, name in enumerate(images.table["image_id"].to_pylist())}
    for row in (0, 123, 399):
        image = images.pixels(np.array([by_id[table["image_id"][row].as_py()]]))
        parts = []
        for maps in network.activations(
            to_float(torch.from_numpy(image)), ["conv1", "conv2", "conv3"]
        ).values():
            array = maps[0].numpy()
            step = array.shape[1] // 4
            for channel in array:
                parts += [
                    channel[i : i + step, j : j + step].max()
                    for i in range(0, 4 * step, step)
                    for j in range(0, 4 * step, step)
                ]
        np.testing.assert_allclose(
            matrix[row].astype(np.float32), np.array(parts), rtol=2e-3, atol=2e-3
        )


def test_from_a_row_to_its_image_and_back(crops: Path, features: Path) -> None:
    table = read_rows(features)
    row = table.slice(17, 1).to_pylist()[0]
    assert row["image_id"] == schemas.image_id(row["source"], row["address"], row["member"])
    number = int(row["member"])
    again = table.filter(
        pa.compute.equal(table["image_id"], schemas.image_id("digits", "digits.npz", str(number)))
    )
    assert again.to_pylist() == [row]


def test_every_usable_crop_has_a_row_and_lineage_names_the_inputs(features: Path) -> None:
    assert read_rows(features).num_rows == 400
    lineage = read_lineage(features)
    assert lineage["inputs"] == {"crops": ["a" * 64], "pack": ["b" * 64]}
    assert lineage["statistics"]["images"] == 400 and len(lineage["statistics"]["sha256"]) == 64
    assert [layer["pooled"] for layer in lineage["layers"]] == [[16, 4, 4], [32, 4, 4], [64, 4, 4]]


def test_kept_comes_from_dedup_and_is_true_elsewhere(crops: Path, tmp_path: Path) -> None:
    images = PixelShards(crops).table
    dropped = images["image_id"][5].as_py()
    rows = [
        {name: None for name in schemas.DUPLICATES.names}
        | {"image_id": dropped, "box": 0, "keep": False}
    ]
    rows += [
        {name: None for name in schemas.DUPLICATES.names}
        | {"image_id": images["image_id"][6].as_py(), "box": 0, "keep": True}
    ]
    (tmp_path / "dedup").mkdir()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schemas.DUPLICATES),
        tmp_path / "dedup" / "duplicates.parquet",
    )
    request = extract_request(
        crops,
        tmp_path / "work",
        "pixels",
        inputs={"duplicates": [given("dedup", tmp_path / "dedup")]},
    )
    extract.run(request, silent)
    table = read_rows(tmp_path / "work")
    assert table.filter(pa.compute.invert(table["kept"]))["image_id"].to_pylist() == [dropped]


def test_pixels_control_is_the_images(crops: Path, tmp_path: Path) -> None:
    extract.run(extract_request(crops, tmp_path, "pixels"), silent)
    matrix, table = read_features(tmp_path)
    images = PixelShards(crops)
    row = images.table["image_id"].to_pylist().index(table["image_id"][33].as_py())
    back = (
        np.round((matrix[33].astype(np.float32).reshape(3, 32, 32) + 1) * 127.5)
        .astype(np.uint8)
        .transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(back, images.pixels(np.array([row]))[0])


def test_same_request_same_bytes(crops: Path, features: Path, tmp_path: Path) -> None:
    extract.run(extract_request(crops, tmp_path), silent)
    assert digests(tmp_path) == digests(features)


def test_batch_size_moves_nothing_but_rounding(crops: Path, features: Path, tmp_path: Path) -> None:
    extract.run(extract_request(crops, tmp_path, batch=7), silent)
    ours, theirs = (
        read_features(tmp_path)[0].astype(np.float32),
        read_features(features)[0].astype(np.float32),
    )
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3)


def test_settings_other_grids_average_and_single_layers(crops: Path, tmp_path: Path) -> None:
    outcome = extract.run(
        extract_request(crops, tmp_path / "a", layers=["conv2"], grid=1, pool="average"), silent
    )
    assert outcome.summary["dims"] == 32
    outcome = extract.run(extract_request(crops, tmp_path / "b", layers=["conv1"], grid=3), silent)
    assert outcome.summary["dims"] == 16 * 9
    assert "overlap" in outcome.warnings[0]


def test_mistakes_are_named(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="conv2"):
        extract.run(extract_request(crops, tmp_path / "a", layers=["conf2"]), silent)
    with pytest.raises(DataError, match="32 x 32 and the crops are 64 x 64"):
        extract.run(extract_request(digits_crops(tmp_path / "c", 20, 64), tmp_path / "b"), silent)


def test_a_snapshot_gives_its_discriminator_and_refuses_an_encoder_it_has_not(
    crops: Path, tmp_path: Path
) -> None:
    from gan_core.networks.layers import initialise
    from gan_core.networks.snapshot import build_networks, write_snapshot
    from gan_core.randomness import torch_stream

    spec = {"name": "dcgan32_svhn", "width": 0.25, "latent_dim": 100, "outputs": 1}
    networks = build_networks(spec)
    for network in networks.values():
        initialise(network, torch_stream(0, "test"))
    prior = {"distribution": "uniform", "dim": 100, "classes": 0}
    meta = {
        "network": spec,
        "prior": prior,
        "method": "dcgan",
        "options": {"mode": "paper"},
        "kimg": 1.0,
    }
    (tmp_path / "train").mkdir()
    write_snapshot(
        tmp_path / "train" / "snapshot-000001.safetensors", networks, torch.zeros(64, 100), meta
    )
    inputs = {"snapshot": [given("train", tmp_path / "train", "c")]}
    outcome = extract.run(
        extract_request(crops, tmp_path / "work", "discriminator", inputs=inputs), silent
    )
    assert outcome.summary["dims"] == 1792
    assert read_lineage(tmp_path / "work")["network"]["method"] == "dcgan"
    with pytest.raises(RequestError, match="no encoder"):
        extract.run(extract_request(crops, tmp_path / "other", "encoder", inputs=inputs), silent)
    options = {"weights": 64, "images": 32}
    asked = extract_request(crops, tmp_path / "f", "fisher", options=options, inputs=inputs)
    assert extract.run(asked, silent).summary["length"] == "64 (fisher) = 64"
    lineage = read_lineage(tmp_path / "f")
    assert lineage["fisher"]["of"] == sum(w.numel() for w in networks["discriminator"].parameters())
    assert lineage["network"]["role"] == "discriminator" and lineage["statistics"]["images"] == 400


def test_fisher_vectors_need_a_score(crops: Path, tmp_path: Path) -> None:
    from gan_core.networks.snapshot import load_method, rebuild_networks, write_snapshot

    spec = {"name": "dcgan32_svhn", "width": 0.125, "image_size": 32}
    networks = rebuild_networks(spec, load_method("catgan", {}))
    prior = {"distribution": "uniform", "dim": 100, "classes": 0}
    meta = {"network": spec, "prior": prior, "method": "catgan", "options": {}, "kimg": 1.0}
    path = tmp_path / "train" / "snapshot-000001.safetensors"
    path.parent.mkdir()
    write_snapshot(path, networks, torch.zeros(64, 100), meta)
    inputs = {"snapshot": [given("train", path.parent, "c")]}
    with pytest.raises(RequestError, match="catgan, gives images none"):
        extract.run(extract_request(crops, tmp_path / "f", "fisher", inputs=inputs), silent)


def test_random_weights_are_built_by_the_method(crops: Path, tmp_path: Path) -> None:
    """The joint discriminator of BiGAN and the K outputs of CatGAN are no network file's own."""
    for training, role in (
        ({"method": "bigan"}, "discriminator"),
        ({"method": "acgan"}, "discriminator"),
        ({"method": "dcgan", "options": {"first_bias": True}}, "discriminator"),
        ({"method": "bigan"}, "encoder"),
    ):
        asked = extract_request(crops, tmp_path / f"{training['method']}-{role}", network=role)
        asked.part["training"] = training
        outcome = extract.run(asked, silent)
        assert outcome.summary["dims"] == 1792
        assert read_lineage(asked.work)["network"]["method"] == training["method"]


def test_an_external_method_is_trained_extracted_and_inspected(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By dotted path; a request that does not name its module imports nothing."""
    (tmp_path / "outside").mkdir()
    shutil.copyfile(ROOT / "gan_core" / "methods" / "ssgan.py", tmp_path / "outside" / "own.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "outside.own"
    trained = extract_request(crops, tmp_path / "train").model_copy(
        update={
            "stage": "train",
            "part": {
                "train": {
                    "method": name,
                    "network": {"name": "dcgan32_svhn", "width": 0.125},
                    "batch": 16,
                    "kimg": 0.032,
                },
                "threads": 1,
            },
        }
    )
    train.run(trained, silent)
    inputs = {"snapshot": [given("train", tmp_path / "train", "c")]}
    asked = extract_request(crops, tmp_path / "features", "discriminator", inputs=inputs)
    with pytest.raises(RequestError, match=r"asks for the method 'outside\.own'"):
        extract.run(asked, silent)
    allowed = {"context": {**asked.context, "allow": ["dcgan32_svhn", name]}}
    assert extract.run(asked.model_copy(update=allowed), silent).counts["ok"] == 400
    seen = {"part": {"inspection": {"name": "samples"}}, "work": tmp_path / "inspect"}
    outcome = inspect.run(asked.model_copy(update={**allowed, **seen}), silent)
    assert outcome.summary["applicable"]


def test_killed_in_the_middle_it_goes_on_with_the_next_shard(
    crops: Path, features: Path, tmp_path: Path
) -> None:
    request = extract_request(crops, tmp_path, batch=1)
    path = tmp_path / "request.json"
    path.write_text(request.model_dump_json())
    command = [sys.executable, "-m", "gan_core", "extract", str(path)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 600
    while (
        not list((tmp_path / "scratch").glob("done-*.json"))
        and time.monotonic() < limit
        and child.poll() is None
    ):
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("features-*.parquet")}
    assert len(there) > 0
    (tmp_path / ".features-00099.parquet.partial").write_bytes(b"half")
    extract.run(request, silent)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("features-*.parquet")}
    assert len(after) == 4
    assert (
        sum(after[name] == when for name, when in there.items()) >= len(there) - 1
    )  # one may have lacked its done-file
    assert not list(tmp_path.glob(".features-*"))
    undisturbed = tmp_path / "undisturbed"
    extract.run(extract_request(crops, undisturbed, batch=1), silent)
    assert digests(tmp_path) == digests(undisturbed)


def test_runs_where_prefect_and_faiss_are_not(crops: Path, tmp_path: Path) -> None:
    request = extract_request(crops, tmp_path)
    (tmp_path / "request.json").write_text(request.model_dump_json())
    blocked = (
        "import sys; [sys.modules.__setitem__(n, None) for n in ('prefect', 'faiss', "
        "'sklearn', 'cv2')]; "
    )
    code = blocked + "import runpy; runpy.run_module('gan_core', run_name='__main__')"
    command = [sys.executable, "-c", code, "extract", str(tmp_path / "request.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("features-*.parquet"))) == 4


SMALL_CODEBOOK = {"centres": 8, "patches": 500, "statistics_images": 50}


def test_kmeans_baseline_is_features_like_any_others(crops: Path, tmp_path: Path) -> None:
    for work in "ab":
        outcome = extract.run(
            extract_request(crops, tmp_path / work, "kmeans", options=SMALL_CODEBOOK),
            silent,
        )
    assert (
        outcome.summary["length"] == "32 (kmeans) = 32"
        and read_rows(tmp_path / "a").num_rows == 400
    )
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def kmeans_share(crops: Path, work: Path, number: int) -> StageRequest:
    """The request for one of two shares of a small K-means control."""
    request = extract_request(crops, work, "kmeans", options=SMALL_CODEBOOK)
    return request.model_copy(update={"context": {"device": "cpu", "share": [number, 2]}})


def test_all_shares_code_with_one_codebook(crops: Path, tmp_path: Path) -> None:
    """Another share's codebook is planted, scaled: the share that begins later must take it, and so
    must the stage that ends the work.
    """
    message: list[str] = []

    def progress(done: float, total: float, unit: str, **figures: float) -> None:
        message.append(unit)

    extract.run(kmeans_share(crops, tmp_path / "a", 0), progress)
    assert "iterations" in message and message[-1] == "images"
    found = load_file(tmp_path / "a" / "codebook.safetensors")
    assert {name: len(value) for name, value in found.items()} == {
        "mean": 108,
        "whiten": 108,
        "centres": 8,
        "shift": 32,
        "scale": 32,
    }
    (tmp_path / "b").mkdir()
    save_file({**found, "scale": found["scale"] / 2}, tmp_path / "b" / "codebook.safetensors")
    planted = sha256_file(tmp_path / "b" / "codebook.safetensors")
    message.clear()
    extract.run(kmeans_share(crops, tmp_path / "b", 0), progress)
    assert "iterations" not in message, "learned again"
    for work in ("a", "b"):
        extract.run(kmeans_share(crops, tmp_path / work, 1), silent)
    alone = kmeans_share(crops, tmp_path / "b", 0).model_copy(
        update={"context": {"device": "cpu", "shares": 2}}
    )
    extract.run(alone, progress)
    assert (
        "iterations" not in message
        and sha256_file(tmp_path / "b" / "codebook.safetensors") == planted
    )
    assert {
        read_shard_lineage(path)["network"]["sha256"]
        for path in (tmp_path / "b").glob("features-*")
    } == {planted}
    plain, doubled = (read_features(tmp_path / work)[0].astype(np.float32) for work in "ab")
    np.testing.assert_allclose(doubled, 2 * plain, rtol=2e-3, atol=2e-3)


def read_shard_lineage(path: Path) -> dict[str, Any]:
    lineage: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"discern"])
    return lineage


def test_without_a_training_set_no_test_image_is_measured(crops: Path, tmp_path: Path) -> None:
    request = extract_request(crops, tmp_path / "a")
    del request.inputs["pack"]
    extract.run(request, silent)
    split = PixelShards(crops).table["split"].to_pylist()
    assert read_lineage(tmp_path / "a")["statistics"]["images"] == split.count("train") < len(split)
    table = pq.read_table(crops / "crops.parquet")
    tests = table.set_column(
        table.schema.get_field_index("split"), "split", pa.array(["test"] * table.num_rows)
    )
    shutil.copytree(crops, tmp_path / "tests")
    write_rows(tmp_path / "tests", tests)
    for kind in ("random", "kmeans"):
        request = extract_request(tmp_path / "tests", tmp_path / "b", kind)
        del request.inputs["pack"]
        with pytest.raises(DataError, match="no training images"):
            extract.run(request, silent)


def test_memory_does_not_grow_with_the_number_of_shards(external: Path) -> None:
    """16 shards of 5.5 MB: what is resident while the last is taken is what was while the third
    was, not 72 MB more.
    """
    large = digits_crops(external / "large", 1797, 128, 16)
    (external / "external_net.py").write_text(
        "from torch import nn\n"
        "def make(maps=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, maps, 16, 16), nn.ReLU(), nn.Conv2d(maps, 1, 8))\n"
    )
    resident: list[int] = []

    def progress(done: float, total: float, unit: str, **figures: float) -> None:
        status = Path("/proc/self/status").read_text()
        resident.append(int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) // 1024)

    extract.run(outside_request(large, external, "work", weights=None, batch=16), progress)
    assert len(resident) >= 16 and resident[-1] - resident[4] < 25, resident


def outside_request(
    crops: Path, folder: Path, work: str, features: str = "network", **settings: Any
) -> StageRequest:
    """As the planner makes it for `external_net:make(maps=6)` and w.safetensors in `folder`."""
    given = {
        "network": "external_net:make",
        "weights": "w.safetensors",
        "network_args": {"maps": 6},
        **settings,
    }
    stamp = stamp_of(ExtractConfig.model_validate(given), folder)
    assert stamp is not None
    weights = features == "network"
    request = extract_request(crops, folder / work, features, **given)
    part = {**request.part, "external": stamp.part(weights=weights)}
    return request.model_copy(
        update={"part": part, "context": {"device": "cpu", **stamp.context(weights=weights)}}
    )


@pytest.fixture
def external(tmp_path: Path) -> Iterator[Path]:
    """A folder with a external module and weights of it."""
    (tmp_path / "external_net.py").write_text(
        "from torch import nn\n"
        "def make(maps=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, maps, 3, 2, 1), nn.BatchNorm2d(maps), nn.ReLU(), "
        "nn.Flatten(), nn.Linear(maps * 256, 1))\n"
    )
    module = build_module("external_net:make", {"maps": 6}, root=tmp_path, seed=9)
    module[1].running_mean += 0.1
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    yield tmp_path
    sys.modules.pop("external_net")
    sys.path.remove(str(tmp_path))


def test_an_external_network_and_its_random_baseline(crops: Path, external: Path) -> None:
    outcome = extract.run(outside_request(crops, external, "work"), silent)
    assert (
        outcome.summary["length"] == "96 (0) = 96"
        and "RGB images of 32 x 32" in outcome.summary["assumed"][0]
    )
    lineage = read_lineage(external / "work")
    assert lineage["network"]["weights"] == sha256_file(external / "w.safetensors")
    assert lineage["network"]["sources"] == {
        "external_net.py": sha256_file(external / "external_net.py")
    }
    assert lineage["statistics"]["images"] == 400
    for work in ("fresh", "again"):
        extract.run(outside_request(crops, external, work, "random"), silent)
    assert digests(external / "fresh") == digests(external / "again")
    assert not np.array_equal(
        read_features(external / "fresh")[0], read_features(external / "work")[0]
    )
    assert read_lineage(external / "fresh")["network"]["weights"] == "random, seed 0"


def test_missing_weights_are_reported_of_the_network_and_not_of_its_random_baseline(
    crops: Path, external: Path
) -> None:
    def warned(features: str = "network", **settings: Any) -> bool:
        work = f"work{len(list(external.iterdir()))}"
        outcome = extract.run(outside_request(crops, external, work, features, **settings), silent)
        return any("No weights were given (--weights)" in text for text in outcome.warnings)

    assert warned(weights=None)
    assert not warned() and not warned("random") and not warned("random", weights=None)


def test_an_external_network_gives_the_features_of_a_notebook(crops: Path, external: Path) -> None:
    from gan_core.features.external.network import features as notebook

    settings = {"layers": ["0", "4"], "grid": 2, "statistics": "running"}
    extract.run(outside_request(crops, external, "work", **settings), silent)
    matrix, rows = read_features(external / "work")
    shards = PixelShards(crops)
    where = {name: row for row, name in enumerate(shards.table["image_id"].to_pylist())}
    images = shards.pixels(np.array([where[name] for name in rows["image_id"].to_pylist()]))
    module = load_weights(
        build_module("external_net:make", {"maps": 6}), external / "w.safetensors"
    )
    same, _ = notebook(module, images, ["0", "4"], grid=2, device="cpu")
    np.testing.assert_allclose(
        matrix.astype(np.float32), same.astype(np.float32), rtol=2e-3, atol=1e-3
    )


def test_files_that_changed_since_the_plan_are_refused(crops: Path, external: Path) -> None:
    request = outside_request(crops, external, "work")
    (external / "w.safetensors").write_bytes(b"other")
    with pytest.raises(RequestError, match="w.safetensors has changed since"):
        extract.run(request, silent)


def test_bn_crelu_measures_the_training_images_once(crops: Path, tmp_path: Path) -> None:
    outcome = extract.run(extract_request(crops, tmp_path / "a", mode="bn_crelu"), silent)
    assert outcome.summary["length"] == "128 (conv3) = 128"
    found, _ = read_features(tmp_path / "a")
    extract.run(extract_request(crops, tmp_path / "b", mode="avepool"), silent)
    plain = read_features(tmp_path / "b")[0].astype(np.float64)
    a = (plain - plain.mean(0)) / np.sqrt(
        plain.var(0) + 1e-5
    )  # the pack of these tests is all the crops
    slow = np.concatenate([np.maximum(a, 0), np.maximum(-a, 0)], 1)
    np.testing.assert_allclose(found.astype(np.float64), slow, rtol=0.02, atol=0.02)
    first = digests(tmp_path / "a")
    for path in (tmp_path / "a").glob("features-*.parquet"):
        path.unlink()
    outcome = extract.run(extract_request(crops, tmp_path / "a", mode="bn_crelu"), silent)
    assert digests(tmp_path / "a") == first, "a killed attempt's statistics are used again"
    assert read_lineage(tmp_path / "a")["statistics"]["crelu_images"] == 400


def test_a_network_that_has_diverged_is_refused_with_the_images_ids(
    crops: Path, external: Path
) -> None:
    module = build_module("external_net:make", {"maps": 6}, root=external, seed=9)
    module[0].bias.data[2] = torch.nan
    save_file(module.state_dict(), external / "w.safetensors")
    with pytest.raises(
        DataError, match=r"activations of layer '0' are not numbers .* images: [0-9a-f]{32}, "
    ):
        extract.run(outside_request(crops, external, "work", statistics="running"), silent)
    assert not list((external / "work").glob("*features*"))
