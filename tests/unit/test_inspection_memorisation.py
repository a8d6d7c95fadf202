"""The memorisation check finds planted copies, clears a fresh generator, and knows when it
cannot.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gan_core.inspection.base import NotApplicable, as_float, contrast_ratio, match_contrast
from gan_core.inspection.memorisation import Similarity, check, degrade, draw
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, Snapshot, build_networks, generate, sample_latents
from gan_core.randomness import torch_stream
from gan_core.vision.tensors import to_uint8


def smooth(count: int, seed: int) -> np.ndarray:
    """Random images with structure: uint8 [count, 32, 32, 3]."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    large = torch.nn.functional.interpolate(noise, size=32, mode="bicubic")
    return to_uint8(large.clamp(-1, 1)).numpy()


def test_a_generator_that_copies_is_caught_and_a_fresh_one_is_not() -> None:
    training = smooth(600, 0)
    copying = check(degrade(training[:200], 0.55, 1), training, planted=100, seed=0)
    fresh = check(smooth(200, 9), training, planted=100, seed=0)
    assert copying["samples"] >= 190 and fresh["samples"] <= 10
    for found in (copying, fresh):
        assert found["planted"] >= 0.9 * found["planted_count"]
    queries, rows = copying["suspicious"]
    assert (queries[:20] == rows[:20]).mean() > 0.9  # sample n copies training image n


def test_the_control_fails_where_nothing_could_be_found() -> None:
    """Samples without contrast: noise covers what is left of a copy, and the check must say so."""
    training = smooth(300, 0)
    flat = np.full((100, 32, 32, 3), 128, np.uint8)
    flat[:, 0, 0] = 130
    found = check(flat, training, planted=100, seed=0)
    assert found["contrast_ratio"] < 0.05 and found["planted"] < 0.9 * found["planted_count"]


def test_similarity_is_the_best_correlation_over_small_shifts() -> None:
    images = smooth(30, 3)
    moved = np.roll(images[:5], (2, -1), (1, 2))
    score, row = Similarity(images).nearest(moved)
    assert row.tolist() == [0, 1, 2, 3, 4] and score.min() > 0.98
    own, _ = Similarity(images).nearest(images[:5], skip=np.arange(5))
    assert own.max() < 0.98


@pytest.mark.parametrize("grey", [True, False])
def test_similarity_is_numpys_correlation_whatever_the_colours(grey: bool) -> None:
    training, queries = smooth(12, 3), smooth(4, 4)
    if grey:
        training = np.repeat(training[..., :1], 3, 3)
    score, row = Similarity(training).nearest(queries)

    def blurred(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).double()
        return torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False).numpy()

    known, asked = blurred(training)[:, :, 2:-2, 2:-2], blurred(queries)
    for number, image in enumerate(asked):
        found = [
            [
                np.corrcoef(one.ravel(), image[:, y : y + 28, x : x + 28].ravel())[0, 1]
                for y in range(5)
                for x in range(5)
            ]
            for one in known
        ]
        assert score[number] == pytest.approx(np.max(found), abs=1e-5)
        assert row[number] == int(np.argmax(np.max(found, axis=1)))


def test_contrast_is_matched_channel_by_channel() -> None:
    real, pale = as_float(smooth(50, 0)), as_float(degrade(smooth(50, 1), 0.4, 0))
    assert contrast_ratio(pale, real) < 0.55
    assert contrast_ratio(match_contrast(pale, real), real) == pytest.approx(1, abs=0.05)


def test_too_few_training_images_are_not_applicable() -> None:
    with pytest.raises(NotApplicable):
        check(smooth(20, 0), smooth(8, 1), planted=4, seed=0)


def test_samples_that_copy_are_rejected() -> None:
    networks = build_networks({"name": "dcgan32_svhn", "width": 0.125})
    for number, network in enumerate(networks.values()):
        initialise(network, torch.Generator().manual_seed(number))
        network.eval().requires_grad_(False)
    snapshot = Snapshot(networks, Prior("uniform", 100))
    latents = sample_latents(snapshot.prior, 256, torch_stream(0, "sample"))
    first = to_uint8(generate(snapshot, latents)).numpy()  # what `draw` makes first
    plain, rejected = draw(snapshot, 8, seed=0)
    assert rejected == 0 and np.array_equal(plain, first[:8])
    kept, rejected = draw(snapshot, 8, seed=0, reject=np.concatenate([first[:3], smooth(300, 0)]))
    assert rejected >= 3 and not any((kept == one).all((1, 2, 3)).any() for one in first[:3])
