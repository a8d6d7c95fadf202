"""From features and a loss to one fitted model for each value of a probe's setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_core.probes.base import Features, Labels, LinearModel, as_tensor
from gan_core.probes.solver import dual
from gan_core.probes.solver.newton_cg import Loss, Solution, minimise
from gan_core.probes.solver.primal import Primal
from gan_core.progress import Progress

MARGIN_BYTES = 2**29  # values are solved in batches whose margins fit into this


def fit_values(
    features: Features,
    classes: Labels,
    targets: npt.NDArray[np.float32],
    values: Sequence[float],
    loss: Callable[[Tensor, Tensor], Loss],
    tolerance: float,
    *,
    width: int,
    hinge: bool,
    seed: int,
    device: str,
    progress: Progress,
) -> list[LinearModel]:
    """One model for each value, solved together.

    Args:
        features: float16, float32 or float64 [rows, dims].
        targets: float32 [columns, rows], what the columns of each value are fitted to.
        loss: makes the loss of all groups from their targets ([groups, 1, rows], or the targets
            themselves where a group has all columns) and the value of each group.
        tolerance: largest relative gap of any group (see `newton_cg.Solution`).
        width: columns in a group: 1, or all of a value.
        hinge: whether the loss is the squared hinge, for which `dual.py` has exact steps.
    """
    data, goal = Primal(as_tensor(features).to(device), seed), torch.from_numpy(targets).to(device)
    rows, dims = features.shape
    is_small = rows < dims and rows <= dual.EXACT_ROWS
    is_wide = dual.EXACT_ROWS < rows <= min(dual.CHOLESKY_ROWS, dual.CHOLESKY_SHARE * dims)

    def solve(values: Sequence[float]) -> Solution:
        settings = torch.tensor(values, device=device).repeat_interleave(len(goal) // width)
        repeated = goal.repeat(len(values), 1)[:, None]
        problem = loss(repeated if width == 1 else goal, settings)
        start = torch.zeros(len(settings), width, dims + 1, device=device)
        if is_small and hinge:
            return dual.solve_hinge(data.source, goal, values, loss, tolerance)
        if is_small:
            return dual.solve_on_eigenvectors(data, problem, start, tolerance)
        if not is_wide:
            return minimise(data, problem, start, tolerance, progress)
        near = dual.solve_on_cholesky(data, problem, start, 0.5 * tolerance)
        # The features certify it, or Newton's method continues on them.
        found = minimise(data, problem, near.weights, tolerance, progress)
        found.newton_steps += near.newton_steps
        found.cg_steps += near.cg_steps
        return found

    values, batch = list(map(float, values)), max(1, MARGIN_BYTES // (4 * goal.numel()))
    batches = [values[low : low + batch] for low in range(0, len(values), batch)]
    return [model for some in batches for model in split(solve(some), some, classes)]


def split(found: Solution, values: Sequence[float], classes: Labels) -> list[LinearModel]:
    """A solution as one model for each value."""
    steps = {"iterations": float(found.newton_steps), "passes": float(2 * found.cg_steps)}
    device, models = str(found.weights.device), []
    parts = (found.weights.flatten(0, 1), found.objective, found.gap)
    chunks = (part.cpu().chunk(len(values)) for part in parts)
    for value, matrix, objective, gap in zip(values, *chunks, strict=True):
        weights, bias = matrix[:, :-1].T.contiguous().numpy(), matrix[:, -1].clone().numpy()
        certificate = {"objective": float(objective.sum()), "gap": float(gap.max()), **steps}
        models.append(LinearModel(value, classes, weights, bias, certificate, device))
    return models
