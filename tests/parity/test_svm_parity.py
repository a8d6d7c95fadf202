"""Our solvers against scikit-learn's on features of a random convolutional network over real digits
(unscaled, float16).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from gan_core.probes import linear_svm, logistic
from gan_core.probes.base import LinearModel
from gan_core.probes.solver import dual as _dual
from gan_core.probes.solver import primal as _primal

Matrix = npt.NDArray[np.float64]


def digits_features(rows: int, dims: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """ReLU features of real digits: correlated, neither centred nor scaled, as a network's are."""
    digits = load_digits()
    weights = np.random.default_rng(1).standard_normal((64, dims)) / 8
    return np.maximum((digits.data[:rows] / 8 - 1) @ weights, 0).astype(np.float16), digits.target[
        :rows
    ].astype(np.int64)


def svm_objective(
    x: Matrix,
    y: npt.NDArray[np.int64],
    weights: Matrix,
    intercept: Matrix,
    cost: float,
    positive: list[int],
) -> float:
    total = 0.0
    for column, label in enumerate(positive):
        sign = np.where(y == label, 1.0, -1.0)
        hinge = np.maximum(0, 1 - sign * (x @ weights[:, column] + intercept[column]))
        total += (
            0.5 * (weights[:, column] @ weights[:, column] + intercept[column] ** 2)
            + cost * hinge @ hinge
        )
    return float(total)


def same_but_for_ties(
    ours: LinearModel, theirs: Matrix, x: npt.NDArray[np.float16], labels: npt.NDArray[np.int64]
) -> None:
    """Every differing answer must be a near-tie in their decision values."""
    for row in np.flatnonzero(ours.predict(x) != labels):
        mine = int(ours.classes.searchsorted(ours.predict(x[row : row + 1])[0]))
        assert theirs[row].max() - theirs[row, mine] < 0.01 * np.ptp(theirs[row])


@pytest.mark.parametrize(
    ("rows", "dims", "cost"),
    [(300, 700, 1e-4), (300, 700, 1e-2), (300, 700, 1.0), (900, 1200, 1e-3)],
)
def test_svm_with_fewer_rows_than_dimensions_is_linearsvc(
    rows: int, dims: int, cost: float
) -> None:
    check_svm(rows, dims, cost)


@pytest.mark.parametrize(
    ("rows", "dims", "cost"),
    [(1797, 64, 1e-4), (1797, 64, 1.0), (1797, 400, 1e-4), (1797, 400, 1e-2)],
)
def test_svm_with_more_rows_than_dimensions_is_linearsvc(rows: int, dims: int, cost: float) -> None:
    check_svm(rows, dims, cost)


@pytest.mark.slow
@pytest.mark.parametrize("cost", [1e-5, 1e-3])
def test_svm_beyond_the_gram_matrix_is_linearsvc(cost: float) -> None:
    """A float32 Gram matrix, certified on the features."""
    check_svm(1797, 12_000, cost)


