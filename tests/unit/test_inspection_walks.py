"""Walks: the paths against slow versions, the numbers on walks whose answer is known, a planted
jump found.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gan_core.inspection.samples import as_images, diversity
from gan_core.inspection.walks import linear, slerp, walk_latents, walk_numbers, walk_sentence
from gan_core.networks.snapshot import Prior


def slow_slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """Directions by rotation in the plane of a and b, lengths in a straight line."""
    u = a / np.linalg.norm(a)
    v = b - (b @ u) * u
    v /= np.linalg.norm(v)
    angle = math.acos((a @ b) / np.linalg.norm(a) / np.linalg.norm(b)) * t
    return (math.cos(angle) * u + math.sin(angle) * v) * (
        (1 - t) * np.linalg.norm(a) + t * np.linalg.norm(b)
    )


def test_slerp_is_a_rotation() -> None:
    a, b = torch.randn(2, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.0, 0.25, 0.5, 0.9, 1.0):
        found = slerp(a, b, torch.tensor(t, dtype=torch.float64)).numpy()
        np.testing.assert_allclose(found, slow_slerp(a.numpy(), b.numpy(), t), atol=1e-9)


def test_slerp_keeps_lengths_that_a_line_loses() -> None:
    walk = walk_latents(Prior("normal", 100), rows=4, steps=9, seed=0)
    lengths = walk.norm(dim=-1)
    assert lengths.min() > 7.5  # N(0, 1) in 100 dimensions: about 10
    middle = linear(walk[:, 0], walk[:, -1], torch.full((4,), 0.5)).norm(dim=-1)
    assert (middle < 0.85 * lengths[:, 4]).all()


@pytest.mark.parametrize("factor", [1.0, -1.0, 2.0])
def test_slerp_of_parallel_ends_is_the_line(factor: float) -> None:
    a = torch.tensor([1.0, 2.0, 3.0])
    found = slerp(a, factor * a, torch.tensor(0.5))
    torch.testing.assert_close(found, linear(a, factor * a, torch.tensor(0.5)))


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_rows_join_end_to_end(distribution: str) -> None:
    walk = walk_latents(Prior(distribution, 10), rows=5, steps=7, seed=3)
    assert walk.shape == (5, 7, 10)
    torch.testing.assert_close(walk[:-1, -1], walk[1:, 0])
    torch.testing.assert_close(walk, walk_latents(Prior(distribution, 10), rows=5, steps=7, seed=3))
    assert not torch.equal(walk, walk_latents(Prior(distribution, 10), rows=5, steps=7, seed=4))
    if distribution == "uniform":
        step = (walk[:, 1:] - walk[:, :-1]).norm(dim=-1)
        torch.testing.assert_close(
            step, step[:, :1].expand_as(step)
        )  # even steps on a straight line
        assert walk.abs().max() <= 1


def test_a_smooth_walk_and_one_with_a_jump() -> None:
    smooth = np.stack([np.full((4, 4, 3), 20 * step, np.uint8) for step in range(10)])
    jump = smooth.copy()
    jump[6:] += 60
    numbers = walk_numbers(np.stack([smooth, jump]))
    assert numbers["per_row"]["steps_mean"] == pytest.approx(
        [20 / 255, (8 * 20 + 80) / 9 / 255], abs=1e-6
    )
    assert numbers["per_row"]["ratio"][0] == pytest.approx(1.0, abs=1e-6)
    assert numbers["largest_jump_row"] == 1 and numbers["largest_jump"] == pytest.approx(
        80 / 255, abs=1e-6
    )
    assert (
        numbers["largest_jump_ratio"] == pytest.approx(80 / (240 / 9), abs=1e-6)
        and numbers["sharp"] == 0
    )
    memorised = np.stack(
        [np.full((4, 4, 3), 0 if step < 5 else 200, np.uint8) for step in range(10)]
    )
    assert walk_numbers(memorised[None])["sharp"] == 1


def test_a_walk_that_stands_still() -> None:
    numbers = walk_numbers(np.zeros((2, 5, 4, 4, 3), np.uint8))
    assert (
        numbers["mean_step"] == 0
        and numbers["largest_jump_ratio"] == 1
        and numbers["diversity"] == 0
    )


def test_diversity_is_the_mean_over_pairs() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    slow = [
        np.abs(images[i].astype(float) - images[j].astype(float)).mean() / 255
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert diversity(images) == pytest.approx(np.mean(slow))
    assert diversity(images[:1]) == 0 and diversity(images[:0]) == 0


def test_grey_images_become_rgb() -> None:
    images = as_images(torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4))
    assert images.shape == (1, 4, 4, 3) and (images[..., 0] == images[..., 2]).all()
    assert images.min() == 0 and images.max() == 255


@pytest.mark.parametrize(
    ("ratio", "diversity", "words_there"),
    [
        (1.4, 0.2, "No transition is sharp"),
        (4.0, 0.2, "has a sharp transition"),
        (1.1, 0.001, "nearly one image"),
    ],
)
def test_walks_in_words(ratio: float, diversity: float, words_there: str) -> None:
    numbers = {
        "mean_step": 0.014,
        "largest_jump": 0.016,
        "largest_jump_ratio": ratio,
        "largest_jump_row": 2,
        "diversity": diversity,
    }
    result = walk_sentence(numbers)
    assert words_there in result and "row 3" in result
