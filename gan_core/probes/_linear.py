"""What the fits of linear probes have in common: their beginning, one-vs-rest targets, and models out of a solver's columns."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gan_core.probes._design import Blocks, LinearMap, Turned, linear_map
from gan_core.probes._newton import Loss, Solution, certify, solve
from gan_core.probes.base import Features, Labels, LinearModel, begin
from gan_core.progress import Progress, silent

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)


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


def solved(
    features: Features,
    data: LinearMap,
    loss: Loss,
    columns: int,
    tolerance: float,
    *,
    seed: int,
    device: str,
    progress: Progress = silent,
) -> tuple[npt.NDArray[np.float32], Solution]:
    """`_newton.solve`, with the weights in the features' space: float32 [dims + 1, columns].

    What was solved in a basis that is the features' own only nearly (`Turned`) has its objective and gap computed once more on the
    features; should a gap be above the tolerance there, all is solved on the features.
    """
    if not isinstance(data, Turned):
        found = solve(data, loss, columns, tolerance, progress)
        return data.lift(found.weights).float().cpu().numpy(), found
    found = solve(data, loss, columns, 0.8 * tolerance, progress)
    weights = data.lift(found.weights)
    objective, gap = certify(features, weights, loss)
    if bool((gap > tolerance).any()):
        log.info("solved again on the features: a gap of %.1e is above %.1e", float(gap.max()), tolerance)
        return solved(
            features, Blocks(features, seed, device), loss, columns, tolerance, seed=seed, device=device, progress=progress
        )
    return weights.float().cpu().numpy(), replace(found, objective=objective, gap=gap)


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
