"""Many penalised linear problems minimised together: preconditioned L-BFGS with a bound on what is
left (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4).

A problem is f(w) = 1/2 |w|^2 + loss(X w). All problems have the same features, so one product
with X serves every class and every value of C. A group is what is minimised jointly: one column for
a one-vs-rest SVM, one column per class for multinomial logistic regression. Weights are
[groups, width, dims + 1], the last value the intercept, and margins [groups, width, rows]. Groups
that have converged leave the working set. An iteration costs one product with X and one with its
transpose; the line search costs none, because margins change linearly along a direction.

The bound costs nothing. f is 1-strongly convex, hence f(w) - f* <= 1/2 |gradient|^2; for the L2-SVM
this is exactly the duality gap at the dual point alpha = 2 C hinge of which the gradient is made.
An intercept that is not penalised adds an estimate of what moving the intercept alone would win;
with it the bound is no longer strict, and the parity tests check it against precise solutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gan_core.probes.solver.primal import Primal
from gan_core.progress import Progress, silent

MAX_STEPS = 1000
MEMORY = 10  # pairs of steps and gradient changes that approximate the Hessian
# A step length is accepted once the slope along the direction is at most this share of the first.
SLOPE = 0.3
PATIENCE = 20  # steps without a better gap or objective after which rounding is reached
# The preconditioner's curvature is at least this share of that at no weights: where few rows have
# any, what they have is near that.
FLOOR = 0.1


class Evaluation(NamedTuple):
    """A loss at some margins [groups, width, rows].

    Attributes:
        value: its sum over the rows, [groups].
        slope: derivative by the margins, [groups, width, rows].
        curvature: mean over the rows of the second derivative, [groups, width]; for the
            preconditioner alone.
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor

    def select(self, groups: Tensor) -> Evaluation:
        """That of some of the groups."""
        return Evaluation(self.value[groups], self.slope[groups], self.curvature[groups])


class Loss(Protocol):
    """Sum over rows of a convex, once differentiable loss of the margins [groups, width, rows].
    `penalised` says whether the intercept is part of the penalty.
    """

    penalised: bool

    def evaluate(self, margins: Tensor) -> Evaluation:
        """Value, slope and curvature at some margins."""
        ...

    def select(self, groups: Tensor) -> Loss:
        """The loss of some of the groups."""
        ...


@dataclass
class Solution:
    """What `minimise` returns.

    Attributes:
        weights: [groups, width, dims + 1].
        objective: [groups].
        gap: [groups], the bound on f - f*, relative to the smaller of the objective and of what
            was won over no weights at all (at a tiny C the second is a small part of the first).
        steps: [groups], iterations; each is two products with the features.
    """

    weights: Tensor
    objective: Tensor
    gap: Tensor
    steps: Tensor


class History:
    """The last pairs of steps s and gradient changes y, and the direction that they give."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # s and y like weights; 1 / s'y

    def append(self, step: Tensor, change: Tensor) -> None:
        """Adds a pair. One with less curvature than the penalty alone has is rounding: its group
        ignores it.
        """
        product = dot(step, change)
        sound = product > 0.5 * dot(step[..., :-1], step[..., :-1])
        pair = step, change, torch.where(sound, 1 / product, 0)[:, None, None]
        self.pairs = [*self.pairs[1 - MEMORY :], pair]

    def select(self, groups: Tensor) -> None:
        """Keeps some of the groups."""
        self.pairs = [(s[groups], y[groups], inverse[groups]) for s, y, inverse in self.pairs]

    def forget(self, groups: Tensor) -> None:
        """Starts some of the groups afresh. Args: groups: bool [groups]."""
        self.pairs = [
            (s, y, inverse.masked_fill(groups[:, None, None], 0)) for s, y, inverse in self.pairs
        ]

    def direction(self, data: Primal, gradient: Tensor, curvature: Tensor) -> Tensor:
        """Minus the approximate inverse Hessian times the gradient: the two-loop recursion."""
        vector, factors = -gradient, []
        for step, change, inverse in reversed(self.pairs):
            factors.append(inverse * dot(step, vector)[:, None, None])
            vector.addcmul_(change, factors[-1], value=-1)
        vector = data.precondition(vector, curvature)
        for step, change, inverse in self.pairs:
            factor = factors.pop().addcmul_(inverse, dot(change, vector)[:, None, None], value=-1)
            vector.addcmul_(step, factor)
        return vector


def minimise(
    data: Primal,
    loss: Loss,
    start: Tensor,
    tolerance: float,
    progress: Progress = silent,
    max_steps: int = 0,
) -> Solution:
    """Minimises 1/2 |w|^2 + loss(Xw) until each group's gap is at most the tolerance.

    Args:
        data: the rows.
        loss: see `Loss`.
        start: weights to begin with, [groups, width, dims + 1], in the precision of the products.
        tolerance: relative gap at which a group is done. In float32 some 1e-6 can be reached, in
            float64 1e-10.
        progress: receives the number of groups done.
        max_steps: iterations at most; 0: `MAX_STEPS`.
    """
    weights, total, max_steps = start, len(start), max_steps or MAX_STEPS
    rounding, smallest = 4 * torch.finfo(start.dtype).eps, torch.finfo(start.dtype).tiny
    base = loss.evaluate(start.new_zeros(*start.shape[:2], data.rows))
    zero, floor = base.value, FLOOR * base.curvature
    final = Solution(start.clone(), zero.clone(), zero + torch.inf, zero * 0)
    active, history = torch.arange(total, device=start.device), History()
    margins = data.times(weights)
    found = loss.evaluate(margins)
    gradient = gradient_of(data, loss, weights, found)
    lowest, best, stuck = zero + torch.inf, zero + torch.inf, zero * 0
    for step in range(max_steps + 1):
        norm = penalty(loss, weights, weights)
        value = 0.5 * norm + found.value
        gap = gap_bound(data, loss, found, gradient)
        gap = gap / torch.minimum(value, zero - value).clamp(min=smallest)
        better = (value < lowest * (1 - rounding)) | (gap < best)
        stuck = torch.where(better, 0, stuck + 1)
        lowest, best = torch.minimum(lowest, value), torch.minimum(best, gap)
        going = (gap > tolerance) & (stuck < PATIENCE) & torch.isfinite(value)
        going &= step < max_steps
        progress(total - int(going.sum()), total, "problems", gap=float(gap.max()))
        if not bool(going.all()):
            done, kept = (~going).nonzero()[:, 0], going.nonzero()[:, 0]
            final.weights[active[done]], final.steps[active[done]] = weights[done], step
            final.objective[active[done]], final.gap[active[done]] = value[done], gap[done]
            if not len(kept):
                break
            active, zero, floor, loss = active[kept], zero[kept], floor[kept], loss.select(kept)
            lowest, best, stuck = lowest[kept], best[kept], stuck[kept]
            weights, margins, gradient = weights[kept], margins[kept], gradient[kept]
            norm, found = norm[kept], found.select(kept)
            history.select(kept)
        direction = history.direction(data, gradient, torch.maximum(found.curvature, floor))
        change = data.times(direction)
        line = Line(
            norm, penalty(loss, direction, weights), penalty(loss, direction, direction), rounding
        )
        length, found = line.search(loss, margins, change, found)
        scale = length[:, None, None]
        moved = scale * direction
        weights, margins = weights + moved, torch.addcmul(margins, scale, change)
        before, gradient = gradient, gradient_of(data, loss, weights, found)
        history.append(moved, gradient - before)
        if not bool(length.all()):
            history.forget(length == 0)
    return final


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per group, [groups]."""
    return (a * b).sum((1, 2))


