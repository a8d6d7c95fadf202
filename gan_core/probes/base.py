"""What every probe is, the linear model, and predictions of many fitted models in one pass.

A probe is a file in this folder with

    ABOUT      one sentence
    VERSION    raised when the same request would give another model; in the key of what uses it
    TITLE      what the report calls it
    SETTING    the name of what its values set ('C', 'k'), or '' when nothing is chosen
    GRID       floats, the values tried when a recipe names none; [0.0] where nothing is chosen
    Options    optional: its further settings (`gan_core.config.Section`), which `fit` gets as the
               keyword `options`
    LEAST      optional: the smallest value there is; a best value there is at no edge of the grid
    ABOVE      optional: values are above this number
    WHOLE      optional: True where values are whole numbers
    REFERENCE  optional: True where it needs no features: scored once for each source

    fit(features, labels, values=GRID, *, seed=0, device="cpu") -> one model per value, in order

`fit` begins with `check_and_encode`. Features are float16 or float32 [rows, dims] (used as they
come: nothing is scaled), labels are integers [rows]. A model is a `LinearModel` or has `value`,
`classes`, `certificate` and `predict(features) -> int64 [rows]`.
`tests/contract/test_probes_contract.py` checks every file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gan_core.errors import DataError

Features = npt.NDArray[np.float16] | npt.NDArray[np.float32] | npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


class Model(Protocol):
    """A fitted classifier. `certificate` holds what is known of how well it was fitted (objective,
    gap, iterations).
    """

    value: float
    classes: Labels
    certificate: dict[str, float]

    def predict(self, features: Features) -> Labels: ...


@dataclass
class LinearModel:
    """Scores are features @ weights + intercept; the class with the largest score is the answer.

    Attributes:
        value: the setting it was fitted with.
        classes: int64 [classes], ascending.
        weights: float32 [dims, columns]; columns = classes, or 1 for two classes (positive score:
            the second).
        intercept: float32 [columns].
        certificate: `objective` (sum over columns), `gap` (largest relative gap to the optimum),
            `iterations`.
    """

    value: float
    classes: Labels
    weights: npt.NDArray[np.float32]
    intercept: npt.NDArray[np.float32]
    certificate: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"

    def scores(self, features: Features) -> npt.NDArray[np.float32]:
        """Decision values, float32 [rows, columns]."""
        return linear_scores(features, self.weights, self.intercept, self.device)

    def answer(self, scores: npt.NDArray[np.float32]) -> Labels:
        """The classes that decision values stand for; the first of equals."""
        if scores.shape[1] == 1:
            index = (scores[:, 0] > 0).astype(np.int64)
        else:
            index = scores.argmax(axis=1)
        answer: Labels = self.classes[index]
        return answer

    def predict(self, features: Features) -> Labels:
        """Classes of features [rows, dims] as int64 [rows]."""
        return self.answer(self.scores(features))


def predict_many(models: Sequence[Model], features: Features) -> list[Labels]:
    """Predictions of several models for the same features, int64 [rows] each. Linear models share
    one pass over the features, neighbours one search.
    """
    together = getattr(models[0], "predict_together", None) if models else None
    if together is not None and len({type(model) for model in models}) == 1:
        answers: list[Labels] = together(models, features)
        return answers
    linear = [model for model in models if isinstance(model, LinearModel)]
    if len(linear) != len(models) or not linear:
        return [model.predict(features) for model in models]
    weights = np.concatenate([model.weights for model in linear], axis=1)
    intercept = np.concatenate([model.intercept for model in linear])
    scores = linear_scores(features, weights, intercept, linear[0].device)
    edges = np.cumsum([0] + [model.weights.shape[1] for model in linear])
    return [model.answer(scores[:, edges[i] : edges[i + 1]]) for i, model in enumerate(linear)]


def accuracies_of(models: Sequence[Model], features: Features, labels: Labels) -> list[float]:
    """The share of right answers of each model."""
    return [float((answer == labels).mean()) for answer in predict_many(models, features)]


def linear_scores(
    features: Features,
    weights: npt.NDArray[np.float32],
    intercept: npt.NDArray[np.float32],
    device: str = "cpu",
) -> npt.NDArray[np.float32]:
    """features @ weights + intercept in float32, by blocks of rows. Returns: float32 [rows,
    columns].
    """
    import torch

    if features.shape[1] != weights.shape[0]:
        raise DataError(
            f"The features have {features.shape[1]} dimensions and the model was fitted on "
            f"{weights.shape[0]}.",
            expected="features of the same layers and the same pooling",
        )
    matrix = torch.from_numpy(np.ascontiguousarray(weights)).to(device)
    bias = torch.from_numpy(np.ascontiguousarray(intercept)).to(device)
    out = np.empty((len(features), matrix.shape[1]), np.float32)
    rows = block_rows(features.shape[1])
    for start in range(0, len(features), rows):
        block = as_tensor(features[start : start + rows]).to(device).float()
        out[start : start + rows] = torch.addmm(bias, block, matrix).cpu().numpy()
    return out


def block_rows(dims: int, megabytes: int = 128) -> int:
    """Rows of float32 [*, dims] that fit into so many megabytes; at least 64."""
    return max(64, megabytes * 2**20 // (4 * max(dims, 1)))


def as_tensor(features: npt.NDArray[Any]) -> Any:
    """A torch view of an array; a copy where its memory is read-only or not contiguous."""
    import torch

    array = (
        features
        if features.flags.writeable and features.flags.c_contiguous
        else np.array(features, order="C")
    )
    return torch.from_numpy(array)


def encode(labels: Labels) -> tuple[Labels, Labels]:
    """(classes ascending, index of each label in them).

    Raises:
        DataError: no labels, or one class only.
    """
    classes, index = np.unique(np.asarray(labels, np.int64), return_inverse=True)
    if len(classes) < 2:
        what = (
            "no labelled rows"
            if not len(labels)
            else f"one class only (label {classes[0]}, {len(labels)} rows)"
        )
        raise DataError(
            f"There is {what} to fit a probe on.",
            expected="labelled rows of two classes or more",
            remedy=(
                "check the labels of the source (`label` in crops.parquet), or leave out the "
                "evaluation"
            ),
        )
    return classes, index.astype(np.int64)


def one_vs_rest(classes: Labels, index: Labels) -> npt.NDArray[np.float32]:
    """Targets +1 (this class) and -1: float32 [classes, rows]; for two classes one row, +1 for the
    second. Arguments: what `encode` returns.
    """
    wanted = np.arange(1, 2) if len(classes) == 2 else np.arange(len(classes))
    return np.where(index == wanted[:, None], np.float32(1), np.float32(-1))


def check_and_encode(features: Features, labels: Labels) -> tuple[Labels, Labels]:
    """How every fit begins: `check_features`, then `encode`.

    Raises: DataError.
    """
    check_features(features, labels)
    return encode(labels)


def not_finite(features: Features) -> Labels:
    """Numbers of the rows that hold NaN or infinite values, ascending: int64 [rows].

    Read as bits, where float16 costs no conversion: the exponent of such values, and of no others,
        is all ones.
    """
    if features.dtype.kind != "f":
        return np.empty(0, np.int64)
    bits = features.dtype.itemsize * 8
    kind, exponent = (
        np.dtype(f"u{bits // 8}"),
        {16: 0x7C00, 32: 0x7F800000, 64: 0x7FF0000000000000}[bits],
    )
    found = []
    rows = block_rows(features.shape[1], 16)
    for start in range(0, len(features), rows):
        masked = features[start : start + rows].view(kind) & kind.type(exponent)
        if masked.size and masked.max() == exponent:
            found.append(start + np.flatnonzero((masked == exponent).any(1)))
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, np.int64)


def check_features(features: Features, labels: Labels) -> None:
    """Checks that shapes belong together and that all values are finite.

    Raises: DataError.
    """
    if features.ndim != 2 or len(features) != len(labels):
        raise DataError(
            f"Features of shape {tuple(features.shape)} do not go with {len(labels)} labels.",
            expected="features [rows, dims] with one label for each row",
        )
    wrong = not_finite(features)
    if len(wrong):
        listed = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        raise DataError(
            f"{len(wrong)} of {len(features)} rows of features hold values that are not finite "
            f"(NaN or infinite): rows {listed}.",
            expected="finite features",
            remedy=(
                "leave those rows out, or extract the features again: the stage extract refuses "
                "NaN and names the images"
            ),
        )
