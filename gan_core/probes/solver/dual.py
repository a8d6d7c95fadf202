"""Problems with fewer rows than dimensions, in the space that their rows span.

A linear classifier with a squared penalty has its weights in the span of the rows: w = X' beta. Let
K = X X' be the rows' Gram matrix and L its Cholesky factor, K = L L'. With w = X' L'^-1 u the
margins are X w = L u and the penalty is |w|^2 = |u|^2. So the problem on the features is the same
problem on L, which has rows x rows values instead of rows x dims: a `Primal` of L.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

EXACT_ROWS = 1600  # up to here the Gram matrix is float64, and the result is that of its factor
DUAL_ROWS = 12_000  # the largest Gram matrix
DUAL_SHARE = 0.5  # rows / dimensions up to which a float32 Gram matrix pays
BLOCK_BYTES = 2**27  # of converted features at a time


def is_exact(rows: int, dims: int) -> bool:
    """Whether a problem of this shape is solved by a float64 Gram matrix."""
    return rows < dims and rows <= EXACT_ROWS


def is_dual(rows: int, dims: int) -> bool:
    """Whether a problem of this shape may be solved by its Gram matrix."""
    return rows < dims if rows <= EXACT_ROWS else rows <= min(DUAL_ROWS, DUAL_SHARE * dims)


class Dual:
    """The Cholesky factor of a Gram matrix.

    Args:
        source: features float16, float32 or float64 [rows, dims].

    Attributes:
        root: lower triangle [rows, rows]: float64 up to `EXACT_ROWS`, else float32, where it is
            that of K up to rounding and a jitter, and the result needs a last pass on the features.
    """

    def __init__(self, source: Tensor) -> None:
        self.source = source
        exact = is_exact(*source.shape)
        matrix = gram(source, torch.float64 if exact else torch.float32)
        # Equal rows make the matrix singular; features that are all 0 have no size.
        jitter, failed = (1e-13 if exact else 1e-6) * float(matrix.diagonal().mean()) or 1.0, 1
        while failed:
            matrix.diagonal().add_(jitter)
            self.root, info = torch.linalg.cholesky_ex(matrix)
            jitter, failed = 4 * jitter, int(info)

    def lift(self, weights: Tensor) -> Tensor:
        """Weights of the features [groups, width, dims + 1], float32, from those of the factor
        [groups, width, rows + 1].
        """
        kind, flat = self.root.dtype, weights.flatten(0, 1).to(self.root.dtype)
        beta = torch.linalg.solve_triangular(self.root, flat[:, :-1], upper=False, left=False)
        parts = [beta @ block for block in column_blocks(self.source, kind)]
        return torch.cat([*parts, flat[:, -1:]], 1).float().view(*weights.shape[:2], -1)


def column_blocks(source: Tensor, kind: torch.dtype) -> Iterator[Tensor]:
    """The features as `kind`, some columns at a time."""
    count = max(256, BLOCK_BYTES // (kind.itemsize * max(len(source), 1)))
    for start in range(0, source.shape[1], count):
        yield source[:, start : start + count].to(kind)


def gram(source: Tensor, kind: torch.dtype) -> Tensor:
    """Inner products of all rows [rows, rows], each pair once; the features are converted a block
    of columns at a time.
    """
    rows = len(source)
    matrix = torch.zeros(rows, rows, dtype=kind, device=source.device)
    part = max(256, -(-rows // 8))
    for block in column_blocks(source, kind):
        for low in range(0, rows, part):
            some = block[low : low + part]
            matrix[low : low + part, : low + part].addmm_(some, block[: low + part].T)
    return matrix.tril() + matrix.tril(-1).T