def penalty(loss: Loss, a: Tensor, b: Tensor) -> Tensor:
    """Inner products per group of what the penalty sees: without an intercept that is free."""
    return dot(a, b) if loss.penalised else dot(a[..., :-1], b[..., :-1])


def gradient_of(data: Primal, loss: Loss, weights: Tensor, found: Evaluation) -> Tensor:
    """Gradient of the objective, like weights."""
    gradient = data.transposed(found.slope)
    gradient[..., :-1] += weights[..., :-1]
    if loss.penalised:
        gradient[..., -1] += weights[..., -1]
    return gradient


def gap_bound(data: Primal, loss: Loss, found: Evaluation, gradient: Tensor) -> Tensor:
    """Bound on f(w) - f* per group."""
    bound = 0.5 * penalty(loss, gradient, gradient)
    if loss.penalised:
        return bound
    # The free intercept: twice the Newton decrement by the diagonal of its Hessian, twice because
    # the columns of a softmax are coupled (equal shifts of all are free), which the diagonal does
    # not see.
    return bound + (gradient[..., -1] ** 2 / (found.curvature * data.rows).clamp(min=1e-12)).sum(1)


@dataclass
class Line:
    """The penalty along a direction: 1/2 (norm + 2 t linear + t^2 square) at the step length t."""

    norm: Tensor
    linear: Tensor
    square: Tensor
    rounding: float

    def search(
        self, loss: Loss, margins: Tensor, change: Tensor, found: Evaluation
    ) -> tuple[Tensor, Evaluation]:
        """Step length per group [groups] and the loss there: the slope along the direction falls to
        `SLOPE` of the first, by false position. 0 where no length found lowers the objective.
        """
        first = self.linear + dot(found.slope, change)
        highest = (0.5 * self.norm + found.value) * (1 + self.rounding)
        low, at_low = torch.zeros_like(first), first
        high = at_high = torch.full_like(first, torch.inf)
        length = (first < 0).to(first.dtype)
        for attempt in range(21):
            at = loss.evaluate(torch.addcmul(margins, length[:, None, None], change))
            slope = self.linear + length * self.square + dot(at.slope, change)
            accepted = (slope.abs() <= SLOPE * first.abs()) | (length == 0)
            if attempt == 20 or bool(accepted.all()):
                break
            under = slope < 0
            low, at_low = torch.where(under, length, low), torch.where(under, slope, at_low)
            high, at_high = torch.where(under, high, length), torch.where(under, at_high, slope)
            # To where a straight line through both ends' slopes is 0; through the first and the
            # last where there is no upper end.
            inside = low + (at_low / (at_low - at_high)).clamp(0.1, 0.9) * (high - low)
            beyond = low * (1 + (at_low / (first - at_low)).clamp(0.5, 4))
            new = torch.where(torch.isinf(high), beyond, inside)
            length = torch.where(accepted, length, new)
        value = 0.5 * (self.norm + length * (2 * self.linear + length * self.square)) + at.value
        if not bool((value <= highest).all()):
            length = torch.where(value <= highest, length, 0)
            at = loss.evaluate(torch.addcmul(margins, length[:, None, None], change))
        return length, at
