"""The features with a constant 1 appended, as a matrix: products with it and with its transpose,
and a preconditioner.

Products are of the features' own precision: float64 for float64 features, else float32. float16
features stay as they are and are converted block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gan_core.probes.base import block_rows
from gan_core.randomness import numpy_stream

SAMPLE = (300, 1000)  # rows behind the preconditioner: a tenth of all, within these bounds
# Bytes up to which a float32 copy is kept instead of converting again for every product.
KEEP_FLOAT32 = 2**28


class Primal:
    """Maps weights [groups, width, dims + 1], the last value the intercept, to margins
    [groups, width, rows] and back.

    Args:
        source: float16, float32 or float64 [rows, dims].
        seed: chooses the rows behind the preconditioner.
    """

    def __init__(self, source: Tensor, seed: int) -> None:
        self.rows, self.dims = source.shape
        self.seed, self.kind = seed, torch.promote_types(source.dtype, torch.float32)
        on_cpu = source.device.type == "cpu"
        keep = on_cpu and source.numel() * 4 <= KEEP_FLOAT32
        self.source = source.to(self.kind) if keep else source
        # On a CPU a block that stays in the cache is converted for next to nothing; a GPU wants
        # large ones.
        self.block = min(self.rows, block_rows(self.dims, 16 if on_cpu else 2048))
        self.buffer: Tensor | None = None

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, their features in the precision of the products); the next block overwrites the
        one before it.
        """
        if self.source.dtype == self.kind:
            yield slice(0, self.rows), self.source
            return
        if self.buffer is None:
            self.buffer = self.source.new_empty((self.block, self.dims), dtype=self.kind)
        for start in range(0, self.rows, self.block):
            rows = slice(start, min(start + self.block, self.rows))
            yield rows, self.buffer[: rows.stop - start].copy_(self.source[rows])

    def times(self, weights: Tensor) -> Tensor:
        """Margins of weights."""
        flat = weights.flatten(0, 1)
        out = flat.new_empty(len(flat), self.rows)
        for rows, block in self.blocks():
            torch.addmm(flat[:, -1:], flat[:, :-1], block.T, out=out[:, rows])
        return out.view(*weights.shape[:2], self.rows)

    def transposed(self, sums: Tensor) -> Tensor:
        """The transpose: [groups, width, rows] to [groups, width, dims + 1]."""
        flat = sums.flatten(0, 1)
        out = flat.new_zeros(len(flat), self.dims + 1)
        for rows, block in self.blocks():
            out[:, :-1].addmm_(flat[:, rows], block)
        out[:, -1] = flat.sum(1)
        return out.view(*sums.shape[:2], self.dims + 1)

    @cached_property
    def eigenbasis(self) -> tuple[Tensor, Tensor]:
        """Orthonormal directions [r, dims + 1] and X'X along them [r]: those of a sample of the
        rows, scaled up.
        """
        count = min(self.rows, max(SAMPLE[0], min(SAMPLE[1], self.rows // 10)))
        stream = numpy_stream(self.seed, "preconditioner", self.rows)
        chosen = torch.from_numpy(np.sort(stream.choice(self.rows, count, replace=False)))
        sample = self.source[chosen.to(self.source.device)].to(self.kind)
        sample = torch.cat([sample, sample.new_ones(count, 1)], dim=1)
        spectrum, vectors = torch.linalg.eigh((sample @ sample.T).double())
        # What is as short as float32's rounding is not orthogonal to the others.
        kept = spectrum > spectrum[-1] * 1e-6
        spectrum, vectors = spectrum[kept], vectors[:, kept]
        basis = (vectors / spectrum.sqrt()).T.to(self.kind) @ sample
        return basis, (spectrum * (self.rows / count)).to(self.kind)

    def precondition(self, vector: Tensor, curvature: Tensor) -> Tensor:
        """(1 + curvature * V diag(spectrum) V')^-1 vector by Woodbury's formula.

        Args:
            vector: [groups, width, dims + 1].
            curvature: mean second derivative of the loss, [groups, width].
        """
        basis, spectrum = self.eigenbasis
        flat = vector.flatten(0, 1)
        shrink = 1 / (1 + spectrum * curvature.flatten()[:, None]) - 1
        return torch.addmm(flat, shrink * (flat @ basis.T), basis).view_as(vector)
