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

from torch import Tensor

from gan_core.probes.base import Features, Labels, LinearModel, check_and_encode, one_vs_rest
from gan_core.probes.solver.fit import fit_values
from gan_core.progress import Progress, silent

ABOUT = (
    "L2-SVM as in the DCGAN paper (LinearSVC's objective), all classes and all C at once, "
    "with a duality-gap certificate"
)
VERSION = 2
TITLE = "linear SVM"
SETTING = "C"
GRID = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
ABOVE = 0.0  # values are above it
TOLERANCE = 1e-4


@dataclass
class SquaredHinge:
    """C sum max(0, 1 - y m)^2 with a group for each column: signs y (+1, -1) [groups, 1, rows] and
    C [groups]. See `newton_cg.Loss`.
    """

    signs: Tensor
    cost: Tensor
    penalised: bool = True

    def _hinge(self, margins: Tensor) -> Tensor:
        return (1 - self.signs * margins).clamp_(min=0)

    def value(self, margins: Tensor) -> Tensor:
        """[groups]"""
        return self.cost * self._hinge(margins).square_().sum((1, 2))

    def slope(self, margins: Tensor) -> Tensor:
        """-2 C y hinge."""
        return self._hinge(margins).mul_(self.signs).mul_(-2 * self.cost[:, None, None])

    def curvature(self, margins: Tensor) -> Callable[[Tensor], Tensor]:
        """2 C on the rows inside the margin (the generalised second derivative)."""
        scale = (self.signs * margins < 1).to(margins.dtype).mul_(2 * self.cost[:, None, None])
        return lambda change: scale * change

    def mean_curvature(self, margins: Tensor) -> Tensor:
        """2 C times the share of rows inside the margin."""
        return 2 * self.cost[:, None] * (self.signs * margins < 1).to(margins.dtype).mean(2)

    def select(self, groups: Tensor) -> SquaredHinge:
        """Some of the groups."""
        return SquaredHinge(self.signs[groups], self.cost[groups])


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
    return fit_values(
        features,
        classes,
        one_vs_rest(classes, index),
        values,
        SquaredHinge,
        tolerance,
        width=1,
        hinge=True,
        seed=seed,
        device=device,
        progress=progress,
    )
