"""Dissection of a hand-made generator whose causal units are known, with a decoy.

One layer of 8 maps of 8 x 8 and a painting layer: object A needs units 0 and 1 together, B unit 2,
C unit 3; unit 4 is active exactly where A is and paints nothing; 5 is layout only; 6 and 7 are
noise. The segmenter is the colour rule, which is exact here.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.inspection.ablation import Ablation
from gan_core.inspection.agreement import agreement, count_units, quality
from gan_core.inspection.dissection import Dissection, dissect
from gan_core.inspection.segmenters import by_colour
from gan_core.inspection.units import outgoing
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, build_networks, sample_latents

PALETTE = {"sky": [40, 80, 160], "A": [220, 40, 40], "B": [40, 200, 60], "C": [230, 220, 60]}
SIDE, SCALE = 8, 4


class HandMade(nn.Module):
    """Latents [n, 16] to images [n, 3, 32, 32]; the objects' places are in the latents."""

    def run_to(self, latents: Tensor, layer: str) -> Tensor:
        maps = torch.zeros(len(latents), 8, SIDE, SIDE)
        place = ((latents[:, :6] + 1) / 2 * (SIDE - 1)).long().clamp(0, SIDE - 2)
        on = latents[:, 6:9] > -0.6
        noise = torch.sin(latents[:, 9:10, None, None] * 50 + torch.arange(64).view(1, 1, 8, 8))
        for n in range(len(latents)):
            for number, units in enumerate(((0, 1, 4), (2,), (3,))):
                if on[n, number]:
                    y, x = place[n, 2 * number : 2 * number + 2].tolist()
                    for unit in units:
                        maps[n, unit, y : y + 2, x : x + 2] = 1.0
        maps[:, 0] += 0.11 * (noise[:, 0] > 0.97)
        maps[:, 5] = torch.linspace(1, 0, SIDE).view(1, SIDE, 1)
        maps[:, 6], maps[:, 7] = noise[:, 0].clamp(min=0), (-noise[:, 0]).clamp(min=0)
        return maps

    def run_from(self, maps: Tensor, layer: str) -> Tensor:
        colours = {name: torch.tensor(rgb) / 127.5 - 1 for name, rgb in PALETTE.items()}
        image = colours["sky"].view(1, 3, 1, 1).expand(len(maps), 3, 32, 32).clone()
        large = F.interpolate(maps, scale_factor=SCALE, mode="nearest")
        strength = {
            "A": 0.885 * torch.minimum(large[:, 0], large[:, 1]) + 0.115 * large[:, 1],
            "B": large[:, 2],
            "C": large[:, 3],
        }
        ticks = torch.rand(len(maps), 32, 32, generator=torch.Generator().manual_seed(0))
        for name, value in strength.items():
            shown = (value > 0.05 + 0.9 * ticks)[:, None]
            image = torch.where(shown, colours[name].view(1, 3, 1, 1), image)
        return image


def latents(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def found() -> Dissection:
    return dissect(HandMade(), "maps", by_colour(PALETTE), latents(900), count=300, units=2)


def test_agreement_names_the_units_and_the_decoy(found: Dissection) -> None:
    a, b, c = (found.classes.index(name) for name in "ABC")
    assert found.iou[[0, 1, 4], a].min() > 0.6
    assert found.iou[2, b] > 0.6 and found.iou[3, c] > 0.6
    others = np.delete(found.iou[:, a], [0, 1, 4])
    assert others.max() < 0.15
    assert found.shuffled[:, [a, b, c]].max() < 0.15
    assert found.counts[[0, 1, 4], a].all() and found.counts[2, b] and found.counts[3, c]
    assert not found.counts[[5, 6, 7]][:, [a, b, c]].any()


def test_ablation_tells_causes_from_the_decoy(found: Dissection) -> None:
    study = Ablation(HandMade(), "maps", by_colour(PALETTE), latents(200, 5))
    a, b = found.classes.index("A"), found.classes.index("B")
    one, both = study.remove([0])[0][a], study.remove([0, 1])[0][a]
    assert both > 0.99 and 0.5 < one < 0.95
    assert study.remove([4])[0][a] == 0.0, "the decoy agrees with A and paints nothing"
    gone, other = study.remove([2])
    assert gone[b] > 0.99 and other[b] < 0.01
    assert study.remove([5, 6, 7])[0][[a, b]].max() < 0.01


def test_effects_rank_causal_units_above_the_decoy(found: Dissection) -> None:
    assert set(found.units["A"]["effect"]) == {0, 1}
    assert found.units["B"]["effect"][0] == 2 and found.units["C"]["effect"][0] == 3
    assert found.lost["A"]["effect"] > 0.99
    assert np.mean(found.random["B"]) < 0.3 < found.lost["B"]["agreement"]


def test_optimised_coefficients_name_the_unit_that_draws() -> None:
    """A unit of a real network paints yellow; another of equal activity paints nothing."""
    generator = build_networks({"name": "dcgan32_svhn", "width": 0.125})["generator"]
    initialise(generator, torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1)
    generator.calibrate([sample_latents(Prior(), 256, random)])
    generator.requires_grad_(False)
    weight = outgoing(generator, "deconv2")
    assert weight is not None
    weight.zero_()
    weight[3, :2], weight[3, 2] = 0.3, -0.3
    palette = {"grey": [128, 128, 128], "yellow": [255, 255, 0]}
    study = Ablation(generator, "deconv2", by_colour(palette), sample_latents(Prior(), 64, random))
    assert 0.05 < study.sizes[1] / study.sizes.sum() < 0.95
    found = study.coefficients(1, np.full(8, 0.5), seed=0)
    assert found[3] > 0.6 and np.delete(found, 3).max() < 0.1


def test_a_unit_that_is_switched_on_paints_its_object(found: Dissection) -> None:
    assert found.inserted["B"]["rate"] > 0.9
    assert found.inserted["B"]["by_class"]["sky"] > 0.9


def test_a_generator_without_objects_has_no_units_that_count() -> None:
    class Noise(HandMade):
        def run_to(self, latents: Tensor, layer: str) -> Tensor:
            random = torch.Generator().manual_seed(int(latents[0, 0] * 1000) % 1000)
            return torch.rand(len(latents), 8, SIDE, SIDE, generator=random)

        def run_from(self, maps: Tensor, layer: str) -> Tensor:
            return super().run_from(HandMade().run_to(latents(len(maps), len(maps)), ""), layer)

    given = agreement(Noise(), "maps", by_colour(PALETTE), latents(600), 300)
    assert not count_units(*given).any()


def test_quality_is_mutual_information_over_joint_entropy() -> None:
    random = np.random.default_rng(0)
    label, map_ = random.integers(0, 2, 500), random.random(500)
    label = np.where(map_ > 0.7, 1, label)
    above = map_ > 0.7
    joint = np.histogram2d(above, label, bins=2)[0] / 500
    entropy = -(joint[joint > 0] * np.log(joint[joint > 0])).sum()
    parts = [joint.sum(0), joint.sum(1)]
    shared = sum(-(p * np.log(p)).sum() for p in parts) - entropy
    both = np.array([[(above & (label == k)).sum() for k in range(2)]], float)
    found = quality(both, np.bincount(label, minlength=2).astype(float))
    assert found[0, 1] == pytest.approx(shared / entropy, rel=1e-6)
