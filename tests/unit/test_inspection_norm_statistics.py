"""Batch-norm statistics of several sets of images, on a network with random weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.datasets import load_digits

from gan_core import schemas
from gan_core.features.extract import statistics_of
from gan_core.features.parquet import ROW_COLUMNS, FeatureWriter, feature_name
from gan_core.inspection import norm_statistics
from gan_core.inspection.base import Context, NotApplicable
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, Snapshot, build_networks
from gan_core.randomness import numpy_stream
from gan_core.shards import write_rows, write_shard
from tests.packs import write_pack

OPTIONS = norm_statistics.Options(images=200)


def digits(first: int, count: int) -> np.ndarray:
    """Digits uint8 [count, 32, 32, 3], mixed: the set is ordered by writer."""
    order = np.random.default_rng(0).permutation(1797)[first : first + count]
    levels = (load_digits().images[order] * 15.9375).astype(np.uint8)
    large: np.ndarray = levels.repeat(4, 1).repeat(4, 2)[..., None].repeat(3, 3)
    return large


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"), digits(0, 400))


def snapshot() -> Snapshot:
    networks: dict[str, Any] = build_networks({"name": "dcgan32_svhn", "width": 0.125})
    for number, network in enumerate(networks.values()):
        initialise(network, torch.Generator().manual_seed(number))
        network.eval()
    return Snapshot(networks, Prior())


def target(folder: Path, images: np.ndarray) -> dict[str, Any]:
    """Artifacts of crops and features whose test images are `images`."""
    crops, features = folder / "crops", folder / "features"
    common = [
        {"image_id": f"{n:032x}", "box": 0, "source": "s", "split": "test"}
        for n in range(len(images))
    ]
    write_shard(crops, 0, images)
    rows = [{**one, "status": "ok", "shard": 0, "row": n} for n, one in enumerate(common)]
    write_rows(crops, pa.Table.from_pylist(rows, schema=schemas.CROPS))
    lineage = {"network": {"role": "discriminator"}, "statistics": {"kind": "running"}}
    with FeatureWriter(features / feature_name(0), {"layer": (1, 1, 1)}, lineage) as writer:
        table = pa.Table.from_pylist([{**one, "kept": True} for one in common], schema=ROW_COLUMNS)
        writer.write(table, {"layer": np.zeros((len(images), 1, 1, 1), np.float16)})
    return {"features": features, "crops": crops}


def test_different_sets_differ_and_equal_ones_do_not(pack: Path, tmp_path: Path) -> None:
    """Positive control and planted faults: half contrast, statistics that were never measured,
    inverted test images. Other test images of the same kind are within sampling noise.
    """
    same = Context(snapshot(), packs=[pack], **target(tmp_path / "same", digits(1000, 200)))
    found = norm_statistics.inspect(same, OPTIONS)
    by_set = found.numbers["distances"]
    noise = by_set["other training images"]["features"]
    assert noise < 0.2 and by_set["test images"]["features"] < 2 * noise
    assert by_set["at half contrast"]["features"] > 4 * noise
    assert by_set["in the snapshot"]["features"] > 4 * noise
    assert found.numbers["extraction"] == "running"
    assert "uses those stored in the snapshot" in found.sentence
    assert set(found.numbers["norms"]) == {"conv2", "conv3"}
    turned = Context(snapshot(), packs=[pack], **target(tmp_path / "o", 255 - digits(1000, 200)))
    inverted = norm_statistics.inspect(turned, OPTIONS).numbers["distances"]["test images"]
    assert inverted["features"] > 4 * noise


def test_distances_are_those_of_a_loop_over_channels(pack: Path) -> None:
    context = Context(snapshot(), packs=[pack])
    found = norm_statistics.inspect(context, OPTIONS)
    network = copy.deepcopy(context.snapshot.discriminator)
    sets = norm_statistics.image_sets(context, 200)
    assert not any(
        (one == other).all()
        for one in sets["training images"][:50]
        for other in sets["other training images"]
    )
    measured = {}
    for name in ("training images", "other training images"):
        images = torch.from_numpy(sets[name].transpose(0, 3, 1, 2) / 127.5 - 1).float()
        order = numpy_stream(0, "statistics").permutation(200)
        network.calibrate(
            images[np.sort(order[start : start + 128])] for start in range(0, 200, 128)
        )
        measured[name] = statistics_of(network)
    shifts, spreads = [], []
    for norm in ("conv2", "conv3"):
        a, b = measured["other training images"], measured["training images"]
        for channel in range(len(a[f"{norm}.mean"])):
            sigma = [float(one[f"{norm}.variance"][channel]) ** 0.5 for one in (a, b)]
            moved = float(a[f"{norm}.mean"][channel] - b[f"{norm}.mean"][channel])
            shifts.append((norm, abs(moved) / sigma[1]))
            spreads.append((norm, abs(np.log(sigma[0] / sigma[1]))))
    for kind, values in (("shift", shifts), ("spread", spreads)):
        slow = np.mean(
            [np.mean([v for name, v in values if name == n]) for n in ("conv2", "conv3")]
        )
        ours = found.numbers["distances"]["other training images"][kind]
        assert ours == pytest.approx(slow, rel=1e-3)
    assert "test images" not in found.numbers["distances"]


def test_a_network_without_batch_norm_has_no_statistics(pack: Path) -> None:
    networks: dict[str, Any] = build_networks({"name": "resnet32", "width": 0.125})
    with pytest.raises(NotApplicable, match="no batch norm"):
        norm_statistics.inspect(Context(Snapshot(networks, Prior()), packs=[pack]), OPTIONS)
