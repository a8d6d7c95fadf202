"""Many penalised linear problems minimised together: Newton's method, its directions by
preconditioned conjugate gradients, with a bound on what is left (Nocedal and Wright, Numerical
Optimization, 2006, algorithm 7.1; Lin, Weng and Keerthi 2008, JMLR 9:627).

A problem is f(w) = 1/2 |w|^2 + loss(X w). All problems have the same features, so one product
with X serves every class and every value of C. A group is what is minimised jointly: one column for
a one-vs-rest SVM, one column per class for multinomial logistic regression. Groups that have
converged leave the working set.

The bound costs nothing. f is 1-strongly convex, hence f(w) - f* <= 1/2 |gradient|^2; for the L2-SVM
this is exactly the duality gap at the dual point alpha = 2 C hinge that the gradient is made of. An
intercept that is not penalised adds an estimate of what moving it alone would win; the parity tests
check that one against solutions to high precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gan_core.probes.solver.primal import Primal
from gan_core.progress import Progress, silent

MAX_NEWTON = 60
MAX_CG = 60
HARD_CG = 20  # steps for one direction from which a better preconditioner pays


class Loss(Protocol):
    """Sum over rows of a convex, once differentiable loss of the margins [groups, width, rows]."""

    penalised: bool  # whether the intercept is part of the penalty

    def value(self, margins: Tensor) -> Tensor:
        """Loss of each group, [groups]."""

    def slope(self, margins: Tensor) -> Tensor:
        """Derivative by the margins, same shape."""

    def curvature(self, margins: Tensor) -> Callable[[Tensor], Tensor]:
        """The second derivative at these margins, as a map of a change of the margins."""

    def mean_curvature(self, margins: Tensor) -> Tensor:
        """Mean over the rows of the second derivative's diagonal, [groups, width]."""

    def select(self, groups: Tensor) -> Loss:
        """The loss of some of the groups."""


@dataclass
class Solution:
    """What `minimise` returns. The gap is the bound on f - f*, relative to the smaller of the
    objective and of what was won over no weights at all: at a tiny C the second is a small part of
    the first.
    """

    weights: Tensor  # [groups, width, dims + 1], the last value the intercept
    objective: Tensor  # [groups]
    gap: Tensor  # [groups]
    newton_steps: int = 0  # of all groups together
    cg_steps: int = 0  # of all groups together; each is two products with the features