def check_svm(rows: int, dims: int, cost: float) -> None:
    features, labels = digits_features(rows, dims)
    (ours,) = linear_svm.fit(features, labels, [cost])
    x = features.astype(np.float64)
    theirs = LinearSVC(C=cost, tol=1e-7, max_iter=200_000).fit(x, labels)
    classes = list(range(10))
    best = svm_objective(x, labels, theirs.coef_.T, theirs.intercept_, cost, classes)
    mine = svm_objective(
        x, labels, ours.weights.astype(np.float64), ours.intercept.astype(np.float64), cost, classes
    )
    assert abs(mine - best) <= 1e-4 * best
    assert ours.certificate["gap"] <= linear_svm.TOLERANCE
    assert ours.certificate["objective"] == pytest.approx(mine, rel=1e-5)
    assert mine - best <= ours.certificate["gap"] * mine + 1e-6 * mine, (
        "the certificate promised more than is true"
    )
    same_but_for_ties(ours, theirs.decision_function(x), features, theirs.predict(x))


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems have a float32 Gram matrix, as middling ones do."""
    monkeypatch.setattr(_dual, "EXACT_ROWS", 0)


@pytest.mark.parametrize("cost", [1e-4, 1e-2, 1.0])
def test_svm_on_a_rounded_gram_matrix_is_linearsvc(rounded: None, cost: float) -> None:
    check_svm(300, 700, cost)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_bf16_products_of_rows_are_near_those_of_float64(kind: type) -> None:
    rows, _ = digits_features(700, 900)
    features: npt.NDArray[Any] = (rows + 3).astype(kind)  # a mean that bf16 would round off
    exact = features.astype(np.float64) @ features.astype(np.float64).T
    matrix = _dual.quick_gram(_primal.Primal(torch.from_numpy(features), 0))
    off = np.linalg.norm(matrix.double().numpy() - exact, 2) / exact.diagonal().mean()
    assert off < 1e-3
    rough = torch.from_numpy(features).bfloat16()
    plain = (rough @ rough.T).double().numpy()
    assert np.linalg.norm(plain - exact, 2) / exact.diagonal().mean() > 4 * off


@pytest.mark.parametrize("cost", [1e-4, 1e-2])
def test_svm_on_a_gram_matrix_of_bf16_products_is_linearsvc(
    rounded: None, monkeypatch: pytest.MonkeyPatch, cost: float
) -> None:
    seen: list[tuple[int, int]] = []
    quick_gram = _dual.quick_gram

    def noted(data: _primal.Primal) -> torch.Tensor:
        seen.append((data.rows, data.dims))
        return quick_gram(data)

    monkeypatch.setattr(_primal, "BF16_VALUES", 0)
    monkeypatch.setattr(_primal, "bf16_is_fast", lambda device: True)
    monkeypatch.setattr(_dual, "WEAK", 1e9)
    monkeypatch.setattr(_dual, "quick_gram", noted)
    check_svm(300, 700, cost)
    assert seen == [(300, 700)]


def test_the_features_correct_a_wrong_gram_matrix(
    rounded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted error of a tenth of the diagonal: Newton's method continues on the features."""
    products = _dual.inner_products

    def wrong(source: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        matrix = products(source, kind)
        return matrix + 0.1 * matrix.diagonal().diag()

    monkeypatch.setattr(_dual, "inner_products", wrong)
    check_svm(300, 700, 1e-2)


def test_equal_rows_do_not_stop_the_factorisation(rounded: None) -> None:
    x, y = digits_features(100, 700)
    twice, labels = np.concatenate([x, x, x]), np.concatenate([y, y, y])
    (once,), (thrice,) = linear_svm.fit(x, y, [3e-3]), linear_svm.fit(twice, labels, [1e-3])
    assert np.abs(once.weights - thrice.weights).max() < 0.02 * np.abs(once.weights).max()


def test_features_that_are_all_zero_leave_the_intercept_alone(rounded: None) -> None:
    (model,) = linear_svm.fit(np.zeros((30, 700), np.float16), np.arange(30) % 3, [1e-2])
    assert not model.weights.any() and (model.intercept < 0).all()


def test_a_hard_problem_gets_a_better_preconditioner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of 50 rows is a poor preconditioner for 400 dimensions: with all rows' products
    fewer passes end at the same.
    """
    monkeypatch.setattr(_primal, "SAMPLE_ROWS", 50)
    x, y = digits_features(1500, 400)
    (refined,) = linear_svm.fit(x, y, [1.0])
    monkeypatch.setattr(_primal, "REFINED_DIMS", 0)
    (plain,) = linear_svm.fit(x, y, [1.0])
    assert refined.certificate["passes"] < 0.6 * plain.certificate["passes"]
    assert abs(refined.certificate["objective"] / plain.certificate["objective"] - 1) < 1e-4


def test_beyond_float32_the_last_sound_iterate_is_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At C = 100 on features of rank 65 float32 gives out; what is returned is finite, and its gap
    says that it is no optimum.
    """
    monkeypatch.setattr(_primal, "SAMPLE_ROWS", 50)
    monkeypatch.setattr(_primal, "REFINED_DIMS", 0)
    x, y = digits_features(1700, 400)
    (model,) = linear_svm.fit(x, y, [100.0])
    assert np.isfinite(model.weights).all() and model.certificate["gap"] > 1e-2


def test_badly_conditioned_features_with_a_large_c_end_at_the_optimum() -> None:
    """Features whose squared singular values range over 1e7: L-BFGS stopped early on such."""
    stream = np.random.default_rng(0)
    labels = stream.integers(0, 4, 1000)
    basis = np.linalg.qr(stream.standard_normal((1200, 1200)))[0]
    spectrum = 10 ** np.linspace(1.5, -2, 1200)
    means = 0.25 * stream.standard_normal((4, 1200))
    x = ((stream.standard_normal((1000, 1200)) + means[labels]) * spectrum) @ basis
    for model in linear_svm.fit(x.astype(np.float16), labels, [1e-4, 1.0]):
        assert model.certificate["gap"] <= linear_svm.TOLERANCE


def test_svm_all_costs_at_once_equal_each_alone() -> None:
    features, labels = digits_features(1797, 64)
    together = linear_svm.fit(features, labels, [1e-1, 1e-4, 1e-2])
    for model in together:
        (alone,) = linear_svm.fit(features, labels, [model.value])
        assert alone.certificate["objective"] == pytest.approx(
            model.certificate["objective"], rel=2e-4
        )
    assert [model.value for model in together] == [1e-1, 1e-4, 1e-2]


@pytest.mark.parametrize(("rows", "dims"), [(200, 400), (360, 64)])
def test_svm_of_two_classes_is_one_problem_as_in_linearsvc(rows: int, dims: int) -> None:
    features, labels = digits_features(1797, dims)
    some = np.flatnonzero((labels == 3) | (labels == 8))[:rows]
    (ours,) = linear_svm.fit(features[some], labels[some], [1e-2], tolerance=1e-6)
    theirs = LinearSVC(C=1e-2, tol=1e-7, max_iter=200_000).fit(
        features[some].astype(np.float64), labels[some]
    )
    assert ours.weights.shape == (dims, 1)
    np.testing.assert_allclose(
        ours.weights[:, 0], theirs.coef_[0], atol=2e-3 * np.abs(theirs.coef_).max()
    )
    np.testing.assert_array_equal(
        ours.predict(features[some]), theirs.predict(features[some].astype(np.float64))
    )


@pytest.mark.parametrize(
    ("rows", "dims", "cost"),
    [(300, 700, 1e-3), (300, 700, 1.0), (1797, 64, 1e-4), (1797, 64, 1.0), (1797, 300, 1e-2)],
)
def test_logistic_is_logisticregression(rows: int, dims: int, cost: float) -> None:
    features, labels = digits_features(rows, dims)
    (ours,) = logistic.fit(features, labels, [cost])
    x = features.astype(np.float64)
    theirs = LogisticRegression(C=cost, tol=1e-6, max_iter=20_000).fit(x, labels)

    def objective(weights: Matrix, intercept: Matrix) -> float:
        margins = x @ weights + intercept
        top = margins.max(axis=1, keepdims=True)
        logs = (
            np.log(np.exp(margins - top).sum(axis=1))
            + top[:, 0]
            - margins[np.arange(len(labels)), labels]
        )
        return float(0.5 * (weights**2).sum() + cost * logs.sum())

    best = objective(theirs.coef_.T, theirs.intercept_)
    mine = objective(ours.weights.astype(np.float64), ours.intercept.astype(np.float64))
    assert abs(mine - best) <= 1e-5 * best
    assert ours.certificate["gap"] <= logistic.TOLERANCE
    assert mine - best <= ours.certificate["gap"] * mine + 1e-6 * mine
    same_but_for_ties(ours, theirs.decision_function(x), features, theirs.predict(x))


def test_a_shift_of_all_features_moves_the_intercept_alone() -> None:
    """A free intercept takes it up: rows far from 0 are as quickly solved."""
    features, labels = digits_features(300, 700)
    (model,) = logistic.fit(features, labels, [1e-2])
    (shifted,) = logistic.fit(features + np.float16(8), labels, [1e-2])
    scale = np.abs(model.weights).max()
    np.testing.assert_allclose(shifted.weights, model.weights, atol=2e-2 * scale)
    assert shifted.certificate["passes"] <= 1.5 * model.certificate["passes"]
    expected = model.intercept - 8 * model.weights.sum(0)
    np.testing.assert_allclose(shifted.intercept, expected, atol=0.1)


def test_features_of_rank_zero_leave_logistic_regression_the_class_frequencies() -> None:
    labels = np.arange(40) % 4
    labels[labels == 3] = 0
    (model,) = logistic.fit(np.zeros((40, 60), np.float16), labels, [1.0])
    assert not model.weights.any()
    scores = np.exp(model.intercept - model.intercept.max())
    np.testing.assert_allclose(scores / scores.sum(), [0.5, 0.25, 0.25], atol=1e-3)
