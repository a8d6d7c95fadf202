"""knn and ridge against scikit-learn and against slow versions, on real digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

from gan_core.probes import knn, ridge


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.data / 8 - 1).astype(np.float16), data.target.astype(np.int64)


@pytest.mark.parametrize("backend", ["faiss", "torch"])
@pytest.mark.parametrize("k", [1, 4, 25])
def test_knn_is_the_obvious_vote(backend: str, k: int) -> None:
    features, labels = digits()
    train, test = features[:600], features[600:700]
    (model,) = knn.fit(train, labels[:600], [float(k)], backend=backend)
    distances = ((test[:, None].astype(np.float64) - train[None].astype(np.float64)) ** 2).sum(2)
    wrong = 0
    for row, answer in zip(distances, model.predict(test), strict=True):
        order = np.argsort(row, kind="stable")[:k]
        votes = np.bincount(labels[order], minlength=10)
        tied = np.flatnonzero(votes == votes.max())
        expected = next(label for label in labels[order] if label in tied)
        edge = np.sort(row)
        wrong += int(
            answer != expected and edge[k] - edge[k - 1] > 1e-4
        )  # equal distances at the edge may go either way
    assert wrong == 0


def test_knn_backends_agree_and_one_search_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = digits()
    searches = []
    plain = knn.Neighbours.nearest
    monkeypatch.setattr(
        knn.Neighbours, "nearest", lambda self, x, n: (searches.append(n), plain(self, x, n))[1]
    )
    answers = [
        knn.KNearest.predict_together(
            knn.fit(features[:900], labels[:900], knn.GRID, backend=backend), features[900:]
        )
        for backend in ("faiss", "torch")
    ]
    assert searches == [25, 25]
    assert (np.stack(answers[0]) == np.stack(answers[1])).mean() > 0.999


def test_knn_of_few_rows_uses_them_all() -> None:
    features, labels = digits()
    (model,) = knn.fit(features[:7], labels[:7], [25.0])
    assert model.predict(features[:3]).tolist() == [labels[0]] * 3 or set(
        model.predict(features[:3])
    ) <= set(labels[:7])


@pytest.mark.parametrize(("rows", "wide"), [(300, True), (1797, False)])
def test_ridge_is_ridgeclassifier(rows: int, wide: bool) -> None:
    features, labels = digits()
    if wide:
        weights = np.random.default_rng(0).standard_normal((64, 500)) / 8
        features = np.maximum(features.astype(np.float64) @ weights, 0).astype(np.float16)
    features, labels = features[:rows], labels[:rows]
    for model in ridge.fit(features, labels, [1.0, 100.0], tolerance=1e-7):
        theirs = RidgeClassifier(alpha=model.value, solver="svd").fit(
            features.astype(np.float64), labels
        )
        np.testing.assert_allclose(
            model.weights, theirs.coef_.T, atol=3e-3 * np.abs(theirs.coef_).max()
        )
        assert (
            model.predict(features) == theirs.predict(features.astype(np.float64))
        ).mean() > 0.998
