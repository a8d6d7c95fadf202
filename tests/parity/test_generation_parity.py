"""Distances of generated images against torch-fidelity's formulas, on random features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gan_core.metrics.generation import (
    Products,
    frechet_distance,
    kernel_distance,
    precision_recall,
)

pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def features() -> tuple[np.ndarray, np.ndarray]:
    """The second set is moved and stretched; sizes differ."""
    random = np.random.default_rng(0)
    return random.normal(size=(300, 20)), 1.3 * random.normal(size=(260, 20)) + 0.2


def test_frechet_is_torch_fidelitys(features: tuple[np.ndarray, np.ndarray]) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(torch.from_numpy(one)) for one in features]
    (expected,) = fid_statistics_to_metric(*statistics, verbose=False).values()
    assert frechet_distance(*features) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_torch_fidelitys(features: tuple[np.ndarray, np.ndarray]) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    tensors = [torch.from_numpy(one) for one in features]
    given = {"kid_subsets": 7, "kid_subset_size": 100, "verbose": False}
    expected = list(kid_features_to_metric(*tensors, **given).values())
    found = kernel_distance(Products.of(*features), subsets=7, size=100)
    assert list(found) == pytest.approx(expected, rel=1e-9)


def test_precision_and_recall_are_torch_fidelitys(
    features: tuple[np.ndarray, np.ndarray],
) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = prc_features_to_metric(*map(torch.from_numpy, features), verbose=False)
    expected = [found["precision"], found["recall"]]
    assert min(expected) > 0.1 and max(expected) < 1 and expected[0] != expected[1]
    assert list(precision_recall(Products.of(*features))) == pytest.approx(expected, abs=1e-6)
