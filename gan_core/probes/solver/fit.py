"""What the fits of linear probes have in common: their beginning, one-vs-rest targets, and models
out of a solver's columns.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gan_core.probes.base import Features, Labels, LinearModel, check_and_encode
from gan_core.probes.solver.design import COMPACT_ROWS, Blocks, Compact, LinearMap
from gan_core.probes.solver.dual import DUAL_ROWS, DUAL_SHARE, Dual
from gan_core.probes.solver.newton_cg import Loss, Solution, solve
from gan_core.progress import Progress, silent

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)


CORRECTIONS = (
    12  # Newton steps with directions from the rows' factor, before the features give their own
)


def linear_map(
    features: Features, seed: int, device: str, curvature_of: float
) -> Compact | Dual | Blocks:
    """The cheapest form of the problem for data of this shape. Args: curvature_of: see `Dual`."""
    if len(features) <= COMPACT_ROWS and len(features) < features.shape[1]:
        return Compact.of(features, device)
    if len(features) <= min(DUAL_ROWS, DUAL_SHARE * features.shape[1]):
        return Dual(features, seed, device, curvature_of)
    return Blocks(features, seed, device)


def prepare_linear(
    features: Features, labels: Labels, seed: int, device: str, curvature_of: float
) -> tuple[Labels, Labels, LinearMap, torch.dtype]:
    """(classes, index of each label in them, the features as a linear map, the type it computes
    in); errors as `base.begin`.
    """
    classes, index = check_and_encode(features, labels)
    data = linear_map(features, seed, device, curvature_of)
    return classes, index, data, data.zeros(1).dtype


def one_vs_rest(classes: Labels, index: Labels) -> Tensor:
    """Targets +1 (this class) and -1: float32 [rows, classes]; for two classes one column, +1 for
    the second.
    """
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
    """`newton_cg.solve`, with the weights in the features' space: float32 [dims + 1, columns].

    `Dual` data are solved in the basis that is the features' own only nearly, and from there on
    the features; should its directions not bring every group below the tolerance, those groups go
    on with directions of the features.
    """
    start = None
    if isinstance(data, Dual):
        first = solve(data.near, loss, columns, 0.5 * tolerance, progress)
        found = solve(
            data, loss, columns, tolerance, progress, data.from_dual(first.weights), CORRECTIONS
        )
        found = replace(
            found,
            newton_steps=first.newton_steps + found.newton_steps,
            cg_steps=first.cg_steps + found.cg_steps,
        )
        if not bool((found.gap > tolerance).any()):
            return found.weights.cpu().numpy(), found
        log.info(
            "goes on with the features' own directions: a gap of %.1e is above %.1e",
            float(found.gap.max()),
            tolerance,
        )
        start, data = found.weights, Blocks(features, seed, device)
    found = solve(data, loss, columns, tolerance, progress, start)
    return data.to_primal(found.weights).float().cpu().numpy(), found


def model_of(
    value: float,
    classes: Labels,
    weights: npt.NDArray[np.float32],
    columns: slice,
    certificate: dict[str, float],
    device: str,
) -> LinearModel:
    """The model in some columns of a solution [dims + 1, columns], whose last row is the intercept."""  # noqa: E501
    matrix = np.ascontiguousarray(weights[:-1, columns])
    return LinearModel(
        float(value), classes, matrix, weights[-1, columns].copy(), certificate, device
    )