def minimise(
    data: Primal, loss: Loss, start: Tensor, tolerance: float, progress: Progress = silent
) -> Solution:
    """Minimises 1/2 |w|^2 + loss(Xw) until each group's gap is at most the tolerance.

    Args:
        start: weights to begin with, [groups, width, dims + 1].
        tolerance: relative gap at which a group is done; some 1e-6 can be reached.
        progress: receives the number of groups done.
    """
    zero = loss.value(start.new_zeros(*start.shape[:2], data.rows))
    final = Solution(start.clone(), zero + torch.inf, zero + torch.inf)
    active, weights = torch.arange(len(start), device=start.device), start
    margins = data.times(start)
    last_gap, last_value = zero + torch.inf, zero + torch.inf
    while True:
        gradient = data.transposed(loss.slope(margins)) + penalty_slope(loss, weights)
        value = 0.5 * dot(penalty_slope(loss, weights), weights) + loss.value(margins)
        gap = relative(gap_bound(data, loss, margins, gradient), value, zero[active])
        # Where float32's range is exceeded, the iterate before it and its gap are the answer.
        sound = torch.isfinite(value) & ~gap.isnan()
        final.weights[active[sound]] = weights[sound]
        final.objective[active[sound]], final.gap[active[sound]] = value[sound], gap[sound]
        going = sound & (gap > tolerance)
        progress(len(start) - int(going.sum()), len(start), "problems", gap=float(final.gap.max()))
        if not bool(going.any()) or final.newton_steps == MAX_NEWTON:
            return final
        stalled = bool((gap[going] > 0.5 * last_gap[going]).all()) and not data.leave_bf16()
        if stalled and bool((value[going] >= last_value[going] * (1 - 1e-7)).all()):
            return final  # exact directions and no progress: this is the rounding
        active, loss = active[going], loss.select(going)
        weights, margins = weights[going], margins[going]
        gradient, last_gap, last_value = gradient[going], gap[going], value[going]
        direction, steps = newton_direction(data, loss, margins, gradient, tolerance / last_gap)
        change, penalty = data.times(direction), penalty_slope(loss, direction)
        linear, square = dot(penalty, weights), dot(penalty, direction)
        length = line_search(loss, linear, square, margins, change)[:, None, None]
        weights, margins = weights + length * direction, margins + length * change
        final.newton_steps, final.cg_steps = final.newton_steps + 1, final.cg_steps + steps


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per group, [groups]."""
    return (a * b).sum((1, 2))


def relative(gap: Tensor, value: Tensor, zero: Tensor | float) -> Tensor:
    """A gap divided by the smaller of the objective and of what was won over its value at 0."""
    scale = torch.minimum(value, zero - value)
    return gap / scale.clamp(min=torch.finfo(value.dtype).tiny)


def penalty_slope(loss: Loss, weights: Tensor) -> Tensor:
    """Gradient of the penalty: the weights, with 0 for an intercept that is free."""
    if loss.penalised:
        return weights
    return torch.cat([weights[..., :-1], torch.zeros_like(weights[..., -1:])], 2)


def gap_bound(data: Primal, loss: Loss, margins: Tensor, gradient: Tensor) -> Tensor:
    """Bound on f(w) - f* per group."""
    if loss.penalised:
        return 0.5 * dot(gradient, gradient)
    # A free intercept is all but uncoupled from the weights of centred features; its own part is
    # twice the Newton decrement, as the equal shifts of all columns of a softmax are free.
    curvature = (loss.mean_curvature(margins) * data.rows).clamp(min=1e-12)
    inner, free = gradient[..., :-1] - data.mean * gradient[..., -1:], gradient[..., -1]
    return 0.5 * dot(inner, inner) + (free**2 / curvature).sum(1)


def newton_direction(
    data: Primal, loss: Loss, margins: Tensor, gradient: Tensor, reach: Tensor
) -> tuple[Tensor, int]:
    """(Newton directions like weights, steps that they took) by preconditioned conjugate gradients.

    Each group stops at a residual of 0.02 to 0.1 of the gradient, what brings the gap below the
    tolerance at once, and leaves the working set. After `HARD_CG` steps the others begin again with
    a better preconditioner, if there is one. Args: reach: tolerance / gap of each group, [groups].
    """
    goal = (0.3 * reach.sqrt()).clamp(0.02, 0.1) ** 2 * dot(gradient, gradient)
    active, direction = torch.arange(len(goal), device=goal.device), torch.zeros_like(gradient)
    hessian, mean = loss.curvature(margins), loss.mean_curvature(margins)
    residual, search = -gradient, torch.zeros_like(gradient)
    strength = torch.full_like(goal, torch.inf)
    for count in range(MAX_CG):
        if count == HARD_CG and data.refine():
            strength = torch.full_like(goal, torch.inf)
        vector = data.precondition(residual, mean)
        before, strength = strength, dot(residual, vector)
        search = vector + (strength / before)[:, None, None] * search
        product = data.transposed(hessian(data.times(search, quick=True)), quick=True)
        product += penalty_slope(loss, search)
        length = (strength / dot(search, product))[:, None, None]
        direction.index_add_(0, active, length * search)
        residual -= length * product
        going = dot(residual, residual) > goal
        if not bool(going.any()):
            break
        if not bool(going.all()):
            active, goal, strength, mean = active[going], goal[going], strength[going], mean[going]
            residual, search = residual[going], search[going]
            loss, margins = loss.select(going), margins[going]
            hessian = loss.curvature(margins)
    return direction, count + 1


def line_search(
    loss: Loss, linear: Tensor, square: Tensor, margins: Tensor, change: Tensor
) -> Tensor:
    """Step lengths [groups]: the minima along directions, by a guarded Newton iteration.

    At the length t the penalty has grown by linear t + 1/2 square t^2, the margins by t change.
    """
    low, high = torch.zeros_like(linear), torch.full_like(linear, torch.inf)
    length = torch.ones_like(linear)
    first = linear + dot(loss.slope(margins), change)
    for _ in range(20):
        here = margins + length[:, None, None] * change
        slope = linear + length * square + dot(loss.slope(here), change)
        if bool((slope.abs() <= 1e-2 * first.abs()).all()):
            break
        curvature = square + dot(change, loss.curvature(here)(change))
        low, high = torch.where(slope < 0, length, low), torch.where(slope > 0, length, high)
        newton = length - slope / curvature
        between = torch.where(torch.isinf(high), 2 * length, 0.5 * (low + high))
        length = torch.where((newton > low) & (newton < high), newton, between)
    return length
