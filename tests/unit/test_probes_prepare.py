"""Preparation of features before a probe, against scikit-learn and through the protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.preprocessing import StandardScaler

from gan_core.config import EvaluateConfig, ProbeConfig
from gan_core.evaluation.scoring import evaluate_arrays
from gan_core.probes.prepare import prepare
from gan_core.reporting.sentences import probe_name


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_standardise_is_scikit_learns(kind: Any) -> None:
    features = np.random.default_rng(0).normal(3, 5, (200, 7)).astype(kind)
    features[:, 2] = 0.1  # constant
    found = prepare(features, ["standardise"], 150)
    expected = StandardScaler().fit(features[:150].astype(np.float64)).transform(features)
    assert found.dtype == kind
    np.testing.assert_allclose(found, expected, atol=2e-3 if kind == np.float16 else 1e-5)
    assert (found[:, 2] == 0).all()


def test_steps_are_done_in_their_order() -> None:
    features = np.array([[-4.0, 9.0], [16.0, 0.0], [1.0, 1.0]], np.float32)
    rooted = np.array([[-2.0, 3.0], [4.0, 0.0], [1.0, 1.0]], np.float32)
    np.testing.assert_allclose(prepare(features, ["sqrt"], 3), rooted)
    both = prepare(features, ["sqrt", "standardise"], 3)
    np.testing.assert_allclose(both, StandardScaler().fit_transform(rooted), atol=1e-6)
    assert not np.allclose(both, prepare(features, ["standardise", "sqrt"], 3))


def test_a_value_of_another_scale_hides_the_others_until_it_is_standardised() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    features = random.normal(size=(300, 5)).astype(np.float32)
    features[:, 0] += 4 * labels
    features[:, 1] *= 1000
    split = ["train" if n % 3 else "test" for n in range(300)]
    protocol = EvaluateConfig(labels_per_class=["all"])
    accuracy = {
        steps: evaluate_arrays(
            features, labels, split, protocol, ProbeConfig(name="knn", prepare=list(steps))
        )["all"]["mean"]
        for steps in ((), ("standardise",))
    }
    assert accuracy[()] < 0.7 and accuracy["standardise",] > 0.9


def test_a_prepared_probe_is_one_of_its_own() -> None:
    plain, prepared = {"name": "ridge"}, {"name": "ridge", "prepare": ["sqrt", "standardise"]}
    labels = [probe.label for probe in EvaluateConfig(probes=[plain, prepared]).probes]
    assert labels == ["ridge", "ridge+sqrt+standardise"]
    assert probe_name(labels[1]) == "ridge classification, sqrt, standardise"
    with pytest.raises(ValidationError, match="once"):
        EvaluateConfig(probes=[prepared, prepared])
