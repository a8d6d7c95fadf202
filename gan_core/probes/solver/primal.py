"""The features with a constant 1 appended, as a matrix: products with it and with its transpose,
and a preconditioner.

Products are float32; float16 features stay as they are and are converted block by block. Large
problems keep bf16 copies where the processor multiplies bf16 quickly: they serve the search for
directions alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from gan_core.devices import bf16_is_fast
from gan_core.probes.base import block_rows
from gan_core.randomness import torch_stream

SAMPLE_ROWS = 1000  # rows behind the first preconditioner; all of them below so many dimensions
REFINED_DIMS = 8192  # dimensions up to which a direction that is hard to find gets a better one
FACTOR_BYTES = 2**31  # of Cholesky factors that are kept
KEEP_FLOAT32 = 2**28  # bytes up to which a float32 copy replaces conversions
BF16_VALUES = 2**24  # rows x dims from which a bf16 copy pays
COLUMNS = 4096  # of a matrix whose inner products are added at a time


class Primal:
    """Maps weights [groups, width, dims + 1], the last value the intercept, to margins
    [groups, width, rows] and back.

    Args:
        source: float16, float32 or float64 [rows, dims].
        seed: chooses the rows behind the preconditioner.
        diagonal: X'X of the features and the constant, [dims + 1], where it is diagonal.
    """

    def __init__(self, source: Tensor, seed: int, diagonal: Tensor | None = None) -> None:
        self.rows, self.dims = source.shape
        self.seed, self.diagonal = seed, diagonal
        on_cpu = source.device.type == "cpu"
        keep = source.dtype == torch.float16 and not (on_cpu and source.numel() * 4 <= KEEP_FLOAT32)
        self.source = source if keep else source.float()
        # A CPU's cache holds a small block while it is converted; a GPU is faster with large ones.
        self.block = block_rows(self.dims, 16 if on_cpu else 2048) if keep else self.rows
        self.quick = bf16_is_fast(source.device.type) and source.numel() >= BF16_VALUES
        self.refined = False
        self.factors: dict[float, Tensor] = {}

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, their features in float32)."""
        for start in range(0, self.rows, self.block):
            rows = slice(start, start + self.block)
            yield rows, self.source[rows].float()

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

    @cached_property
    def covariance(self) -> Tensor:
        """X'X of all rows, with the constant: [dims + 1, dims + 1]."""
        total = self.mean * self.rows
        inner = torch.cat([inner_products(self.source.T, torch.float32), total[:, None]], 1)
        return torch.cat([inner, torch.cat([total, total.new_tensor([self.rows])])[None]])

    @cached_property
    def principal_axes(self) -> tuple[Tensor, Tensor]:
        """Orthonormal directions [r, dims + 1] and X'X along them [r]: of all rows where there are
        few dimensions, else of some rows and scaled up.
        """
        if self.dims < SAMPLE_ROWS:
            spectrum, vectors = torch.linalg.eigh(self.covariance.double())
            return vectors.T.float(), spectrum.clamp(min=0).float()
        order = torch.randperm(self.rows, generator=torch_stream(self.seed, "preconditioner"))
        chosen = order[:SAMPLE_ROWS].sort().values.to(self.source.device)
        sample = torch.cat([self.source[chosen], self.source.new_ones(len(chosen), 1)], 1).float()
        spectrum, vectors = torch.linalg.eigh((sample @ sample.T).double())
        kept = spectrum > 1e-6 * spectrum[-1]
        axes = (vectors[:, kept] / spectrum[kept].sqrt()).T.float() @ sample
        return axes, (spectrum[kept] * (self.rows / len(sample))).float()

    def refine(self) -> bool:
        """From now on the preconditioner is of all rows; False where it is, or cannot be."""
        sampled = self.diagonal is None and min(self.rows - 1, self.dims) >= SAMPLE_ROWS
        before, self.refined = self.refined, sampled and self.dims <= REFINED_DIMS
        return self.refined and not before

    def precondition(self, vector: Tensor, curvature: Tensor) -> Tensor:
        """(1 + c X'X)^-1 vector with c the mean curvature [groups, width] and X'X as far as it is
        known: diagonal, along the principal axes, or all of it.
        """
        if self.diagonal is not None:
            return vector / (1 + curvature[..., None] * self.diagonal)
        flat, scale = vector.flatten(0, 1), curvature.flatten()
        if not self.refined:
            axes, spectrum = self.principal_axes
            change = 1 / (1 + scale[:, None] * spectrum) - 1
            return torch.addmm(flat, flat @ axes.T * change, axes).view_as(vector)
        out, levels = flat.clone(), scale.clamp(min=1e-30).log2().div(2).round()
        for level in torch.unique(levels).tolist():  # powers of 4: columns share factors
            if level not in self.factors:
                if len(self.factors) * self.covariance.nbytes >= FACTOR_BYTES:
                    self.factors.clear()
                self.factors[level] = cholesky(self.covariance * 4**level, 1.0)
            some = levels == level
            out[some] = torch.cholesky_solve(flat[some].T, self.factors[level]).T
        return out.view_as(vector)


def inner_products(matrix: Tensor, kind: torch.dtype) -> Tensor:
    """X X' of a matrix X, each pair of rows once and in the precision `kind`: [rows, rows], float64
    for float64, otherwise float32.
    """
    total = torch.float64 if kind == torch.float64 else torch.float32
    out = torch.zeros(len(matrix), len(matrix), dtype=total, device=matrix.device)
    part = max(256, -(-len(matrix) // 16))
    for block in torch.split(matrix, COLUMNS, 1):
        block = block.to(kind)
        for low in range(0, len(matrix), part):
            some = slice(low, low + part)
            out[some, : some.stop] += block[some] @ block[: some.stop].T
    return out.tril() + out.tril(-1).T


def cholesky(matrix: Tensor, ridge: float) -> Tensor:
    """Cholesky factor of matrix + ridge, in place; of a larger ridge where rounding hides it."""
    factor, failed = matrix, 1
    while failed:
        matrix.diagonal().add_(ridge)
        factor, info = torch.linalg.cholesky_ex(matrix)
        ridge, failed = 10 * ridge, int(info)
    return factor
