"""Small L2-SVMs by Newton's method on the Gram matrix, each step solved exactly (Chapelle 2007,
Neural Computation 19:1155).

With fewer rows than dimensions the weights are X' beta, and a Newton step is one Cholesky
factorisation over the rows inside the margin. Values of C are taken in ascending order, each class
starting from its solution at the value before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gan_core.probes.base import Features, as_tensor

if TYPE_CHECKING:
    from torch import Tensor

MAX_STEPS = 50


@dataclass
class GramSolution:
    """Per value (in the order asked for) and per column: weights [dims + 1, columns] float32,
    objective, gap, steps.
    """

    weights: list[Tensor]
    objective: list[float]
    gap: list[float]
    steps: list[int]


def gram_of(features: Features, device: str) -> Tensor:
    """Inner products of all rows, float64 [rows, rows] on the CPU; the features are converted a
    block of columns at a time.
    """
    import torch

    rows, dims = features.shape
    gram = torch.zeros(rows, rows, dtype=torch.float64, device=device)
    step = columns_per_block(rows)
    for start in range(0, dims, step):
        block = as_tensor(features[:, start : start + step]).to(device).double()
        gram.addmm_(block, block.T)
    return gram.cpu()


def columns_per_block(rows: int) -> int:
    """Columns of float64 [rows, *] in 128 MiB, at least 256."""
    return max(256, 2**27 // (8 * max(rows, 1)))


def back(features: Features, beta: Tensor, device: str) -> Tensor:
    """Weights and intercepts [dims + 1, columns] float32 from coefficients float64 [rows, columns]."""  # noqa: E501
    import torch

    step = columns_per_block(len(features))
    inner = beta.to(device)
    parts = []
    for start in range(0, features.shape[1], step):
        block = as_tensor(features[:, start : start + step]).to(device).double()
        parts.append((block.T @ inner).float().cpu())
    return torch.cat([*parts, beta.sum(0, keepdim=True).float()])


def solve_gram(
    features: Features, signs: Tensor, values: Sequence[float], tolerance: float, device: str
) -> GramSolution:
    """Solves every column of `signs` (+1, -1; float64 [rows, columns] on the CPU) at every C of
    `values`.
    """
    import torch

    gram = gram_of(features, device) + 1.0  # the intercept is the weight of a constant feature 1
    columns = signs.shape[1]
    beta, margins = torch.zeros_like(signs), torch.zeros_like(signs)
    made: dict[float, tuple[Tensor, float, float, int]] = {}
    for cost in sorted(set(values)):
        whole: Tensor | None = None
        total, worst, most = 0.0, 0.0, 0
        for column in range(columns):
            found = _Column(
                gram, signs[:, column], cost, beta[:, column], margins[:, column], whole
            )
            objective, gap, steps = found.run(tolerance)
            beta[:, column], margins[:, column], whole = found.beta, found.margins, found.whole
            total, worst, most = total + objective, max(worst, gap), max(most, steps)
        made[cost] = (back(features, beta, device), total, worst, most)
    weights, objectives, gaps, steps_ = zip(*(made[value] for value in values), strict=True)
    return GramSolution(list(weights), list(objectives), list(gaps), list(steps_))


class _Column:
    """One SVM. `whole` is the factor over all rows, shared by the columns at one C."""

    def __init__(
        self,
        gram: Tensor,
        sign: Tensor,
        cost: float,
        beta: Tensor,
        margins: Tensor,
        whole: Tensor | None,
    ) -> None:
        self.gram, self.sign, self.cost = gram, sign, cost
        self.beta, self.margins, self.whole = beta.clone(), margins.clone(), whole

    def run(self, tolerance: float) -> tuple[float, float, int]:
        """Objective, relative gap and steps."""
        start = self.cost * len(self.sign)
        for step in range(MAX_STEPS + 1):
            hinge = (1 - self.sign * self.margins).clamp_(min=0)
            value = float(0.5 * self.beta @ self.margins + self.cost * hinge @ hinge)
            rest = self.beta - 2 * self.cost * self.sign * hinge
            gap = float(0.5 * rest @ (self.gram @ rest)) / max(min(value, start - value), 1e-300)
            if gap <= tolerance or step == MAX_STEPS:
                break
            self._step(hinge > 0)
        return value, gap, step

    def _step(self, inside: Tensor) -> None:
        """To the minimum of the piece of the objective that the rows inside the margin make, or as
        far as pays.
        """
        import torch

        rows = inside.nonzero()[:, 0]
        if len(rows) == len(self.sign):
            if self.whole is None:
                self.whole = self._factor(self.gram)
            factor, columns = self.whole, self.gram
        else:
            columns = self.gram[:, rows]
            factor = self._factor(columns[rows])
        solved = torch.cholesky_solve(self.sign[rows, None], factor)[:, 0]
        goal = torch.zeros_like(self.beta)
        goal[rows] = solved
        way, change = goal - self.beta, columns @ solved - self.margins
        length = self._length(way, change)
        self.beta += length * way
        self.margins += length * change

    def _factor(self, gram: Tensor) -> Tensor:
        import torch

        ridge = gram.clone()
        ridge.diagonal().add_(1 / (2 * self.cost))
        factor: Tensor = torch.linalg.cholesky(ridge)
        return factor

    def _length(self, way: Tensor, change: Tensor) -> float:
        """Exact minimum along the way: the derivative is piecewise linear and rising."""
        linear, square = float(self.beta @ change), float(way @ change)
        low, high, length, first = 0.0, float("inf"), 1.0, 0.0
        for attempt in range(30):
            hinge = (1 - self.sign * (self.margins + length * change)).clamp_(min=0)
            pull = self.sign * change
            slope = linear + length * square - 2 * self.cost * float(hinge @ pull)
            first = max(first, abs(slope)) if attempt == 0 else first
            curvature_of = square + 2 * self.cost * float(((hinge > 0) * pull) @ pull)
            if abs(slope) <= 1e-6 * max(abs(linear), first, 1e-300) or curvature_of <= 0:
                break
            low, high = (length, high) if slope < 0 else (low, length)
            newton = length - slope / curvature_of
            length = (
                newton
                if low < newton < high
                else (2 * length if high == float("inf") else 0.5 * (low + high))
            )
        return length
