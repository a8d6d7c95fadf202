"""What the fits of linear probes have in common: their beginning, one-vs-rest targets, and models out of a solver's columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gan_core.probes._design import LinearMap, linear_map
from gan_core.probes.base import Features, Labels, LinearModel, begin

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def begin_linear(features: Features, labels: Labels, seed: int, device: str) -> tuple[Labels, Labels, LinearMap, torch.dtype]:
    """(classes, index of each label in them, the features as a linear map, the type it computes in); errors as `base.begin`."""
    classes, index = begin(features, labels)
    data = linear_map(features, seed, device)
    return classes, index, data, data.zeros(1).dtype


def one_vs_rest(classes: Labels, index: Labels) -> Tensor:
    """Targets +1 (this class) and -1: float32 [rows, classes]; for two classes one column, +1 for the second."""
    import torch

    wanted = torch.arange(1, 2) if len(classes) == 2 else torch.arange(len(classes))
    return torch.where(torch.from_numpy(index)[:, None] == wanted, 1.0, -1.0)


def model_of(
    value: float,
    classes: Labels,
    weights: npt.NDArray[np.float32],
    columns: slice,
    certificate: dict[str, float],
    device: str,
) -> LinearModel:
    """The model in some columns of a solution [dims + 1, columns], whose last row is the intercept."""
    matrix = np.ascontiguousarray(weights[:-1, columns])
    return LinearModel(float(value), classes, matrix, weights[-1, columns].copy(), certificate, device)
