"""Vector arithmetic: sums against plain arithmetic, groups against their definition, the pixel
control.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.inspection.arithmetic import NOISE, alike, combine, draw_arithmetic, lay_out
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, Snapshot, build_networks, generate
from gan_core.vision.tensors import to_uint8


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    networks = build_networks({"name": "dcgan32_svhn", "width": 0.125})
    for number, network in enumerate(networks.values()):
        initialise(network, torch.Generator().manual_seed(number))
        network.eval().requires_grad_(False)
    return Snapshot(networks["generator"], networks["discriminator"], Prior("uniform", 100))


def test_the_sum_and_its_neighbours() -> None:
    a, b, c = torch.randn(3, 3, 100, generator=torch.Generator().manual_seed(0))
    found = combine(a, b, c)
    assert found.shape == (9, 100)
    expected = (a[0] + a[1] + a[2] - b[0] - b[1] - b[2] + c[0] + c[1] + c[2]) / 3
    torch.testing.assert_close(found[0], expected)
    noise = found[1:] - expected
    assert noise.abs().max() <= NOISE + 1e-5 and noise.abs().max() > 0.24
    assert noise.mean().abs() < 0.02 and noise.std() == pytest.approx(NOISE / 3**0.5, rel=0.05)
    torch.testing.assert_close(found, combine(a, b, c))


def test_groups_look_alike_and_share_nobody() -> None:
    random = np.random.default_rng(0)
    kinds = random.integers(40, 215, (5, 8, 8, 3))
    which = random.integers(0, 5, 60)
    images = np.clip(kinds[which] + random.normal(0, 4, (60, 8, 8, 3)), 0, 255).astype(np.uint8)
    groups = alike(images)
    assert groups.shape == (3, 3) and len(set(groups.ravel().tolist())) == 9
    assert all(len(set(which[group])) == 1 for group in groups)  # each group is of one kind
    assert len({int(which[group[0]]) for group in groups}) == 3  # and no two of the same
    assert (groups == alike(images)).all()


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="8 samples cannot give 3 groups of 3"):
        alike(np.zeros((8, 4, 4, 3), np.uint8))


def test_images_are_generated_from_the_latents_named(snapshot: Snapshot) -> None:
    a, b, c = (
        torch.rand(3, 100, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in range(3)
    )
    found = draw_arithmetic(snapshot, a, b, c)
    assert (found.exemplars[1] == to_uint8(generate(snapshot, b)).numpy()).all()
    assert (
        found.means[2] == to_uint8(generate(snapshot, c.mean(0, keepdim=True))).numpy()[0]
    ).all()
    middle = to_uint8(generate(snapshot, combine(a, b, c)[:1])).numpy()[0]
    assert np.abs(found.result[4].astype(int) - middle).max() <= 1
    mean = [generate(snapshot, part).mean(0) for part in (a, b, c)]
    overlaid = to_uint8((mean[0] - mean[1] + mean[2]).clamp(-1, 1)[None]).numpy()[0]
    assert np.abs(found.pixel_result.astype(int) - overlaid).max() <= 1
    assert set(found.numbers["verdict"]) == {"exemplars", "result", "pixels"}
    assert all(0 <= share <= 1 for share in found.numbers["verdict"].values())


def test_nothing_added_gives_the_concept_back(snapshot: Snapshot) -> None:
    """A - B + B is A: the generated mean of A and the sum must be the same image."""
    a, b = (
        torch.rand(3, 100, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in range(2)
    )
    found = draw_arithmetic(snapshot, a, b, b)
    assert np.abs(found.result[4].astype(int) - found.means[0]).max() <= 1
    assert np.abs(found.pixel_result.astype(int) - found.pixel_means[0]).max() <= 1


def test_the_layout(snapshot: Snapshot, tmp_path: Path) -> None:
    a, b, c = torch.rand(3, 3, 100, generator=torch.Generator().manual_seed(0))
    found = draw_arithmetic(snapshot, a, b, c)
    rows = lay_out(found)
    assert rows.shape == (3, 9, 32, 32, 3)
    assert (rows[1, 5] == found.result[4]).all() and (rows[1, 8] == found.pixel_result).all()
    assert (rows[0, 8] == 255).all() and (rows[2, 3] == found.means[2]).all()
