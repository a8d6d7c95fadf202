"""The probes as scikit-learn estimators: for pipelines, grid searches and users who know
`LinearSVC`.

They pass scikit-learn's own `check_estimator`. float16 and float32 features are used as they come,
float64 ones are made float32; nothing is copied to float64.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from gan_core.probes import linear_svm, logistic
from gan_core.probes.base import LinearModel, linear_scores


class _Linear(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What both share: checks, labels of any kind, scikit-learn's attributes.

    Attributes after fit: classes_, coef_ [columns, dims] and intercept_ [columns] (one column for
    two classes), n_iter_, dual_gap_ (relative bound on the distance to the optimum).
    """

    _probe: ModuleType

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float | None = None,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.C, self.tol, self.device, self.random_state = C, tol, device, random_state

    def _solve(self, features: Any, index: Any) -> LinearModel:
        models: list[LinearModel] = self._probe.fit(
            features,
            index,
            [self.C],
            seed=self.random_state,
            device=self.device,
            tolerance=self._probe.TOLERANCE if self.tol is None else self.tol,
        )
        return models[0]

    def fit(self, X: Any, y: Any) -> Any:
        """Fits. Args: X: [rows, dims]. y: labels of any kind, two classes or more."""
        X, y = validate_data(self, X, y, dtype=[np.float16, np.float32, np.float64], order="C")
        check_classification_targets(y)
        if not self.C > 0:
            raise ValueError(f"C must be above 0, got {self.C!r}")
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but the data "
                f"contains only one class: {y[0]!r}"
            )
        model = self._solve(
            X.astype(np.float32) if X.dtype == np.float64 else X, index.astype(np.int64)
        )
        self.coef_, self.intercept_ = model.weights.T, model.intercept
        self.n_iter_ = int(model.certificate["iterations"])
        self.dual_gap_ = model.certificate["gap"]
        return self

    def decision_function(self, X: Any) -> Any:
        """float32 [rows] for two classes (positive: the second), else [rows, classes]."""
        check_is_fitted(self)
        X = validate_data(
            self, X, reset=False, dtype=[np.float16, np.float32, np.float64], order="C"
        )
        scores = linear_scores(X, np.ascontiguousarray(self.coef_.T), self.intercept_, self.device)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> Any:
        """The class of each row."""
        scores = self.decision_function(X)
        return self.classes_[
            (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
        ]


class LinearSVM(_Linear):
    """The probe `linear_svm`: scikit-learn's `LinearSVC` objective with its defaults, by Newton-CG
    with a certificate.

    Args:
        C: weight of the squared hinge losses.
        tol: largest relative duality gap of any class; None: the probe's own.
        device: 'cpu' or 'cuda'.
        random_state: picks the rows behind the preconditioner.
    """

    _probe = linear_svm


class Logistic(_Linear):
    """The probe `logistic`: scikit-learn's `LogisticRegression` objective. Arguments as
    `LinearSVM`.
    """

    _probe = logistic

    def _solve(self, features: Any, index: Any) -> LinearModel:
        model = super()._solve(features, index)
        # scikit-learn's convention: one column, the second class against the first
        if len(model.classes) == 2:
            model.weights = np.ascontiguousarray(model.weights[:, 1:] - model.weights[:, :1])
            model.intercept = model.intercept[1:] - model.intercept[:1]
        return model

    def predict_proba(self, X: Any) -> Any:
        """float32 [rows, classes], rows sum to 1."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)
