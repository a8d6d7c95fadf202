"""From features and a loss to one fitted model for each value of a probe's setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gan_core.probes.base import Features, Labels, LinearModel, as_tensor
from gan_core.probes.solver.dual import Dual, is_dual
from gan_core.probes.solver.lbfgs import Loss, Solution, minimise
from gan_core.probes.solver.primal import Primal
from gan_core.progress import Progress

MARGIN_BYTES = 2**29  # values are solved in batches whose margins fit into this


def one_vs_rest(classes: Labels, index: Labels) -> Tensor:
    """Targets +1 (this class) and -1: float32 [classes, rows]; for two classes one row, +1 for the
    second.
    """
    wanted = torch.arange(1, 2) if len(classes) == 2 else torch.arange(len(classes))
    return torch.where(torch.from_numpy(index) == wanted[:, None], 1.0, -1.0)


def fit_values(
    features: Features,
    classes: Labels,
    targets: Tensor,
    values: Sequence[float],
    loss: Callable[[Tensor, Tensor], Loss],
    tolerance: float,
    *,
    joint: bool,
    seed: int,
    device: str,
    progress: Progress,
) -> list[LinearModel]:
    """One model for each value, solved together.

    Args:
        features: float16, float32 or float64 [rows, dims].
        classes: int64, ascending.
        targets: float32 [columns, rows], what the columns of each value are fitted to.
        values: the setting.
        loss: makes the loss of all groups from the targets and the value of each group.
        tolerance: largest relative gap of any group (see `lbfgs.Solution`).
        joint: whether the columns of a value are one group, or a group each.
    """
    source = as_tensor(features)
    # float64 features are float32 to the probes; a Gram matrix is float64 by itself.
    source = (source.float() if source.dtype == torch.float64 else source).to(device)
    targets = targets.to(device)
    columns = len(targets)
    dual = Dual(source) if is_dual(*source.shape) else None
    batch = max(1, MARGIN_BYTES // (4 * targets.numel()))
    models: list[LinearModel] = []
    for start in range(0, len(values), batch):
        some = [float(value) for value in values[start : start + batch]]
        shape = (len(some), columns) if joint else (len(some) * columns, 1)
        settings = torch.tensor(some, dtype=torch.float64, device=device)
        settings = settings.repeat_interleave(shape[0] // len(some))

        def of(kind: torch.dtype, settings: Tensor = settings) -> Loss:
            return loss(targets.to(kind), settings.to(kind))

        found = solve(source, dual, of, shape, tolerance, seed, progress)
        models += split(found, some, classes, device)
    return models


def solve(
    source: Tensor,
    dual: Dual | None,
    loss: Callable[[torch.dtype], Loss],
    shape: tuple[int, int],
    tolerance: float,
    seed: int,
    progress: Progress,
) -> Solution:
    """The weights of all groups and columns, float32.

    With a Gram matrix the problem is solved on its factor in float32, and from there on what is
    exact: the factor in float64 up to `EXACT_ROWS`, else the features. The second solution mostly
    certifies the first.
    """
    if dual is None:
        start = torch.zeros(*shape, source.shape[1] + 1, device=source.device)
        return minimise(Primal(source, seed), loss(torch.float32), start, tolerance, progress)
    start = torch.zeros(*shape, len(source) + 1, device=source.device)
    quick = Primal(dual.root.float(), seed)
    near = minimise(quick, loss(torch.float32), start, 0.5 * tolerance, progress)
    small = dual.root.dtype == torch.float64
    exact = Primal(dual.root if small else source, seed)
    start = near.weights.double() if small else dual.lift(near.weights)
    found = minimise(exact, loss(start.dtype), start, tolerance, progress)
    found.steps += near.steps
    if small:
        found.weights = dual.lift(found.weights)
    return found


def split(
    found: Solution, values: Sequence[float], classes: Labels, device: str
) -> list[LinearModel]:
    """A solution as one model for each value."""
    matrices = found.weights.flatten(0, 1).cpu().chunk(len(values))
    figures = [
        figure.cpu().chunk(len(values)) for figure in (found.objective, found.gap, found.steps)
    ]
    return [
        LinearModel(
            value,
            classes,
            np.ascontiguousarray(matrix[:, :-1].numpy().T),
            matrix[:, -1].numpy().copy(),
            {
                "objective": float(objective.sum()),
                "gap": float(gap.max()),
                "iterations": float(steps.max()),
            },
            device,
        )
        for value, matrix, objective, gap, steps in zip(values, matrices, *figures, strict=True)
    ]
