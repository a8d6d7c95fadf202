"""The features with a constant 1 appended, seen as a linear map: products with it and with its
transpose.

Two precisions. The exact one (float32 arithmetic on the float16 values as they are, converted block
by block) decides everything that a result depends on: margins, gradients, certificates. The quick
one (bf16, stored) only proposes directions to a conjugate-gradient solver. Small problems with
fewer rows than dimensions are first turned, exactly, into the space that their rows span
(`Compact`), where they are solved in float64; for middling ones see `dual.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gan_core.probes.base import Features, as_tensor, block_rows
from gan_core.probes.solver.gram import back, gram_of
from gan_core.randomness import numpy_stream

if TYPE_CHECKING:
    from torch import Tensor

COMPACT_ROWS = (
    1600  # up to here the eigenvalues of the rows' Gram matrix cost less than the passes they save
)
SAMPLE_ROWS = 1000  # rows behind the preconditioner of larger problems
EXACT_DIMS = 8192  # up to so many dimensions a hard problem gets a preconditioner from all rows
FACTOR_BYTES = 2**31  # of its Cholesky factors, [dims + 1, dims + 1] float32 each, so many are kept
KEEP_FLOAT32 = (
    2**28
)  # bytes up to which a float32 copy is kept instead of converting again for every product
KEEP_TRANSPOSED = 3 * 2**30  # bytes up to which the bf16 copy is kept a second time, transposed
APPROXIMATE_VALUES = 2**24  # features x rows from which a stored bf16 copy pays


class LinearMap(Protocol):
    """What the solver needs of the data. P columns stand for P problems; weights are [dims + 1, P],
    the last row the intercept.

    Directions may be sought in other coordinates than those of the weights: the quick products and
    the preconditioner take those that `to_dual` maps a gradient to, and `from_dual` maps a step in
    them back.
    """

    @property
    def rows(self) -> int: ...

    @property
    def dims(self) -> int: ...

    def zeros(self, columns: int) -> Tensor: ...

    def times(self, weights: Tensor) -> Tensor: ...

    def transposed(self, sums: Tensor) -> Tensor: ...

    def approximate_times(self, weights: Tensor) -> Tensor: ...

    def approximate_transposed(self, sums: Tensor) -> Tensor: ...

    def precondition(self, vector: Tensor, curvature: Tensor, hard: Tensor) -> Tensor: ...

    def refine_preconditioner(self) -> bool: ...

    def to_dual(self, gradient: Tensor) -> Tensor: ...

    def from_dual(self, step: Tensor) -> Tensor: ...

    def to_primal(self, weights: Tensor) -> Tensor: ...

    def drop_approximation(self) -> bool: ...


def bf16_is_fast(device: str) -> bool:
    """Whether products in bf16 are quicker than in float32 on a device."""
    import torch

    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass
class Compact:
    """Rows turned into the basis of their own span: [rows, rank] instead of [rows, dims], the same
    Gram matrix.

    A linear classifier with a squared penalty has its weights in the span of the rows, and turning
    the space changes neither products nor norms: the solution is the same. In this basis X'X is
    diagonal, which gives the preconditioner for nothing.

    Attributes:
        turned: float64 [rows, rank].
        spectrum: float64 [rank], the squared lengths of its columns.
        back: float64 [rows, rank]; features.T @ back @ weights are the weights in the original
            space.
    """

    features: Features
    turned: Tensor
    _single: Tensor
    spectrum: Tensor
    back: Tensor
    device: str

    @staticmethod
    def of(features: Features, device: str) -> Compact:
        """Eigenvectors of the Gram matrix, in float64 (its condition is the square of the
        features').
        """
        import torch

        gram = gram_of(features, device).to(device)
        spectrum, vectors = torch.linalg.eigh(gram)
        kept = spectrum > spectrum[-1].clamp(min=0) * 1e-13
        spectrum, vectors = spectrum[kept], vectors[:, kept]
        root = spectrum.sqrt()
        turned = vectors * root
        return Compact(features, turned, turned.float(), spectrum, vectors / root, device)

    @property
    def rows(self) -> int:
        return int(self.turned.shape[0])

    @property
    def dims(self) -> int:
        return int(self.turned.shape[1])

    def zeros(self, columns: int) -> Tensor:
        """Weights to begin with, float64."""
        return self.turned.new_zeros(self.dims + 1, columns)

    def times(self, weights: Tensor) -> Tensor:
        """Margins [rows, P]."""
        return self.turned @ weights[:-1] + weights[-1]

    def transposed(self, sums: Tensor) -> Tensor:
        """[rank + 1, P]."""
        import torch

        return torch.cat([self.turned.T @ sums, sums.sum(0, keepdim=True)])

    def approximate_times(self, weights: Tensor) -> Tensor:
        """`times` in float32."""
        return (self._single @ weights[:-1].float()).double() + weights[-1]

    def approximate_transposed(self, sums: Tensor) -> Tensor:
        """`transposed` in float32."""
        import torch

        return torch.cat([(self._single.T @ sums.float()).double(), sums.sum(0, keepdim=True)])

    def drop_approximation(self) -> bool:
        """float32 in the inner products, float64 outside: it is not what stops progress."""
        return False

    def refine_preconditioner(self) -> bool:
        """X'X is diagonal here: there is nothing better."""
        return False

    def precondition(self, vector: Tensor, curvature: Tensor, hard: Tensor) -> Tensor:
        """vector / (1 + curvature * diagonal of X'X); curvature: mean second derivative of the
        loss, [P].
        """
        import torch

        diagonal = torch.cat([self.spectrum, self.spectrum.new_tensor([float(self.rows)])])
        return vector / (1 + diagonal[:, None] * curvature)

    def to_dual(self, gradient: Tensor) -> Tensor:
        """The gradient: directions are sought in the weights' own coordinates."""
        return gradient

    def from_dual(self, step: Tensor) -> Tensor:
        """The step itself."""
        return step

    def to_primal(self, weights: Tensor) -> Tensor:
        """Weights in the original space, float64 [dims + 1, P]."""
        import torch

        weights_of = back(self.features, (self.back @ weights[:-1]).cpu(), self.device)
        return torch.cat([weights_of[:-1].double(), weights[-1:].cpu()])


class Rows:
    """The features as they are, read block by block: the exact products."""

    def __init__(self, features: Features, device: str) -> None:
        import torch

        self.rows, self.dims = features.shape
        source = as_tensor(features)
        if source.dtype == torch.float64:
            source = source.float()
        self._source = source.to(device)
        if device == "cpu" and source.dtype != torch.float32 and source.numel() * 4 <= KEEP_FLOAT32:
            self._source = source.float()
        # On a CPU a block that stays in the cache is converted for next to nothing; a GPU wants
        # large ones.
        self._block = block_rows(self.dims, 2048 if device != "cpu" else 16)
        self._buffer: Tensor | None = None

    def zeros(self, columns: int) -> Tensor:
        """Weights to begin with, float32."""
        import torch

        return torch.zeros(self.dims + 1, columns, device=self._source.device)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, their features as float32); the next block overwrites the one before it."""
        import torch

        if self._source.dtype == torch.float32:
            yield slice(0, self.rows), self._source
            return
        if self._buffer is None:
            self._buffer = torch.empty(
                min(self._block, self.rows), self.dims, device=self._source.device
            )
        for start in range(0, self.rows, self._block):
            rows = slice(start, min(start + self._block, self.rows))
            block = self._buffer[: rows.stop - rows.start]
            block.copy_(self._source[rows])
            yield rows, block

    def times(self, weights: Tensor) -> Tensor:
        """Margins [rows, P], float32."""
        import torch

        out = weights.new_empty(self.rows, weights.shape[1])
        inner = weights[:-1].contiguous()
        for rows, block in self._blocks():
            torch.addmm(weights[-1], block, inner, out=out[rows])
        return out

    def transposed(self, sums: Tensor) -> Tensor:
        """[dims + 1, P], float32."""
        import torch

        turned = sums.T.contiguous()
        out = sums.new_zeros(sums.shape[1], self.dims)
        for rows, block in self._blocks():
            out.addmm_(turned[:, rows], block)
        return torch.cat([out.T, sums.sum(0, keepdim=True)])


class Blocks(Rows):
    """`Rows` with a bf16 copy for the solver's inner products where it pays, and a preconditioner
    from a sample of the rows.
    """

    def __init__(self, features: Features, seed: int, device: str) -> None:
        super().__init__(features, device)
        self._approximate = self._source.bfloat16() if self._approximation_pays(device) else None
        # The transposed product is three times as quick on a CPU from a transposed copy.
        turn = (
            self._approximate is not None
            and device == "cpu"
            and self._approximate.numel() * 2 <= KEEP_TRANSPOSED
        )
        self._turned = (
            self._approximate.T.contiguous() if turn and self._approximate is not None else None
        )
        self._basis, self._spectrum = self._eigenbasis(seed, device)
        self._gram: Tensor | None = None
        self._factors: dict[int, Tensor] = {}

    def _approximation_pays(self, device: str) -> bool:
        return self.rows * self.dims >= APPROXIMATE_VALUES and bf16_is_fast(device)

    def _eigenbasis(self, seed: int, device: str) -> tuple[Tensor, Tensor]:
        """Orthonormal directions [dims + 1, r] and X'X along them: all of them, or those of a
        sample of rows, scaled up.
        """
        import torch

        if self.dims < SAMPLE_ROWS:
            identity = torch.eye(self.dims + 1, device=device)
            spectrum, vectors = torch.linalg.eigh(self.transposed(self.times(identity)).double())
            return vectors.float(), spectrum.clamp(min=0).float()
        count = min(self.rows, SAMPLE_ROWS)
        chosen = np.sort(
            numpy_stream(seed, "preconditioner", self.rows).choice(self.rows, count, replace=False)
        )
        sample = self._source[torch.from_numpy(chosen).to(device)].float()
        sample = torch.cat([sample, torch.ones(count, 1, device=sample.device)], dim=1)
        spectrum, vectors = torch.linalg.eigh((sample @ sample.T).double())
        kept = spectrum > spectrum[-1] * 1e-6
        spectrum, vectors = spectrum[kept], vectors[:, kept]
        basis = sample.T @ (vectors / spectrum.sqrt()).float()
        return basis, (spectrum * (self.rows / count)).float()

    def approximate_times(self, weights: Tensor) -> Tensor:
        """`times` in bf16 where a copy is kept."""
        if self._approximate is None:
            return self.times(weights)
        out: Tensor = (self._approximate @ weights[:-1].bfloat16()).float() + weights[-1]
        return out

    def approximate_transposed(self, sums: Tensor) -> Tensor:
        """`transposed` in bf16 where a copy is kept."""
        import torch

        if self._approximate is None:
            return self.transposed(sums)
        turned = self._approximate.T if self._turned is None else self._turned
        return torch.cat([(turned @ sums.bfloat16()).float(), sums.sum(0, keepdim=True)])

    def drop_approximation(self) -> bool:
        """Drops the bf16 copy when its directions no longer help; says whether there was one."""
        there = self._approximate is not None
        self._approximate = self._turned = None
        return there

    def refine_preconditioner(self) -> bool:
        """From now on hard columns are preconditioned with X'X of all rows; False where that is too
        wide.
        """
        import torch

        if not SAMPLE_ROWS <= self.dims <= EXACT_DIMS:
            return False
        if self._gram is not None:
            return True
        gram = self._basis.new_zeros(self.dims, self.dims)
        total, part = self._basis.new_zeros(self.dims), -(-self.dims // 8)
        for _, block in self._blocks():
            total += block.sum(0)
            for low in range(0, self.dims, part):  # each pair of columns once
                gram[low : low + part, : low + part].addmm_(
                    block[:, low : low + part].T, block[:, : low + part]
                )
        ones = total.new_tensor([float(self.rows)])
        lower = torch.cat(
            [
                torch.cat([gram.tril(), total.new_zeros(self.dims, 1)], 1),
                torch.cat([total, ones])[None],
            ]
        )
        self._gram = lower + lower.tril(-1).T
        return True

    def _factor(self, level: int) -> Tensor:
        """Cholesky factor of 1 + 4^level X'X; a jitter where float32 does not resolve it."""
        import torch

        if level in self._factors:
            self._factors[level] = self._factors.pop(level)  # the one used last is the last to go
        else:
            assert self._gram is not None
            while len(self._factors) >= max(2, FACTOR_BYTES // (4 * self._gram.numel())):
                self._factors.pop(next(iter(self._factors)))
            matrix = self._gram * 4.0**level
            ridge, wrong = 1.0, 1
            while wrong:
                matrix.diagonal().add_(ridge)
                factor, info = torch.linalg.cholesky_ex(matrix)
                ridge, wrong = 10 * ridge, int(info)
            self._factors[level] = factor
        return self._factors[level]

    def precondition(self, vector: Tensor, curvature: Tensor, hard: Tensor) -> Tensor:
        """(1 + curvature * V diag(spectrum) V')^-1 vector by Woodbury's formula; curvature and hard
        [P].

        Hard columns: (1 + curvature * X'X)^-1 vector, the curvature rounded to a power of 4 so that
            columns share their factors.
        """
        import torch

        if self._gram is None or not bool(hard.any()):
            return self._sampled(vector, curvature)
        out = torch.empty_like(vector)
        easy = (~hard).nonzero()[:, 0]
        out[:, easy] = self._sampled(vector[:, easy], curvature[easy])
        levels = curvature.clamp(min=1e-30).log2().div(2).round().int()
        for level in sorted(set(levels[hard].tolist())):
            columns = (hard & (levels == level)).nonzero()[:, 0]
            out[:, columns] = torch.cholesky_solve(vector[:, columns], self._factor(level))
        return out

    def _sampled(self, vector: Tensor, curvature: Tensor) -> Tensor:
        shrink = 1 / (1 + self._spectrum[:, None] * curvature) - 1
        change: Tensor = vector + self._basis @ (shrink * (self._basis.T @ vector))
        return change

    def to_dual(self, gradient: Tensor) -> Tensor:
        """The gradient: directions are sought in the weights' own coordinates."""
        return gradient

    def from_dual(self, step: Tensor) -> Tensor:
        """The step itself."""
        return step

    def to_primal(self, weights: Tensor) -> Tensor:
        """Nothing to lift: the weights are in the original space."""
        return weights
