"""From features and a loss to one fitted model for each value of a probe's setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gan_core.probes.base import Features, Labels, LinearModel, as_tensor
from gan_core.probes.solver.dual import EXACT_ROWS, is_dual, solve_hinge, solve_on_factor
from gan_core.probes.solver.newton_cg import Loss, Solution, minimise
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
    width: int,
    hinge: bool,
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
        loss: makes the loss of all groups from their targets ([groups, 1, rows], or the targets
            themselves where a group has all columns) and the value of each group.
        tolerance: largest relative gap of any group (see `newton_cg.Solution`).
        width: columns in a group: 1, or all of a value.
        hinge: whether the loss is the squared hinge, for which `dual.py` has exact steps.
    """
    source = as_tensor(features)
    # float64 features are float32 to the probes; a small Gram matrix is float64 by itself.
    source = (source.float() if source.dtype == torch.float64 else source).to(device)
    targets, values = targets.to(device), [float(value) for value in values]
    groups, steps, passes = len(targets) // width, 0, 0
    settings = torch.tensor(values, device=device).repeat_interleave(groups)

    def of_groups(settings: Tensor) -> Loss:
        repeated = targets.repeat(len(settings) // groups, 1)[:, None]
        return loss(repeated if width == 1 else targets, settings)

    start = torch.zeros(len(settings), width, source.shape[1] + 1, device=device)
    if is_dual(*source.shape):
        if hinge and len(source) <= EXACT_ROWS:
            return split(solve_hinge(source, targets, values, loss, tolerance), values, classes)
        found = solve_on_factor(
            source, of_groups(settings), len(settings), width, 0.5 * tolerance, seed
        )
        # The features certify it, or Newton's method continues on them.
        start, steps, passes = found.weights, found.newton_steps, found.cg_steps
    data, batch = Primal(source, seed), max(1, MARGIN_BYTES // (4 * targets.numel()))
    models: list[LinearModel] = []
    for low in range(0, len(values), batch):
        some = slice(low * groups, (low + batch) * groups)
        found = minimise(data, of_groups(settings[some]), start[some], tolerance, progress)
        found.newton_steps += steps
        found.cg_steps += passes
        models += split(found, values[low : low + batch], classes)
    return models


def split(found: Solution, values: Sequence[float], classes: Labels) -> list[LinearModel]:
    """A solution as one model for each value."""
    steps = {"iterations": float(found.newton_steps), "passes": float(2 * found.cg_steps)}
    parts = (found.weights.flatten(0, 1), found.objective, found.gap)
    models = []
    for value, matrix, objective, gap in zip(
        values, *(part.cpu().chunk(len(values)) for part in parts), strict=True
    ):
        weights, bias = matrix[:, :-1].T.contiguous(), matrix[:, -1].clone()
        certificate = {"objective": float(objective.sum()), "gap": float(gap.max()), **steps}
        device = str(found.weights.device)
        models.append(
            LinearModel(value, classes, weights.numpy(), bias.numpy(), certificate, device)
        )
    return models
