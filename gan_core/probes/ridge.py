"""Ridge classification, the fastest probe: least squares on targets +1 and -1 with a squared
penalty, the intercept free.

1/2 |w|^2 + 1 / (2 alpha) sum_i (w.x_i + b - t_i)^2 per class, which has the solution of
scikit-learn's RidgeClassifier at the same alpha. One linear system for each class and alpha, all
solved together by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gan_core.probes.base import Features, Labels, LinearModel
from gan_core.probes.solver.fit import model_of, one_vs_rest, prepare_linear, solved
from gan_core.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = "ridge classification (least squares on +1 and -1): the fastest probe"
VERSION = 1
TITLE = "ridge classification"
SETTING = "alpha"
GRID = [1.0, 10.0, 100.0, 1000.0, 10000.0]
ABOVE = 0.0  # values are above it
TOLERANCE = 1e-5


@dataclass
class SquaredLoss:
    """weight / 2 sum (m - t)^2 for columns with targets t [rows, P] and weights [P]. See
    `newton_cg.Loss`.
    """

    targets: Tensor
    weight: Tensor
    width: int = 1
    penalised: bool = False

    def value(self, margins: Tensor) -> Tensor:
        """[P]"""
        return 0.5 * self.weight * (margins - self.targets).square_().sum(0)

    def slope(self, margins: Tensor) -> Tensor:
        """weight (m - t)."""
        return (margins - self.targets).mul_(self.weight)

    def curvature(self, margins: Tensor) -> Callable[[Tensor], Tensor]:
        """The weight, everywhere."""
        return lambda change: change * self.weight

    def mean_curvature(self, margins: Tensor) -> Tensor:
        """The weight, everywhere."""
        return self.weight

    def select(self, groups: Tensor) -> SquaredLoss:
        """Some of the columns."""
        return SquaredLoss(self.targets[:, groups], self.weight[groups])


def fit(
    features: Features,
    labels: Labels,
    values: Sequence[float] = tuple(GRID),
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
    tolerance: float = TOLERANCE,
) -> list[LinearModel]:
    """One model for each alpha in `values` (> 0); arguments and errors as in `linear_svm.fit`."""
    import torch

    classes, index, data, kind = prepare_linear(
        features, labels, seed, device, 1 / min(map(float, values))
    )
    targets = one_vs_rest(classes, index).to(device=device, dtype=kind)
    columns = targets.shape[1]
    weight = (
        1 / torch.tensor([float(value) for value in values], dtype=kind, device=device)
    ).repeat_interleave(columns)
    loss = SquaredLoss(targets.repeat(1, len(values)), weight)
    width = len(values) * columns
    weights, found = solved(
        features, data, loss, width, tolerance, seed=seed, device=device, progress=progress
    )
    models = []
    for number, value in enumerate(values):
        part = slice(number * columns, (number + 1) * columns)
        certificate = {
            "objective": float(found.objective[part].sum()),
            "gap": float(found.gap[part].max()),
        }
        models.append(model_of(value, classes, weights, part, certificate, device))
    return models
