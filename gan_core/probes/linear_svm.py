"""The linear SVM of the DCGAN paper: liblinear's L2-regularised, squared-hinge, one-vs-rest SVM
with a penalised intercept.

Per class: 1/2 (|w|^2 + b^2) + C sum_i max(0, 1 - y_i (w.x_i + b))^2, the objective of
scikit-learn's LinearSVC with its defaults, which the authors used (svhn/svhn_semisup_analysis.py).
All classes and all values of C are solved together; the features stay float16. `certificate["gap"]`
bounds (objective - optimum), from duality, relative to the objective or, where that is smaller, to
what was won over no weights at all (at a tiny C most of the objective is the price of answering
nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gan_core.probes.base import Features, Labels, LinearModel, check_and_encode
from gan_core.probes.solver.design import COMPACT_ROWS
from gan_core.probes.solver.fit import linear_map, model_of, one_vs_rest, solved
from gan_core.probes.solver.gram import solve_gram
from gan_core.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = (
    "L2-SVM as in the DCGAN paper (LinearSVC's objective), all classes and all C at once, "
    "with a duality-gap certificate"
)
VERSION = 1
TITLE = "linear SVM"
SETTING = "C"
GRID = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
ABOVE = 0.0  # values are above it
TOLERANCE = 1e-4
MARGIN_BYTES = 2**29  # columns are solved in batches whose margins fit into this


@dataclass
class SquaredHinge:
    """C sum max(0, 1 - y m)^2 for columns with signs y [rows, P] (+1, -1) and weights C [P]. See
    `newton_cg.Loss`.
    """

    signs: Tensor
    cost: Tensor
    width: int = 1
    penalised: bool = True

    def _hinge(self, margins: Tensor) -> Tensor:
        return (1 - self.signs * margins).clamp_(min=0)

    def value(self, margins: Tensor) -> Tensor:
        """[P]"""
        return self.cost * self._hinge(margins).square_().sum(0)

    def slope(self, margins: Tensor) -> Tensor:
        """-2 C y hinge."""
        return self._hinge(margins).mul_(self.signs).mul_(-2 * self.cost)

    def curvature(self, margins: Tensor) -> Callable[[Tensor], Tensor]:
        """2 C on the rows inside the margin (the generalised second derivative)."""
        scale = (self.signs * margins < 1).to(margins.dtype).mul_(2 * self.cost)
        return lambda change: scale * change

    def mean_curvature(self, margins: Tensor) -> Tensor:
        """2 C times the share of rows inside the margin."""
        return 2 * self.cost * (self.signs * margins < 1).to(margins.dtype).mean(0)

    def select(self, groups: Tensor) -> SquaredHinge:
        """Some of the columns."""
        return SquaredHinge(self.signs[:, groups], self.cost[groups])


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
    """One SVM for each C in `values`.

    Args:
        features: float16 or float32 [rows, dims], used unscaled.
        labels: integers [rows], two classes or more.
        values: C, each > 0.
        seed: picks the rows behind the preconditioner; it moves the result within the tolerance
            only.
        tolerance: largest relative duality gap of any class at any C.

    Raises:
        DataError: no labels or one class only; shapes that do not match.
    """
    classes, index = check_and_encode(features, labels)
    signs = one_vs_rest(classes, index)
    if len(features) <= COMPACT_ROWS and len(features) < features.shape[1]:
        exact = solve_gram(
            features, signs.double(), [float(value) for value in values], tolerance, device
        )
        models = []
        for value, matrix, *figures in zip(
            values, exact.weights, exact.objective, exact.gap, exact.steps, strict=True
        ):
            certificate = dict(
                zip(("objective", "gap", "iterations"), map(float, figures), strict=True)
            )
            models.append(
                LinearModel(
                    float(value),
                    classes,
                    matrix[:-1].numpy(),
                    matrix[-1].numpy(),
                    certificate,
                    device,
                )
            )
        return models
    return _fit_together(features, classes, signs, values, seed, device, progress, tolerance)


def _fit_together(
    features: Features,
    classes: Labels,
    signs: Tensor,
    values: Sequence[float],
    seed: int,
    device: str,
    progress: Progress,
    tolerance: float,
) -> list[LinearModel]:
    """All classes and values in lock-step by Newton-CG. Args: signs: float32 [rows, columns], +1 or
    -1.
    """
    import torch

    columns = signs.shape[1]
    data = linear_map(features, seed, device, 2 * max(map(float, values)))
    kind = data.zeros(1).dtype
    signs = signs.to(device=device, dtype=kind)
    batch = max(1, MARGIN_BYTES // (signs.element_size() * max(signs.numel(), 1)))
    models: list[LinearModel] = []
    for start in range(0, len(values), batch):
        some = [float(value) for value in values[start : start + batch]]
        cost = torch.tensor(some, dtype=kind, device=device).repeat_interleave(columns)
        loss = SquaredHinge(signs.repeat(1, len(some)), cost)
        weights, found = solved(
            features,
            data,
            loss,
            len(some) * columns,
            tolerance,
            seed=seed,
            device=device,
            progress=progress,
        )
        for number, value in enumerate(some):
            part = slice(number * columns, (number + 1) * columns)
            certificate = {
                "objective": float(found.objective[part].sum()),
                "gap": float(found.gap[part].max()),
                "iterations": float(found.newton_steps),
                "passes": float(2 * found.cg_steps),
            }
            models.append(model_of(value, classes, weights, part, certificate, device))
    return models
