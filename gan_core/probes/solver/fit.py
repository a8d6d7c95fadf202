"""From features and a loss to one fitted model for each value of a probe's setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gan_core.probes.base import Features, Labels, LinearModel, as_tensor
from gan_core.probes.solver.dual import Dual, is_dual, is_exact
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
    batch = max(1, MARGIN_BYTES // (4 * targets.numel()))
    models: list[LinearModel] = []
    for start in range(0, len(values), batch):
        some = [float(value) for value in values[start : start + batch]]
        shape = (len(some), columns) if joint else (len(some) * columns, 1)
        settings = torch.tensor(some, dtype=torch.float64, device=device)
        settings = settings.repeat_interleave(shape[0] // len(some))

        def of(kind: torch.dtype, settings: Tensor = settings) -> Loss:
            return loss(targets.to(kind), settings.to(kind))

        found = solve(source, of, shape, tolerance, seed, progress)
        models += split(found, some, classes, device)
    return models


def solve(
    source: Tensor,
    loss: Callable[[torch.dtype], Loss],
    shape: tuple[int, int],
    tolerance: float,
    seed: int,
    progress: Progress,
) -> Solution:
    """The weights of all groups and columns, float32.

    A small problem with fewer rows than dimensions is solved on the factor of its Gram matrix in
    float32 and certified on that factor in float64. A larger one may take as many iterations on
    the features as cost what its Gram matrix costs (rows / 4 products of one column); what is not
    solved by then is solved on the factor, and certified or corrected on the features.
    """
    primal = Primal(source, seed)
    start = torch.zeros(*shape, source.shape[1] + 1, device=source.device)
    if not is_exact(*source.shape):
        wide = is_dual(*source.shape)
        steps = max(1, len(source) // (4 * shape[0] * shape[1])) if wide else 0
        found = minimise(primal, loss(torch.float32), start, tolerance, progress, steps)
        if not wide or bool((found.gap <= tolerance).all()):
            return found
    dual = Dual(source)
    quick = Primal(dual.root.float(), seed)
    start = torch.zeros(*shape, len(source) + 1, device=source.device)
    near = minimise(quick, loss(torch.float32), start, 0.5 * tolerance, progress)
    small = dual.root.dtype == torch.float64
    exact = Primal(dual.root, seed) if small else primal
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
