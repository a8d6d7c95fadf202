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
from typing import TYPE_CHECKING

from gan_core.probes.base import Features, Labels, LinearModel
from gan_core.probes.solver.fit import model_of, prepare_linear, solved
from gan_core.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = "multinomial logistic regression with an L2 penalty, all C at once"
VERSION = 1
TITLE = "logistic regression"
SETTING = "C"
GRID = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
ABOVE = 0.0  # values are above it
TOLERANCE = 1e-5
MARGIN_BYTES = 2**28


@dataclass
class SoftmaxLoss:
    """C sum -log softmax(m)[y] for groups of `width` columns; truth [rows, width] one-hot, cost
    [groups]. See `newton_cg.Loss`.
    """

    truth: Tensor
    cost: Tensor
    width: int
    penalised: bool = False

    def _grouped(self, margins: Tensor) -> Tensor:
        return margins.view(len(margins), -1, self.width)

    def value(self, margins: Tensor) -> Tensor:
        """[groups]"""
        grouped = self._grouped(margins)
        own = (grouped * self.truth[:, None]).sum(2)
        return self.cost * (grouped.logsumexp(2) - own).sum(0)

    def slope(self, margins: Tensor) -> Tensor:
        """C (softmax - one-hot)."""
        return (
            (self._grouped(margins).softmax(2) - self.truth[:, None]) * self.cost[:, None]
        ).view_as(margins)

    def curvature(self, margins: Tensor) -> Callable[[Tensor], Tensor]:
        """C (diag(p) - p p')."""
        shares = self._grouped(margins).softmax(2)
        scaled = shares * self.cost[:, None]

        def curvature_of(change: Tensor) -> Tensor:
            grouped = self._grouped(change)
            return (scaled * (grouped - (shares * grouped).sum(2, keepdim=True))).view_as(change)

        return curvature_of

    def mean_curvature(self, margins: Tensor) -> Tensor:
        """C times the mean of p (1 - p), per column."""
        shares = self._grouped(margins).softmax(2)
        return ((shares * (1 - shares)).mean(0) * self.cost[:, None]).reshape(-1)

    def select(self, groups: Tensor) -> SoftmaxLoss:
        """Some of the values of C."""
        return SoftmaxLoss(self.truth, self.cost[groups], self.width)


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
    import torch

    classes, index, data, kind = prepare_linear(
        features, labels, seed, device, 0.5 * max(map(float, values))
    )
    width = len(classes)
    truth = torch.nn.functional.one_hot(torch.from_numpy(index), width).to(
        device=device, dtype=kind
    )
    batch = max(1, MARGIN_BYTES // (truth.element_size() * max(truth.numel(), 1)))
    models: list[LinearModel] = []
    for start in range(0, len(values), batch):
        some = [float(value) for value in values[start : start + batch]]
        loss = SoftmaxLoss(truth, torch.tensor(some, dtype=kind, device=device), width)
        weights, found = solved(
            features,
            data,
            loss,
            len(some) * width,
            tolerance,
            seed=seed,
            device=device,
            progress=progress,
        )
        for number, value in enumerate(some):
            part = slice(number * width, (number + 1) * width)
            certificate = {
                "objective": float(found.objective[number]),
                "gap": float(found.gap[number]),
                "iterations": float(found.newton_steps),
                "passes": float(2 * found.cg_steps),
            }
            models.append(model_of(value, classes, weights, part, certificate, device))
    return models
