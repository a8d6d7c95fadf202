"""Multinomial logistic regression with a squared penalty on the weights, as scikit-learn's
LogisticRegression states it.

1/2 |W|^2 + C sum_i -log softmax(W x_i + b)[y_i], the intercept free. Solved for all C together by
the same Newton-CG as the SVM; `certificate["gap"]` bounds the distance to the optimum relative to
what was won over no weights at all: half the squared gradient by the weights (strong convexity),
plus an estimate for the free intercept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gan_core.probes.base import Features, Labels, LinearModel, check_and_encode
from gan_core.probes.solver.fit import fit_values
from gan_core.progress import Progress, silent

ABOUT = "multinomial logistic regression with an L2 penalty, all C at once"
VERSION = 2
TITLE = "logistic regression"
SETTING = "C"
GRID = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
ABOVE = 0.0  # values are above it
TOLERANCE = 1e-5


@dataclass
class SoftmaxLoss:
    """C sum -log softmax(m)[y] with a group for each C: truth [classes, rows] one-hot, C [groups].
    See `newton_cg.Loss`.
    """

    truth: Tensor
    cost: Tensor
    penalised: bool = False

    def value(self, margins: Tensor) -> Tensor:
        """[groups]"""
        own = (margins * self.truth).sum(1)
        return self.cost * (margins.logsumexp(1) - own).sum(1)

    def slope(self, margins: Tensor) -> Tensor:
        """C (softmax - one-hot)."""
        return margins.softmax(1).sub_(self.truth).mul_(self.cost[:, None, None])

    def curvature(self, margins: Tensor) -> Callable[[Tensor], Tensor]:
        """C (diag(p) - p p')."""
        shares = margins.softmax(1)
        scaled = shares * self.cost[:, None, None]
        return lambda change: scaled * (change - (shares * change).sum(1, keepdim=True))

    def mean_curvature(self, margins: Tensor) -> Tensor:
        """C times the mean of p (1 - p)."""
        shares = margins.softmax(1)
        return (shares * (1 - shares)).mean(2) * self.cost[:, None]

    def select(self, groups: Tensor) -> SoftmaxLoss:
        """Some of the groups."""
        return SoftmaxLoss(self.truth, self.cost[groups])


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
    """One model for each C in `values`; arguments and errors as in `linear_svm.fit`. Two classes
    have two columns.
    """
    classes, index = check_and_encode(features, labels)
    truth = (index == np.arange(len(classes))[:, None]).astype(np.float32)
    return fit_values(
        features,
        classes,
        truth,
        values,
        SoftmaxLoss,
        tolerance,
        width=len(classes),
        hinge=False,
        seed=seed,
        device=device,
        progress=progress,
    )
