"""Many penalised linear problems solved together: preconditioned Newton-CG in lock-step, with a
bound on what is left.

All problems look at the same features, so one pass over them serves every class and every value of
C at once. A group is what is minimised jointly: one column for a one-vs-rest SVM, one column per
class for multinomial logistic regression. Groups that have converged leave the working set.

The bound costs nothing. For f(w) = 1/2 |w|^2 + sum of convex losses, f is 1-strongly convex, hence
f(w) - f* <= 1/2 |gradient|^2; for the L2-SVM this is exactly the duality gap at the dual point
alpha = 2 C hinge that the gradient is made of. An intercept that is not penalised adds an estimate
of what moving the intercept alone would win; with it the bound is no longer strict, and the parity
tests check it against solutions to high precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gan_core.probes.solver.design import LinearMap
from gan_core.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

MAX_NEWTON = 60
MAX_CG = 60
# share of open groups in a working set of conjugate gradients from which the closed ones leave it
CLOSED_OUT = 0.8
HARD_CG = 20  # steps for one direction from which a better preconditioner pays


class Loss(Protocol):
    """Sum over rows of a convex, once differentiable loss of the margins [rows, groups * width].

    `width` is the number of columns in a group; `penalised` says whether the intercept is part of
    the penalty.
    """

    width: int
    penalised: bool

    def value(self, margins: Tensor) -> Tensor:
        """Loss of each group, [groups]."""
        ...

    def slope(self, margins: Tensor) -> Tensor:
        """Derivative by the margins, same shape."""
        ...

    def curvature(self, margins: Tensor) -> Callable[[Tensor], Tensor]:
        """The second derivative at these margins as a map of a change of the margins."""
        ...

    def mean_curvature(self, margins: Tensor) -> Tensor:
        """One number per column that stands for the second derivative in the preconditioner,
        [groups * width].
        """
        ...

    def select(self, groups: Tensor) -> Loss:
        """The loss of some of the groups."""
        ...


@dataclass
class Solution:
    """Weights [dims + 1, P]; per group the objective, the relative gap bound and the passes that
    all groups shared.
    """

    weights: Tensor
    objective: Tensor
    gap: Tensor
    newton_steps: int
    cg_steps: int


class _Groups:
    """Sums and products per group of `width` neighbouring columns."""

    def __init__(self, width: int) -> None:
        self.width = width

    def total(self, columns: Tensor) -> Tensor:
        """[P] -> [groups]."""
        return columns if self.width == 1 else columns.view(-1, self.width).sum(1)

    def expand(self, groups: Tensor) -> Tensor:
        """[groups] -> [P]."""
        return groups if self.width == 1 else groups.repeat_interleave(self.width)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products per group of two [*, P]."""
        import torch

        return self.total(torch.einsum("ij,ij->j", a, b))

    def columns(self, groups: Tensor) -> Tensor:
        """Indices of the columns of some groups."""
        import torch

        if self.width == 1:
            return groups
        return (
            groups[:, None] * self.width + torch.arange(self.width, device=groups.device)
        ).reshape(-1)


