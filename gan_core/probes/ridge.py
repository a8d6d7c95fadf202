"""Ridge classification, the fastest probe: least squares on targets +1 and -1 with a squared
penalty, the intercept free.

1/2 |w|^2 + 1 / (2 alpha) sum_i (w.x_i + b - t_i)^2 per class, which has the solution of
scikit-learn's RidgeClassifier at the same alpha. One linear system for each class and alpha, all
solved together by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from gan_core.probes.base import Features, Labels, LinearModel, check_and_encode, one_vs_rest
from gan_core.probes.solver.fit import fit_values
from gan_core.progress import Progress, silent

ABOUT = "ridge classification (least squares on +1 and -1): the fastest probe"
VERSION = 2
TITLE = "ridge classification"
SETTING = "alpha"
GRID = [1.0, 10.0, 100.0, 1000.0, 10000.0]
ABOVE = 0.0  # values are above it
TOLERANCE = 1e-5


@dataclass
class SquaredLoss:
    """weight / 2 sum (m - t)^2 with a group for each column: targets t [groups, 1, rows] and
    weights [groups]. See `newton_cg.Loss`.
    """

    targets: Tensor
    weight: Tensor
    penalised: bool = False

    def value(self, margins: Tensor) -> Tensor:
        """[groups]"""
        return 0.5 * self.weight * (margins - self.targets).square_().sum((1, 2))

    def slope(self, margins: Tensor) -> Tensor:
        """weight (m - t)."""
        return (margins - self.targets).mul_(self.weight[:, None, None])

    def curvature(self, margins: Tensor) -> Callable[[Tensor], Tensor]:
        """The weight, everywhere."""
        return lambda change: change * self.weight[:, None, None]

    def mean_curvature(self, margins: Tensor) -> Tensor:
        """The weight, everywhere."""
        return self.weight[:, None]

    def select(self, groups: Tensor) -> SquaredLoss:
        """Some of the groups."""
        return SquaredLoss(self.targets[groups], self.weight[groups])


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
    classes, index = check_and_encode(features, labels)
    return fit_values(
        features,
        classes,
        one_vs_rest(classes, index),
        values,
        lambda targets, alpha: SquaredLoss(targets, 1 / alpha),
        tolerance,
        width=1,
        hinge=False,
        seed=seed,
        device=device,
        progress=progress,
    )
