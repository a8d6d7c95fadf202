"""Problems with fewer rows than dimensions, on the Gram matrix K = X X' of their rows.

The weights are in the span of the rows, w = X' beta. The margins are K beta and the penalty is
beta' K beta: rows variables instead of dims, and K serves every class and every value of C.

L2-SVMs of few rows are solved by Newton's method with exact steps (Chapelle 2007, Neural
Computation 19:1155): as long as the same rows are inside the margin, the objective is quadratic,
and one Cholesky factorisation finds its minimum.

Everything else is solved by `newton_cg.py` on a root R of K = R R'. With w = X' R'^-1 u the margins
are R u and the penalty is |u|^2: the same problem on R as on X. The eigenvectors of few rows make
R'R diagonal and the preconditioner exact; more rows have a Cholesky factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gan_core.probes.solver.newton_cg import Loss, Solution, dot, line_search, minimise, relative
from gan_core.probes.solver.primal import COLUMNS, SAMPLE_ROWS, Primal, cholesky, inner_products
from gan_core.randomness import torch_stream

EXACT_ROWS = 1600  # up to here the Gram matrix is float64, and eigenvectors or exact steps pay
CHOLESKY_ROWS = 12_000  # the largest Gram matrix
CHOLESKY_SHARE = 0.5  # rows / dimensions up to which a float32 Gram matrix pays
DIRECTIONS = 48  # in which the rows are longest, kept out of bf16 products
WEAK = 50  # curvature of the loss, relative to the penalty, up to which products are bf16
MAX_STEPS = 50  # Newton steps for one value of C


def solve_hinge(
    source: Tensor,
    signs: Tensor,
    values: Sequence[float],
    loss: Callable[[Tensor, Tensor], Loss],
    tolerance: float,
) -> Solution:
    """L2-SVMs of every column at every value of C, in ascending order, each from the solution at
    the value before.

    Args:
        signs: +1 and -1, [columns, rows].
        loss: makes the squared hinge from signs and the C of each column.
    """
    matrix = inner_products(source, torch.float64) + 1  # 1: the intercept's constant feature
    signs = signs.to(matrix)
    beta, steps = torch.zeros_like(signs)[:, None], 0
    found: dict[float, tuple[Tensor, Tensor, Tensor]] = {}
    for cost in sorted(set(values)):
        hinge = loss(signs[:, None], signs.new_full((len(signs),), cost))
        beta, objective, gap, used = newton(matrix, signs, cost, hinge, beta, tolerance)
        weights = lift(source, beta, beta.sum(2, keepdim=True))
        found[cost], steps = (weights, objective, gap), steps + used
    weights, objective, gap = map(torch.cat, zip(*(found[cost] for cost in values), strict=True))
    return Solution(weights, objective, gap, steps)


def newton(
    matrix: Tensor, signs: Tensor, cost: float, loss: Loss, beta: Tensor, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """(beta [columns, 1, rows], objectives [columns], gaps [columns], steps) at one C."""
    margins, whole = beta @ matrix, None  # whole: the factor where all rows are inside the margin
    for step in range(MAX_STEPS + 1):
        slope = loss.slope(margins)
        value, rest = 0.5 * dot(beta, margins) + loss.value(margins), beta + slope
        gap = relative(0.5 * dot(rest, rest @ matrix), value, cost * len(matrix))
        going = (gap > tolerance).nonzero()[:, 0].tolist()
        if not going or step == MAX_STEPS:
            break
        goal = beta.clone()
        for column in going:
            inside = slope[column, 0].nonzero()[:, 0]
            factor = whole if len(inside) == len(matrix) else None
            if factor is None:
                factor = cholesky(matrix[inside][:, inside], 0.5 / cost)
            whole = factor if len(inside) == len(matrix) else whole
            solved = torch.cholesky_solve(signs[column, inside, None], factor)
            goal[column] = goal.new_zeros(1, len(matrix)).index_copy_(1, inside, solved.T)
        direction = goal - beta  # exactly 0 for a column that is done
        change = direction @ matrix
        linear, square = dot(beta, change), dot(direction, change)
        length = line_search(loss, linear, square, margins, change)[:, None, None]
        beta, margins = beta + length * direction, margins + length * change
    return beta, value, gap, step


def solve_on_eigenvectors(data: Primal, loss: Loss, start: Tensor, tolerance: float) -> Solution:
    """A solution for a loss with a free intercept; arguments as in `newton_cg.minimise`, but that
    it begins with zeros of the start's shape.
    """
    matrix = inner_products(data.source, torch.float64)
    # Centred rows move the intercept alone, and do not couple it with the weights.
    centred = matrix - matrix.mean(0) - matrix.mean(1, keepdim=True) + matrix.mean()
    spectrum, vectors = torch.linalg.eigh(centred)
    kept = spectrum > 1e-13 * spectrum[-1]
    lengths, vectors = spectrum[kept].sqrt(), vectors[:, kept]
    diagonal = torch.cat([spectrum[kept], spectrum.new_tensor([data.rows])]).float()
    root = Primal((vectors * lengths).float(), data.seed, diagonal)
    found = minimise(root, loss, start.new_zeros(*start.shape[:2], root.dims + 1), tolerance)
    beta = found.weights[..., :-1].double() / lengths @ vectors.T
    shift = (beta @ matrix).mean(2, keepdim=True)
    found.weights = lift(data.source, beta, found.weights[..., -1:] - shift)
    return found


def solve_on_cholesky(data: Primal, loss: Loss, start: Tensor, tolerance: float) -> Solution:
    """As `solve_on_eigenvectors`, for any loss, by the Cholesky factor of a float32 or bf16 Gram
    matrix. The gap is that of the factor, which rounding and a ridge move.
    """
    curvature = loss.mean_curvature(start.new_zeros(*start.shape[:2], 1)).max()
    length = data.source[:SAMPLE_ROWS].float().square().sum(1).mean()
    quick = data.quick and float(length * curvature) < WEAK  # a small C forgives what bf16 lacks
    matrix = quick_gram(data) if quick else inner_products(data.source, torch.float32)
    ridge = (1e-3 if quick else 1e-6) * float(matrix.diagonal().mean())  # above the rounding
    root = cholesky(matrix, ridge or 1.0)
    begin = start.new_zeros(*start.shape[:2], data.rows + 1)
    found = minimise(Primal(root, data.seed), loss, begin, tolerance)
    inner = found.weights[..., :-1].flatten(0, 1)
    beta = torch.linalg.solve_triangular(root, inner, upper=False, left=False)
    found.weights = lift(data.source, beta.view_as(begin[..., :-1]), found.weights[..., -1:])
    return found


def lift(source: Tensor, beta: Tensor, intercept: Tensor) -> Tensor:
    """X' beta and the intercept: float32 [groups, width, dims + 1]."""
    parts = [beta @ block.to(beta) for block in torch.split(source, COLUMNS, 1)]
    return torch.cat([*parts, intercept], 2).float()


def quick_gram(data: Primal) -> Tensor:
    """X X' by bf16 products, float32 [rows, rows].

    torch rounds each product of bf16 matrices to bf16. So the directions in which the rows are
    longest (Halko, Martinsson and Tropp 2011, SIAM Review 53:217, algorithm 4.1) are taken off
    before, and their products are added in float32.
    """
    stream = torch_stream(data.seed, "bf16-gram")
    rows = data.source.float()
    mixed = torch.randn(DIRECTIONS, data.rows, generator=stream).to(rows)
    axes = torch.linalg.qr((mixed @ rows).T).Q.T
    along = rows @ axes.T
    rest = rows.addmm(along, axes, alpha=-1).bfloat16()
    return inner_products(rest, torch.bfloat16).addmm_(along, along.T)
