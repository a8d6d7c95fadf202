"""Problems with fewer rows than dimensions, on the Gram matrix K = X X' of their rows.

The weights are in the span of the rows, w = X' beta. The margins are K beta and the penalty is
beta' K beta: rows variables instead of dims, and K serves every class and every value of C.

Small L2-SVMs are solved by Newton's method with exact steps (Chapelle 2007, Neural Computation
19:1155). Their objective is quadratic as long as the same rows are inside the margin: a step goes
to the minimum of that quadratic, one Cholesky factorisation, as far as it lowers the objective.

Everything else is solved by `newton_cg.py` on the Cholesky factor L of K: with w = X' L'^-1 u the
margins are L u and the penalty is |u|^2, so this is the same problem on L as on X.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gan_core.probes.solver.newton_cg import Loss, Solution, dot, line_search, minimise, relative
from gan_core.probes.solver.primal import Primal, cholesky

EXACT_ROWS = 1600  # up to here the Gram matrix is float64, and an exact step cheaper than CG
DUAL_ROWS = 12_000  # the largest Gram matrix
DUAL_SHARE = 0.5  # rows / dimensions up to which a float32 Gram matrix pays
COLUMNS = 4096  # of features that are converted at a time
DIRECTIONS = 48  # in which the rows are longest, kept out of bf16 products
WEAK = 50  # curvature of the loss, relative to the penalty, up to which products are bf16
MAX_STEPS = 50  # Newton steps for one value of C


def is_dual(rows: int, dims: int) -> bool:
    """Whether a problem of this shape is solved on its Gram matrix."""
    return rows < dims if rows <= EXACT_ROWS else rows <= min(DUAL_ROWS, DUAL_SHARE * dims)


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
        source: features [rows, dims].
        signs: +1 and -1, [columns, rows].
        loss: the squared hinge, from signs and the C of each column.
        tolerance: largest relative gap.
    """
    matrix = gram(source) + 1  # 1: the constant feature of the intercept
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
            if len(inside) < len(matrix):
                factor = cholesky(matrix[inside][:, inside], 0.5 / cost)
            else:
                factor = whole = cholesky(matrix.clone(), 0.5 / cost) if whole is None else whole
            solved = torch.cholesky_solve(signs[column, inside, None], factor)
            goal[column] = goal.new_zeros(1, len(matrix)).index_copy_(1, inside, solved.T)
        direction, change = goal - beta, goal @ matrix - margins
        linear, square = dot(beta, change), dot(direction, change)
        length = line_search(loss, linear, square, margins, change)[:, None, None]
        beta, margins = beta + length * direction, margins + length * change
    return beta, value, gap, step


def solve_on_factor(
    source: Tensor, loss: Loss, groups: int, width: int, tolerance: float, seed: int
) -> Solution:
    """A solution in float32 on the factor of the Gram matrix; arguments as in `newton_cg.minimise`.
    The gap is that of the factor, which rounding and a ridge move.
    """
    data = Primal(source, seed)
    quick = len(source) > EXACT_ROWS and data.quick
    if quick:  # A small C forgives what bf16 products lack.
        curvature = loss.mean_curvature(source.new_zeros(groups, width, 1, dtype=torch.float32))
        quick = float(data.sample.square().sum(1).mean() * curvature.max()) < WEAK
    matrix = quick_gram(data) if quick else gram(source)
    rounding = 1e-3 if quick else 1e-13 if matrix.dtype == torch.float64 else 1e-6
    root = cholesky(matrix, rounding * float(matrix.diagonal().mean()) or 1.0)
    start = torch.zeros(groups, width, len(source) + 1, device=source.device)
    found = minimise(Primal(root.float(), seed), loss, start, tolerance)
    inner = found.weights[..., :-1].flatten(0, 1).to(root)
    beta = torch.linalg.solve_triangular(root, inner, upper=False, left=False)
    found.weights = lift(source, beta.view(groups, width, -1), found.weights[..., -1:])
    return found


def lift(source: Tensor, beta: Tensor, intercept: Tensor) -> Tensor:
    """X' beta and the intercept: float32 [groups, width, dims + 1]."""
    parts = [beta @ block.to(beta) for block in torch.split(source, COLUMNS, 1)]
    return torch.cat([*parts, intercept], 2).float()


def gram(source: Tensor) -> Tensor:
    """Inner products of all rows, [rows, rows], each pair once; float64 up to `EXACT_ROWS`."""
    rows = len(source)
    kind = torch.float64 if rows <= EXACT_ROWS else torch.float32
    matrix = torch.zeros(rows, rows, dtype=kind, device=source.device)
    part = max(256, -(-rows // 16))
    for block in torch.split(source, COLUMNS, 1):
        block = block.to(kind)
        for low in range(0, rows, part):
            some = block[low : low + part]
            matrix[low : low + part, : low + part].addmm_(some, block[: low + part].T)
    return matrix.tril() + matrix.tril(-1).T


def quick_gram(data: Primal) -> Tensor:
    """`gram` by bf16 products, float32 [rows, rows].

    torch rounds each product of bf16 matrices to bf16. So the directions in which the rows are
    longest (Halko, Martinsson and Tropp 2011, SIAM Review 53:217, algorithm 4.1) are taken off
    before, and their products are added in float32.
    """
    stream = torch.Generator().manual_seed(data.seed)
    mixed = torch.randn(1, DIRECTIONS, data.rows, generator=stream).to(data.source.device)
    axes = torch.linalg.qr(data.transposed(mixed)[0, :, :-1].T).Q.T
    along = data.times(torch.nn.functional.pad(axes, (0, 1))[None])[0].T
    matrix = axes.new_zeros(data.rows, data.rows)
    part = max(256, -(-data.rows // 8))
    for start in range(0, data.dims, COLUMNS):
        some = slice(start, start + COLUMNS)
        rest = data.source[:, some].float().addmm(along, axes[:, some], alpha=-1).bfloat16()
        for low in range(0, data.rows, part):
            matrix[low : low + part, : low + part] += rest[low : low + part] @ rest[: low + part].T
    return torch.addmm(matrix.tril() + matrix.tril(-1).T, along, along.T)
