"""Windows and turn vector on a generator with a planted unit that alone makes images red."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.errors import RequestError, UnknownName
from gan_core.inspection import turn_vector, windows
from gan_core.inspection.attributes import extremes, find
from gan_core.inspection.base import Context, NotApplicable
from gan_core.inspection.units import Units, outgoing, random_sets
from gan_core.inspection.windows import boxes_to_mask, cover, regression
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, Snapshot, build_networks, sample_latents
from tests.packs import write_pack

RED = 3  # the planted unit


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    networks = build_networks({"name": "dcgan32_svhn", "width": 0.25})
    for number, network in enumerate(networks.values()):
        initialise(network, torch.Generator().manual_seed(number))
        network.calibrate(
            [sample_latents(Prior(), 256, torch.Generator().manual_seed(7))]
            if not number
            else [torch.rand(64, 3, 32, 32) * 2 - 1]
        )
        network.requires_grad_(False)
    weight = outgoing(networks["generator"], "deconv2")
    assert weight is not None
    weight[RED] = 0
    weight[RED, 0], weight[RED, 2] = 0.3, -0.3
    return Snapshot(networks, Prior("uniform", 100))


def test_windows_finds_the_planted_unit_and_random_maps_do_not(snapshot: Snapshot) -> None:
    options = windows.Options(concept="redness", measured=64, images=90)
    found = windows.inspect(Context(snapshot), options)
    assert RED in found.numbers["dropped"]
    assert found.numbers["lost"] > 0.9 and found.numbers["random_mean"] < 0.8
    assert windows.inspect(Context(snapshot), options).numbers == found.numbers
    boxed = windows.Options(boxes=[[n, 4, 4, 20, 20] for n in range(40)])
    numbers = windows.inspect(Context(snapshot), boxed).numbers
    assert numbers["lost"] > 0 and numbers["concept"] == "what the boxes show"


def test_a_regression_ranks_the_units_that_differ_first() -> None:
    random = np.random.default_rng(0)
    shows = random.random((20, 8, 8)) < 0.2
    maps = torch.from_numpy(random.normal(size=(20, 5, 8, 8)))
    maps[:, 1] += 2 * torch.from_numpy(shows)
    maps[:, 2] -= 2 * torch.from_numpy(shows)
    weights = regression(maps, shows, ~shows, random)
    assert weights.argmax() == 1 and weights.argmin() == 2
    with pytest.raises(NotApplicable, match="10 with it"):
        regression(maps, np.zeros_like(shows), ~shows, random)


def test_boxes_become_cells() -> None:
    mask = boxes_to_mask([[1, 0, 8, 16, 32]], 2, 32)
    assert int(mask.sum()) == 16 * 24 and not mask[0].any()
    cells = cover(mask, 4)
    assert cells[1].tolist() == [[0, 0, 0, 0], *[[1, 1, 0, 0]] * 3]
    for wrong in ([2, 0, 0, 4, 4], [0, 4, 0, 4, 4], [0, 0, 0, 33, 4], [0, 1]):
        with pytest.raises(RequestError, match="no box"):
            boxes_to_mask([wrong], 2, 32)


def test_the_direction_between_extremes_turns_the_attribute(snapshot: Snapshot) -> None:
    options = turn_vector.Options(attribute="redness", moved=40, samples=300)
    found = turn_vector.inspect(Context(snapshot), options)
    assert found.numbers["works"] and found.numbers["follow"] > 0.8
    assert found.numbers["shift"] > 2 * found.numbers["random_mean"]
    means = [float(cell) for cell in found.tables[0].rows[0]]
    assert means[-1] > means[4] > means[0]


def test_ablated_activations_are_zero_in_the_image_only(snapshot: Snapshot) -> None:
    latents = sample_latents(snapshot.prior, 5, torch.Generator().manual_seed(0))
    study = Units(snapshot.generator, "deconv2", latents)
    torch.testing.assert_close(study.images, snapshot.generator(latents), atol=1e-5, rtol=0)
    rows = torch.tensor([4, 0, 4])
    x = study.activations[rows].clone()
    x[:, [RED]] = 0
    slow = snapshot.generator.run_from(x, "deconv2", latents=latents[rows])
    torch.testing.assert_close(study.without([RED], rows), slow, atol=1e-5, rtol=0)
    assert bool((study.activations[:, RED] != 0).any())
    sets = random_sets(6, [0, 1], 3, 9, np.random.default_rng(0))
    assert all(len(set(one)) == 3 and not {0, 1} & set(one) for one in sets)


def pack_of(folder: Path, smiles: list[int]) -> Path:
    """Noise images, brighter at the top where `smile` is 1."""
    pixels = np.random.default_rng(0).integers(0, 150, (len(smiles), 32, 32, 3), dtype=np.uint8)
    pixels[np.array(smiles) == 1, :12] += 100
    return write_pack(folder, pixels, attributes=[json.dumps({"smile": smile}) for smile in smiles])


def test_a_rule_on_a_column_becomes_a_probe(snapshot: Snapshot, tmp_path: Path) -> None:
    pack = pack_of(tmp_path, [1 + n % 2 for n in range(120)])
    context = Context(snapshot, packs=[pack])
    found = find(context, "smile=1")
    assert found.quality["auc"] > 0.95 and found.quality["images"] == 120
    images = context.samples(8, "some")
    bright = images.clone()
    bright[:, :, :12] = (bright[:, :, :12] + 0.8).clamp(-1, 1)
    assert found.scores(bright).mean() > found.scores(images).mean()
    assert (found.scores(images) < -find(context, "smile=2").scores(images) + 1e-2).all()
    with pytest.raises(NotApplicable, match="0 of 120"):
        find(context, "smile=7")
    with pytest.raises(UnknownName, match="smile"):
        find(context, "smille=1")


def test_extremes_are_outermost_first() -> None:
    assert extremes(np.array([0.0, 5, 3, -2]), 2) == ([1, 2], [3, 0])
