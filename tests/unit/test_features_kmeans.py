"""The K-means control: each step against an obvious version, and that it says something about
digits.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gan_core.baselines import kmeans
from gan_core.errors import DataError
from gan_core.probes import linear_svm


def pixels(count: int, side: int = 16) -> np.ndarray:
    levels = (load_digits().images[:count] * 15.9375).astype(np.uint8)
    return np.repeat(np.repeat(levels, side // 8, 1), side // 8, 2)[..., None].repeat(3, -1)


def test_windows_are_every_place_once_in_order() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 9, 8, 3)).astype(np.uint8)
    found = kmeans.windows(torch.from_numpy(image)).numpy()
    assert found.shape == (4 * 3, 108)
    patch = image[0, 2:8, 1:7].transpose(2, 0, 1).reshape(-1).astype(np.float64)
    expected = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 10)
    np.testing.assert_allclose(found[2 * 3 + 1], expected, rtol=1e-5, atol=1e-6)


def test_codes_and_quadrants_are_the_papers() -> None:
    images = pixels(3, 16)
    coder = kmeans.learn(
        lambda rows: images[rows], 3, centres=5, patches=300, measured=3, seed=0, device="cpu"
    )
    patches = kmeans.windows(torch.from_numpy(images[:1])).numpy().astype(np.float64)
    white = (patches - coder.mean.numpy()) @ coder.whiten.numpy()
    distance = np.sqrt(((white[:, None] - coder.centres.numpy()[None]) ** 2).sum(2))
    codes = np.maximum(0, distance.mean(1, keepdims=True) - distance).reshape(11, 11, 5)
    quadrants = [codes[:6, :6], codes[:6, 6:], codes[6:, :6], codes[6:, 6:]]
    expected = np.stack([quadrant.sum((0, 1)) for quadrant in quadrants], axis=1).reshape(5, 2, 2)
    np.testing.assert_allclose(coder.pooled(images[:1])[0].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_whitened_patches_are_white_and_features_standardised() -> None:
    images = pixels(300)
    coder = kmeans.learn(
        lambda rows: images[rows], 300, centres=20, patches=5000, measured=300, seed=1, device="cpu"
    )
    patches = kmeans.normalise(kmeans._sample(lambda rows: images[rows], 300, 5000, 1))
    spread = torch.cov(((patches - coder.mean) @ coder.whiten).T)
    large = torch.linalg.eigvalsh(torch.cov(patches.T)) > 1.0
    assert (
        torch.linalg.eigvalsh(spread)[large].min() > 0.85
        and torch.linalg.eigvalsh(spread).max() < 1.01
    )
    features = coder.extract(images)["kmeans"].reshape(300, -1).astype(np.float64)
    assert np.abs(features.mean(0)).max() < 0.01
    assert np.percentile(features.std(0), 5) > 0.9


def test_lloyd_finds_planted_clusters() -> None:
    random = np.random.default_rng(0)
    middles = random.standard_normal((4, 6)) * 10
    points = torch.from_numpy(
        (middles[random.integers(0, 4, 2000)] + random.standard_normal((2000, 6))).astype(
            np.float32
        )
    )
    found = kmeans.lloyd(points, 8, 0)
    worst = np.sqrt(((found.numpy()[None] - middles[:, None]) ** 2).sum(2)).min(1).max()
    assert worst < 2.0


def test_features_classify_digits_and_are_the_same_each_time() -> None:
    images, labels = pixels(700), load_digits().target[:700].astype(np.int64)
    coders = [
        kmeans.learn(
            lambda rows: images[rows],
            500,
            centres=50,
            patches=8000,
            measured=500,
            seed=0,
            device="cpu",
        )
        for _ in "ab"
    ]
    features, again = (coder.extract(images)["kmeans"].reshape(700, -1) for coder in coders)
    np.testing.assert_array_equal(features, again)
    (model,) = linear_svm.fit(features[:500], labels[:500], [1e-3])
    assert (model.predict(features[500:]) == labels[500:]).mean() > 0.85


def test_too_few_patches_and_too_small_images_are_refused() -> None:
    images = pixels(2)
    with pytest.raises(DataError, match="cannot make 50 centres"):
        kmeans.learn(
            lambda rows: images[rows], 2, centres=50, patches=10, measured=2, seed=0, device="cpu"
        )
    with pytest.raises(DataError, match="smaller than a patch"):
        kmeans.learn(
            lambda rows: images[rows, :4],
            2,
            centres=2,
            patches=10,
            measured=2,
            seed=0,
            device="cpu",
        )
