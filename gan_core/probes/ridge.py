"""Ridge classification: least squares on targets +1 and -1 with a squared penalty, the intercept
free; the quickest of the linear probes.

1/2 |w|^2 + 1 / (2 alpha) sum_i (w.x_i + b - t_i)^2 per class, which has the solution of
scikit-learn's RidgeClassifier at the same alpha. All classes and all values of alpha are solved
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gan_core.config import Section
from gan_core.probes.base import Features, Labels, LinearModel, check_and_encode
from gan_core.probes.solver.fit import fit_values, one_vs_rest
from gan_core.probes.solver.lbfgs import Evaluation
from gan_core.progress import Progress, silent

ABOUT = "ridge classification: least squares on +1 and -1, the quickest linear probe"
VERSION = 2
TITLE = "ridge classification"
SETTING = "alpha"
GRID = [1.0, 10.0, 100.0, 1000.0, 10000.0]
ABOVE = 0.0  # values are above it
TOLERANCE = 1e-5


class Options(Section):
    """None."""


@dataclass
class SquaredLoss:
    """weight / 2 sum (m - t)^2 with a group for each column: targets t [groups, 1, rows] and
    weights [groups]. See `lbfgs.Loss`.
    """

    targets: Tensor
    weight: Tensor
    penalised: bool = False

    def evaluate(self, margins: Tensor) -> Evaluation:
        """Its curvature is the weight, everywhere."""
        rest = margins - self.targets
        value = 0.5 * self.weight * rest.square().sum((1, 2))
        return Evaluation(value, rest.mul_(self.weight[:, None, None]), self.weight[:, None])

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

    targets = one_vs_rest(classes, index)

    def loss(targets: Tensor, alpha: Tensor) -> SquaredLoss:
        return SquaredLoss(targets.repeat(len(alpha) // len(targets), 1)[:, None], 1 / alpha)

    return fit_values(
        features,
        classes,
        targets,
        values,
        loss,
        tolerance,
        joint=False,
        seed=seed,
        device=device,
        progress=progress,
    )
