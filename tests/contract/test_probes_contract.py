"""What every file in gan_core/probes must do, found by name."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits

from gan_core import registry
from gan_core.errors import DataError
from gan_core.probes.base import predict_many

NAMES = registry.names("probes")


@pytest.fixture(params=NAMES)
def probe(request: pytest.FixtureRequest) -> ModuleType:
    return registry.load("probes", request.param)


def reads_no_features(probe: ModuleType) -> bool:
    return bool(getattr(probe, "REFERENCE", False))


def digits(kind: type = np.float16) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    data = load_digits()
    return (data.data[:300] / 8 - 1).astype(kind), data.target[:300].astype(np.int64)


def test_says_what_it_is(probe: ModuleType) -> None:
    assert probe.ABOUT and registry.about("probes", probe.__name__.rsplit(".", 1)[1]) == probe.ABOUT
    assert probe.GRID and all(isinstance(value, float) for value in probe.GRID)
    assert isinstance(probe.SETTING, str)


def test_one_model_for_each_value_in_order(probe: ModuleType) -> None:
    features, labels = digits()
    values = probe.GRID[::-1]
    models = probe.fit(features, labels, values, seed=0, device="cpu")
    assert [model.value for model in models] == values
    for model, answer in zip(models, predict_many(models, features), strict=True):
        assert answer.dtype == np.int64 and answer.shape == (300,)
        assert set(answer) <= set(labels)
        np.testing.assert_array_equal(answer, model.predict(features))
        assert list(model.classes) == list(range(10))
        assert all(isinstance(value, float) for value in model.certificate.values())


def test_beats_chance_unless_it_is_a_reference(probe: ModuleType) -> None:
    features, labels = digits()
    best = max(
        (model.predict(features[200:]) == labels[200:]).mean()
        for model in probe.fit(features[:200], labels[:200], probe.GRID)
    )
    assert best < 0.2 if reads_no_features(probe) else best > 0.75


def test_same_input_same_answer(probe: ModuleType) -> None:
    features, labels = digits()
    first, again = (
        predict_many(probe.fit(features, labels, probe.GRID, seed=3), features) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)


def test_labels_need_not_be_counted_from_zero(probe: ModuleType) -> None:
    features, labels = digits()
    plain = probe.fit(features, labels, probe.GRID[:1])[0].predict(features)
    moved = probe.fit(features, labels * 7 + 100, probe.GRID[:1])[0].predict(features)
    np.testing.assert_array_equal(plain * 7 + 100, moved)


def test_float32_and_float16_of_the_same_values_agree(probe: ModuleType) -> None:
    features, labels = digits()
    half = probe.fit(features, labels, probe.GRID[1:2] or probe.GRID)[0].predict(features)
    single = probe.fit(features.astype(np.float32), labels, probe.GRID[1:2] or probe.GRID)[
        0
    ].predict(features.astype(np.float32))
    assert (half == single).mean() > 0.995


def test_features_are_left_as_they_were(probe: ModuleType) -> None:
    features, labels = digits()
    before = features.copy()
    features.flags.writeable = False
    for model in probe.fit(features, labels, probe.GRID[:2]):
        model.predict(features)
    np.testing.assert_array_equal(features, before)


def test_refuses_what_cannot_be_fitted(probe: ModuleType) -> None:
    features, labels = digits()
    with pytest.raises(DataError):
        probe.fit(features, labels[:10], probe.GRID)
    if not reads_no_features(probe):
        with pytest.raises(DataError, match="one class only"):
            probe.fit(features, np.full(300, 4), probe.GRID)
        with pytest.raises(DataError, match="no labelled rows"):
            probe.fit(features[:0], labels[:0], probe.GRID)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_features_that_are_not_finite_are_refused_by_row(
    probe: ModuleType, kind: type, value: float
) -> None:
    if reads_no_features(probe):
        pytest.skip("it reads no features")
    features, labels = digits(kind)
    features[[7, 250], 3] = value
    with pytest.raises(DataError, match="2 of 300 rows of features .* rows 7, 250"):
        probe.fit(features, labels, probe.GRID, seed=0, device="cpu")