def solve(
    data: LinearMap,
    loss: Loss,
    columns: int,
    tolerance: float,
    progress: Progress = silent,
    start: Tensor | None = None,
    max_steps: int = MAX_NEWTON,
) -> Solution:
    """Minimises 1/2 |w|^2 + loss(Xw) for `columns` columns until each group's gap is below
    tolerance x its objective.

    Args:
        data: the rows; its dtype and device are those of the result.
        loss: see `Loss`.
        columns: groups x width.
        tolerance: relative gap at which a group is done. In float32 some 1e-6 can be reached, in
            float64 1e-10.
        progress: listed the number of groups done.
        start: weights to begin with; default zeros.
        max_steps: Newton steps at most.
    """
    import torch

    sums = _Groups(loss.width)
    total = columns // loss.width
    final = data.zeros(columns) if start is None else start.clone()
    objective = final.new_full((total,), float("inf"))
    begin = loss.value(final.new_zeros(data.rows, columns))
    gaps, previous, before = objective.clone(), objective.clone(), objective.clone()
    active, hard = (
        torch.arange(total, device=final.device),
        torch.zeros(total, dtype=torch.bool, device=final.device),
    )
    weights, part = final.clone(), loss
    margins = final.new_zeros(data.rows, columns) if start is None else data.times(start)
    steps = inner = 0
    while True:
        slope = part.slope(margins)
        gradient = data.transposed(slope) + _penalty(weights, part)
        value = 0.5 * sums.dot(_penalty(weights, part), weights) + part.value(margins)
        # Relative to the smaller of the objective and of what has been won over no weights at all:
        # at a tiny C the second is
        # a small part of the first, and the answers depend on it.
        scale = torch.minimum(value, begin[active] - value).clamp(min=torch.finfo(value.dtype).tiny)
        gap = _gap(data.rows, part, sums, margins, gradient) / scale
        # Where the numbers ran out of float32's range, the iterate before it and its gap are the
        # answer.
        sound = torch.isfinite(value) & ~torch.isnan(gap)
        final[:, sums.columns(active[sound])] = weights[:, sums.columns(sound.nonzero()[:, 0])]
        objective[active[sound]], gaps[active[sound]] = value[sound], gap[sound]
        keep = sound & (gap > tolerance)
        progress(total - int(keep.sum()), total, "problems", gap=float(gaps.max()))
        if not bool(keep.any()) or steps >= max_steps:
            break
        stalled = bool((gap[keep] > 0.5 * previous[keep]).all()) and not data.drop_approximation()
        if stalled and bool((value[keep] >= before[keep] * (1 - 1e-7)).all()):
            # exact directions, and no progress by the objective either: the rounding of float32 is
            # reached
            break
        if not bool(keep.all()):
            chosen = keep.nonzero()[:, 0]
            picked = sums.columns(chosen)
            active, part = active[chosen], part.select(chosen)
            weights, margins, gradient = weights[:, picked], margins[:, picked], gradient[:, picked]
            gap, value = gap[chosen], value[chosen]
        previous, before = gap, value
        direction, used, hard[active] = _direction(
            data, part, sums, margins, gradient, tolerance / gap, hard[active]
        )
        change = data.times(direction)
        length = sums.expand(_line(part, sums, weights, direction, margins, change))
        weights, margins = weights + length * direction, margins + length * change
        steps, inner = steps + 1, inner + used
    return Solution(final, objective, gaps, steps, inner)


def _penalty(weights: Tensor, loss: Loss) -> Tensor:
    """Gradient of the penalty: the weights, with 0 for an intercept that is free."""
    if loss.penalised:
        return weights
    import torch

    return torch.cat([weights[:-1], torch.zeros_like(weights[-1:])])


def _gap(rows: int, loss: Loss, sums: _Groups, margins: Tensor, gradient: Tensor) -> Tensor:
    """Bound on f(w) - f* per group."""
    if loss.penalised:
        return 0.5 * sums.dot(gradient, gradient)
    bound = 0.5 * sums.dot(gradient[:-1], gradient[:-1])
    # The free intercept: twice the Newton decrement by the diagonal of its Hessian, twice because
    # the columns of a softmax
    # are coupled (equal shifts of all are free), which the diagonal does not see.
    curvature_of = loss.mean_curvature(margins) * rows
    return bound + sums.total(gradient[-1] ** 2 / curvature_of.clamp(min=1e-12))


