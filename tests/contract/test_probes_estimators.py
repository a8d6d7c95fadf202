"""The estimators keep scikit-learn's contract, by its own checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from gan_core.metrics.estimators import LinearSVM, Logistic


@parametrize_with_checks([LinearSVM(), Logistic()])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("kind", [LinearSVM, Logistic])
def test_in_a_grid_search_over_float16(kind: type) -> None:
    digits = load_digits()
    names = np.array([f"digit {n}" for n in digits.target[:400]])
    search = GridSearchCV(kind(), {"C": [1e-4, 1.0]}, cv=3).fit(
        (digits.data[:400] / 16).astype(np.float16), names
    )
    assert search.best_params_ == {"C": 1.0}
    assert (
        cross_val_score(search.best_estimator_, digits.data[:400] / 16, names, cv=3).mean() > 0.85
    )
