"""The features with a constant 1 appended, as a matrix: products with it and with its transpose,
and a preconditioner.

Products are float32; float16 features stay as they are and are converted block by block. Large
problems keep bf16 copies where the processor multiplies bf16 quickly: they serve the search for
directions alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gan_core.devices import bf16_is_fast
from gan_core.probes.base import block_rows
from gan_core.randomness import numpy_stream

SAMPLE_ROWS = 1000  # rows behind the first preconditioner
ALL_DIMS = 1600  # up to so many dimensions the preconditioner is made of all rows at once
REFINED_DIMS = 8192  # up to so many, once a direction has been hard to find
FACTOR_BYTES = 2**31  # of Cholesky factors that are kept
KEEP_FLOAT32 = 2**28  # bytes up to which a float32 copy replaces conversions
BF16_VALUES = 2**24  # rows x dims from which a bf16 copy pays


class Primal:
    """Maps weights [groups, width, dims + 1], the last value the intercept, to margins
    [groups, width, rows] and back.

    Args:
        source: float16 or float32 [rows, dims].
        seed: chooses the rows behind the preconditioner.
    """

    def __init__(self, source: Tensor, seed: int) -> None:
        self.rows, self.dims = source.shape
        self.seed = seed
        on_cpu = source.device.type == "cpu"
        keep = on_cpu and source.numel() * 4 <= KEEP_FLOAT32
        self.source = source.float() if keep else source
        # A CPU's cache holds a small block while it is converted; a GPU is faster with large ones.
        self.block = min(self.rows, block_rows(self.dims, 16 if on_cpu else 2048))
        self.buffer: Tensor | None = None
        self.quick = bf16_is_fast(source.device.type) and source.numel() >= BF16_VALUES
        self.refined = self.dims <= min(self.rows, ALL_DIMS)
        self.factors: dict[float, Tensor] = {}

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, their features in float32); the next block overwrites the one before it."""
        if self.source.dtype == torch.float32:
            yield slice(0, self.rows), self.source
            return
        if self.buffer is None:
            self.buffer = self.source.new_empty((self.block, self.dims), dtype=torch.float32)
        for start in range(0, self.rows, self.block):
            rows = slice(start, min(start + self.block, self.rows))
            yield rows, self.buffer[: rows.stop - start].copy_(self.source[rows])

    def times(self, weights: Tensor, quick: bool = False) -> Tensor:
        """Margins of weights; quick: from a bf16 copy, if there is one."""
        if quick and self.bf16 is not None:
            product = self.bf16[0] @ weights[..., :-1].flatten(0, 1).T.bfloat16()
            return product.T.float().view(*weights.shape[:2], self.rows) + weights[..., -1:]
        flat = weights.flatten(0, 1)
        out = flat.new_empty(len(flat), self.rows)
        for rows, block in self.blocks():
            torch.addmm(flat[:, -1:], flat[:, :-1], block.T, out=out[:, rows])
        return out.view(*weights.shape[:2], self.rows)

    def transposed(self, sums: Tensor, quick: bool = False) -> Tensor:
        """The transpose: [groups, width, rows] to [groups, width, dims + 1]."""
        if quick and self.bf16 is not None:
            product = (self.bf16[1] @ sums.flatten(0, 1).T.bfloat16()).T.float()
            return torch.cat([product.view(*sums.shape[:2], -1), sums.sum(2, keepdim=True)], 2)
        flat = sums.flatten(0, 1)
        out = flat.new_zeros(len(flat), self.dims + 1)
        for rows, block in self.blocks():
            out[:, :-1].addmm_(flat[:, rows], block)
        out[:, -1] = flat.sum(1)
        return out.view(*sums.shape[:2], self.dims + 1)

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the rows, [dims]."""
        return self.transposed(self.source.new_ones(1, 1, self.rows).float())[0, 0, :-1] / self.rows

    @cached_property
    def bf16(self) -> tuple[Tensor, Tensor] | None:
        """Copies in bf16, [rows, dims] and [dims, rows], where they pay: products are quickest with
        the large matrix on the left and in order.
        """
        if not self.quick:
            return None
        copy = self.source.bfloat16()
        return copy, copy.T.contiguous()

    def leave_bf16(self) -> bool:
        """From now on all products are exact; False if they were."""
        there, self.bf16 = self.bf16 is not None, None
        return there

    def refine(self) -> bool:
        """From now on the preconditioner is of all rows; False where it is, or cannot be."""
        if self.refined or self.rows <= SAMPLE_ROWS or self.dims > REFINED_DIMS:
            return False
        self.refined = True
        self.factors.clear()
        return True

    @cached_property
    def sample(self) -> Tensor:
        """Some rows, with the constant: [r, dims + 1]."""
        count = min(self.rows, SAMPLE_ROWS)
        stream = numpy_stream(self.seed, "preconditioner", self.rows)
        chosen = torch.from_numpy(np.sort(stream.choice(self.rows, count, replace=False)))
        rows = self.source[chosen.to(self.source.device)].float()
        return torch.cat([rows, rows.new_ones(count, 1)], 1)

    @cached_property
    def sample_gram(self) -> Tensor:
        """X X' of the sample, scaled up to all rows: [r, r]."""
        return self.sample @ self.sample.T * (self.rows / len(self.sample))

    @cached_property
    def covariance(self) -> Tensor:
        """X'X of all rows, with the constant: [dims + 1, dims + 1]; each pair of columns once."""
        matrix = self.source.new_zeros((self.dims + 1, self.dims + 1), dtype=torch.float32)
        part = -(-self.dims // 8)
        for _, block in self.blocks():
            for low in range(0, self.dims, part):
                some = slice(low, min(low + part, self.dims))
                matrix[some, : some.stop].addmm_(block[:, some].T, block[:, : some.stop])
            matrix[-1, :-1] += block.sum(0)
        matrix[-1, -1] = self.rows
        return matrix.tril() + matrix.tril(-1).T

    def factor(self, level: float) -> Tensor:
        """Cholesky factor of 1 + level times X'X or, for the sample, its X X' scaled up."""
        if level not in self.factors:
            matrix = (self.covariance if self.refined else self.sample_gram) * level
            while len(self.factors) > max(1, FACTOR_BYTES // matrix.nbytes):
                self.factors.pop(next(iter(self.factors)))
            # float32 does not resolve the 1 where X'X is large.
            matrix = matrix.double() if len(matrix) <= ALL_DIMS + 1 else matrix
            self.factors[level] = cholesky(matrix, 1.0).float()
        return self.factors[level]

    def precondition(self, vector: Tensor, curvature: Tensor) -> Tensor:
        """(1 + c X'X)^-1 vector, X'X of all rows or, by Woodbury's formula, of the sample. c is
        the mean curvature [groups, width]; where it differs between columns, the nearest power of
        4, so that columns share factors.
        """
        flat, levels = vector.flatten(0, 1), curvature.flatten().clamp(min=1e-30)
        if len(levels) < 2 * len(torch.unique(levels)):
            levels = 4 ** levels.log2().div(2).round()
        inner = flat.clone() if self.refined else flat @ self.sample.T
        for level in torch.unique(levels).tolist():
            some = levels == level
            inner[some] = torch.cholesky_solve(inner[some].T, self.factor(level)).T
        if self.refined:
            return inner.view_as(vector)
        scale = levels[:, None] * self.rows / len(self.sample)
        return torch.addmm(flat, scale * inner, self.sample, alpha=-1).view_as(vector)


def cholesky(matrix: Tensor, ridge: float) -> Tensor:
    """Cholesky factor of matrix + ridge, in place; of a larger ridge where rounding hides it."""
    factor, failed = matrix, 1
    while failed:
        matrix.diagonal().add_(ridge)
        factor, info = torch.linalg.cholesky_ex(matrix)
        ridge, failed = 10 * ridge, int(info)
    return factor