def _direction(
    data: LinearMap,
    loss: Loss,
    sums: _Groups,
    margins: Tensor,
    gradient: Tensor,
    reach: Tensor,
    hard: Tensor,
) -> tuple[Tensor, int, Tensor]:
    """Newton directions by preconditioned conjugate gradients, the steps it took, and which groups
    found it hard.

    Each group stops at a residual of min(0.1, what brings the gap below the tolerance at once),
    relative to the gradient. Stopped groups leave the working set. Those still open after HARD_CG
    steps begin again with the better preconditioner, if there is one, and have it from then on.
    """
    import torch

    gradient = data.to_dual(gradient)
    curvature_of, mean = loss.curvature(margins), loss.mean_curvature(margins)
    goal = (0.3 * reach.clamp(max=1).sqrt()).clamp(min=0.02, max=0.1) ** 2 * sums.dot(
        gradient, gradient
    )
    whole, all_hard = torch.zeros_like(gradient), hard.clone()
    held = torch.arange(len(hard), device=hard.device)  # the groups in the working set
    step, residual = torch.zeros_like(gradient), -gradient
    vector = data.precondition(residual, mean, sums.expand(hard))
    search, strength = vector.clone(), sums.dot(residual, vector)
    for count in range(1, MAX_CG + 1):
        product = _penalty(search, loss) + data.approximate_transposed(
            curvature_of(data.approximate_times(search))
        )
        below = sums.dot(search, product)
        alpha = torch.where(
            below > 0,
            strength / below.clamp(min=torch.finfo(below.dtype).tiny),
            torch.zeros_like(below),
        )
        open_ = sums.dot(residual, residual) > goal
        alpha = sums.expand(torch.where(open_, alpha, torch.zeros_like(alpha)))
        step += alpha * search
        residual -= alpha * product
        open_ = sums.dot(residual, residual) > goal
        if not bool(open_.any()):
            break
        if float(open_.float().mean()) <= CLOSED_OUT:
            chosen = open_.nonzero()[:, 0]
            picked = sums.columns(chosen)
            whole[:, sums.columns(held)] = step
            held, goal, strength, hard, open_ = (
                held[chosen],
                goal[chosen],
                strength[chosen],
                hard[chosen],
                open_[chosen],
            )
            mean, loss, margins = mean[picked], loss.select(chosen), margins[:, picked]
            step, residual, search = step[:, picked], residual[:, picked], search[:, picked]
            curvature_of = loss.curvature(margins)
        again = (
            open_ & ~hard
            if count == HARD_CG and data.refine_preconditioner()
            else torch.zeros_like(hard)
        )
        hard = hard | again
        all_hard[held] = hard
        vector = data.precondition(residual, mean, sums.expand(hard))
        fresh = sums.dot(residual, vector)
        turn = torch.where(
            again,
            torch.zeros_like(fresh),
            fresh / strength.clamp(min=torch.finfo(fresh.dtype).tiny),
        )
        search = vector + sums.expand(turn) * search
        strength = fresh
    whole[:, sums.columns(held)] = step
    return data.from_dual(whole), count, all_hard


def _line(
    loss: Loss, sums: _Groups, weights: Tensor, direction: Tensor, margins: Tensor, change: Tensor
) -> Tensor:
    """Step length per group: the minimum along the direction, by a guarded Newton iteration in one
    dimension.

    No pass over the features: the margins change by `change` for a step of 1.
    """
    import torch

    penalty = _penalty(direction, loss)
    linear, square = sums.dot(penalty, weights), sums.dot(penalty, direction)
    low, high = torch.zeros_like(linear), torch.full_like(linear, float("inf"))
    length = torch.ones_like(linear)
    first = linear + sums.dot(loss.slope(margins), change)
    for _ in range(20):
        here = margins + sums.expand(length) * change
        slope = linear + length * square + sums.dot(loss.slope(here), change)
        if bool((slope.abs() <= 1e-2 * first.abs()).all()):
            break
        curvature_of = square + sums.dot(change, loss.curvature(here)(change))
        low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
        newton = length - slope / curvature_of.clamp(min=torch.finfo(curvature_of.dtype).tiny)
        between = torch.where(torch.isinf(high), 2 * length, 0.5 * (low + high))
        length = torch.where((newton > low) & (newton < high), newton, between)
    return length
