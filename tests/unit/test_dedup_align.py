"""Alignment and verification on digits and noise: what must agree, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from gan_core.dedup.measure.injected_duplicates import ALTERATIONS
from gan_core.dedup.search import descriptors, neighbours
from gan_core.dedup.search import verify_pairs as verify
from gan_core.dedup.search.threshold import bulk


def textures(count: int, seed: int = 0, side: int = 32) -> np.ndarray:
    """Different smooth colour images with detail: uint8 [count, side, side, 3]."""
    import cv2

    rng = np.random.default_rng(seed)
    out = np.empty((count, side, side, 3), np.uint8)
    for row in range(count):
        noise = [rng.normal(size=(n, n, 3)).astype(np.float32) for n in (4, 7, 11)]
        layers = [cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in noise]
        out[row] = np.clip(128 + 28 * sum(layers), 0, 255)
    return out


def scored(left: np.ndarray, right: np.ndarray, mirrored: bool = False) -> verify.Verified:
    """Every left image against the right one of the same row, all gates open."""
    both = np.concatenate([left, right])
    count = len(left)
    described = descriptors.describe(lambda rows: both[rows], len(both))
    pairs = neighbours.Candidates(
        np.arange(count),
        np.arange(count) + count,
        np.full(count, mirrored),
        np.zeros(count, np.float32),
    )
    return verify.verify(lambda rows: both[rows], described, pairs, gates=(-9, -9))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in ALTERATIONS
        if not name.startswith(("noise of 16", "turned 8", "crop 80", "JPEG 10"))
    ],
)
def test_every_alteration_scores_as_a_duplicate(name: str) -> None:
    images = textures(24)
    altered = np.stack([ALTERATIONS[name](one) for one in images])
    score = scored(images, altered, mirrored=name.startswith("mirror")).score
    assert np.median(score) > 0.93 and score.min() > 0.75, (name, np.sort(score)[:5])


def test_different_images_do_not_agree_however_they_are_laid() -> None:
    images = textures(60)
    for mirrored in (False, True):
        assert scored(images[:30], images[30:], mirrored).score.max() < 0.75


def test_the_shift_that_is_found_is_the_one_that_was_made() -> None:
    images = textures(12, side=48)
    result = scored(images[:, 8:40, 8:40], images[:, 10:42, 7:39])
    assert (result.score > 0.95).all()
    assert np.allclose(result.shift, np.hypot(2, 1), atol=0.2) and result.deformation.max() < 0.05


def test_what_is_bent_to_agree_must_agree_better() -> None:
    full = np.ones(4)
    need = verify.required(full, np.array([0.0, 0.05, 0.15, 0.35]), 0.9)
    np.testing.assert_allclose(need, [0.9, 0.9, 0.93, 0.95], rtol=1e-6)
    np.testing.assert_allclose(
        verify.required(full, np.array([0.0, 0.05, 0.15, 0.35]), 0.98), 0.98, rtol=1e-6
    )


def test_a_silhouette_needs_a_higher_score_than_a_full_image() -> None:
    need = verify.required(np.array([0.7, 0.25, 0.25, 0.1]), np.array([0.05, 0.0, 0.2, 0.35]), 0.9)
    assert need[0] == pytest.approx(0.9) and need[0] < need[1] < need[2] <= need[
        3
    ] == pytest.approx(0.99)


def test_mirroring_a_descriptor_is_describing_the_mirror_image() -> None:
    images = textures(40)
    plain = descriptors.edge_histograms(descriptors.grey(images))
    flipped = descriptors.edge_histograms(
        descriptors.grey(np.ascontiguousarray(images[:, :, ::-1]))
    )
    # An edge right at a bin's border falls to the other side when it is mirrored: not equal,
    # nearly.
    assert np.corrcoef(descriptors.mirrored(plain).ravel(), flipped.ravel())[0, 1] > 0.99
    assert (descriptors.mirrored(descriptors.mirrored(plain)) == plain).all()


def test_blank_images_have_no_descriptor_and_no_candidates() -> None:
    images = np.concatenate(
        [
            textures(10),
            np.full((5, 32, 32, 3), 200, np.uint8),
            np.full((2, 32, 32, 3), 201, np.uint8),
        ]
    )
    described = descriptors.describe(lambda rows: images[rows], len(images))
    assert described.blank.tolist() == [False] * 10 + [True] * 7 and not described.edges[10:].any()
    near = neighbours.nearest(described.edges, 5, floor=0.2)
    assert max([*near.i, *near.j], default=0) < 10


def test_background_ignores_duplicates_and_rises_with_likeness() -> None:
    rng = np.random.default_rng(0)
    photographs = np.abs(rng.normal(0.2, 0.1, 1000)).astype(np.float32)
    duplicates = rng.normal(0.97, 0.01, 5000).clip(0, 0.999).astype(np.float32)
    digits = np.tanh(rng.normal(1.25, 0.25, 2000)).astype(np.float32)
    assert bulk(photographs, 0.9).bound < 0.75
    assert bulk(np.concatenate([photographs, duplicates]), 0.9).bound < 0.75
    assert bulk(digits, 0.9).bound > 0.95
    assert bulk(photographs[:20], 0.9).bound == 0
