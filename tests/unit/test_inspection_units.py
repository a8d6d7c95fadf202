"""Artifact units and the dissection of the feature network, with planted units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.config import SegmenterConfig
from gan_core.datasets.scenes import PALETTE, render
from gan_core.inspection import artifact_units, feature_dissection
from gan_core.inspection.base import Context, as_images
from gan_core.inspection.units import outgoing
from gan_core.metrics.generation import frechet
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import (
    Prior,
    Snapshot,
    build_networks,
    generate,
    load_snapshot,
    sample_latents,
)
from gan_core.stages.inspect import EDITED, write
from tests.packs import write_pack

BAD = 5


@pytest.fixture(scope="module")
def clean() -> Snapshot:
    networks = build_networks({"name": "dcgan32_svhn", "width": 0.125})
    for number, network in enumerate(networks.values()):
        initialise(network, torch.Generator().manual_seed(number))
    latents = sample_latents(Prior(), 256, torch.Generator().manual_seed(7))
    networks["generator"].calibrate([latents])
    networks["discriminator"].calibrate([torch.rand(64, 3, 32, 32) * 2 - 1])
    for network in networks.values():
        network.requires_grad_(False)
    weight = outgoing(networks["generator"], "deconv1")
    assert weight is not None
    weight[BAD] = 0
    meta = {
        "method": "dcgan",
        "network": {"name": "dcgan32_svhn", "width": 0.125},
        "prior": {"distribution": "uniform", "dim": 100, "classes": 0},
    }
    return Snapshot(networks, Prior("uniform", 100), torch.zeros(2, 100), meta)


def test_a_planted_artifact_unit_is_found_first_and_repaired(
    clean: Snapshot, tmp_path: Path
) -> None:
    """Real images are those of the generator without the unit, which paints a pattern."""
    import copy

    latents = sample_latents(clean.prior, 300, torch.Generator().manual_seed(3))
    pack = write_pack(tmp_path / "pack", as_images(generate(clean, latents)))
    broken = replace(clean, networks=copy.deepcopy(clean.networks))
    weight = outgoing(broken.generator, "deconv1")
    assert weight is not None
    weight[BAD] = torch.randn(weight[BAD].shape, generator=torch.Generator().manual_seed(1)) * 0.2
    options = artifact_units.Options(units=1, samples=120)
    found = artifact_units.inspect(Context(broken, packs=[pack]), options)
    numbers = found.numbers
    assert numbers["tried"][0] == BAD and numbers["units"] == [BAD] and numbers["falls"]
    assert numbers["after"] < 0.5 * numbers["before"]
    assert numbers["random_lowest"] > 0.8 * numbers["before"]
    write(tmp_path / "out", "artifact_units", found, True)
    repaired = load_snapshot(tmp_path / "out" / EDITED)
    torch.testing.assert_close(
        generate(repaired, latents[:4]), generate(clean, latents[:4]), atol=1e-5, rtol=0
    )
    assert repaired.meta["without"] == {"layer": "deconv1", "units": [BAD]}


def test_frechet_distance_of_normal_distributions() -> None:
    a, b = np.diag([1.0, 4.0]), np.diag([9.0, 4.0])
    mean = np.zeros(2)
    assert frechet(mean, a, mean, a) == pytest.approx(0, abs=1e-9)
    assert frechet(mean, a, mean + [3, 0], b) == pytest.approx(9 + (3 - 1) ** 2)


def test_a_unit_for_yellow_is_found_to_detect_the_sun(clean: Snapshot, tmp_path: Path) -> None:
    scenes = [render(number, 0) for number in range(160)]
    pack = write_pack(
        tmp_path / "pack", np.stack([s for s, _ in scenes]), np.stack([m for _, m in scenes])
    )
    network = clean.discriminator
    convolution = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():  # red and no blue: the sun, and less so the house
        convolution.weight[2] = 0
        convolution.weight[2, :, 2, 2] = torch.tensor([1.0, 1.0, -1.0])
    options = feature_dissection.Options(
        layers=["conv1"], segmenter=SegmenterConfig(classes=list(PALETTE)), images=160
    )
    found = feature_dissection.inspect(Context(clean, packs=[pack]), options)
    sun = found.numbers["classes"]["sun"]
    assert sun["unit"] == 2 and float(sun["iou"]) > 0.3
    assert found.numbers["source"] == "masks of the training set"
    assert found.figures[0].image.shape[0] == 5 * 34 + 2
