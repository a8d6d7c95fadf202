"""The features with a constant 1 appended, seen as a linear map: products with it and with its transpose.

Two precisions. The exact one (float32 arithmetic on the float16 values as they are, converted block by block) decides
everything that a result depends on: margins, gradients, certificates. The quick one (bf16, stored) only proposes directions
to a conjugate-gradient solver. Small problems with fewer rows than dimensions are first turned, exactly, into the space that
their rows span (`Compact`), where they are solved in float64; middling ones likewise, to the precision of float32 (`Turned`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gan_core.probes._gram import back, gram_of
from gan_core.probes.base import Features, as_tensor, block_rows
from gan_core.randomness import numpy_stream

if TYPE_CHECKING:
    from torch import Tensor

TURNED_SHARE = 0.5  # rows / dimensions up to which the rows' own space pays
TURNED_ROWS = 12_000  # its matrix has so many rows and columns
COMPACT_ROWS = 1600  # up to here the eigenvalues of the rows' Gram matrix cost less than the passes they save
SAMPLE_ROWS = 1000  # rows behind the preconditioner of larger problems
EXACT_DIMS = 8192  # up to so many dimensions a hard problem gets a preconditioner from all rows
FACTORS = 8  # of its Cholesky factors, [dims + 1, dims + 1] float32 each, so many are kept
KEEP_FLOAT32 = 2**28  # bytes up to which a float32 copy is kept instead of converting again for every product
KEEP_TURNED = 3 * 2**30  # bytes up to which the bf16 copy is kept a second time, transposed
QUICK_VALUES = 2**24  # features x rows from which a stored bf16 copy pays


class LinearMap(Protocol):
    """What the solver needs of the data. P columns stand for P problems; weights are [dims + 1, P], the last row the intercept."""

    @property
    def rows(self) -> int: ...

    @property
    def dims(self) -> int: ...

    def zeros(self, columns: int) -> Tensor: ...

    def times(self, weights: Tensor) -> Tensor: ...

    def transposed(self, sums: Tensor) -> Tensor: ...

    def quick_times(self, weights: Tensor) -> Tensor: ...

    def quick_transposed(self, sums: Tensor) -> Tensor: ...

    def precondition(self, vector: Tensor, curvature: Tensor) -> Tensor: ...

    def sharpen(self) -> None: ...

    def lift(self, weights: Tensor) -> Tensor: ...

    def give_up_quick(self) -> bool: ...


def linear_map(features: Features, seed: int, device: str) -> Compact | Turned | Blocks:
    """The cheapest exact form of the problem for data of this shape."""
    if len(features) <= COMPACT_ROWS and len(features) < features.shape[1]:
        return Compact.of(features, device)
    if len(features) <= min(TURNED_ROWS, TURNED_SHARE * features.shape[1]):
        return Turned(features, seed, device)
    return Blocks(features, seed, device)


@dataclass
class Compact:
    """Rows turned into the basis of their own span: [rows, rank] instead of [rows, dims], the same Gram matrix.

    A linear classifier with a squared penalty has its weights in the span of the rows, and turning the space changes neither
    products nor norms: the solution is the same. In this basis X'X is diagonal, which gives the preconditioner for nothing.

    Attributes:
        turned: float64 [rows, rank].
        spectrum: float64 [rank], the squared lengths of its columns.
        back: float64 [rows, rank]; features.T @ back @ weights are the weights in the original space.
    """

    features: Features
    turned: Tensor
    _single: Tensor
    spectrum: Tensor
    back: Tensor
    device: str

    @staticmethod
    def of(features: Features, device: str) -> Compact:
        """Eigenvectors of the Gram matrix, in float64 (its condition is the square of the features')."""
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

    def quick_times(self, weights: Tensor) -> Tensor:
        """`times` in float32."""
        return (self._single @ weights[:-1].float()).double() + weights[-1]

    def quick_transposed(self, sums: Tensor) -> Tensor:
        """`transposed` in float32."""
        import torch

        return torch.cat([(self._single.T @ sums.float()).double(), sums.sum(0, keepdim=True)])

    def give_up_quick(self) -> bool:
        """float32 in the inner products, float64 outside: it is not what stops progress."""
        return False

    def sharpen(self) -> None:
        """X'X is diagonal here: there is nothing better."""

    def precondition(self, vector: Tensor, curvature: Tensor) -> Tensor:
        """vector / (1 + curvature * diagonal of X'X); curvature: mean second derivative of the loss, [P]."""
        import torch

        diagonal = torch.cat([self.spectrum, self.spectrum.new_tensor([float(self.rows)])])
        return vector / (1 + diagonal[:, None] * curvature)

    def lift(self, weights: Tensor) -> Tensor:
        """Weights in the original space, float64 [dims + 1, P]."""
        import torch

        weights_of = back(self.features, (self.back @ weights[:-1]).cpu(), self.device)
        return torch.cat([weights_of[:-1].double(), weights[-1:].cpu()])


class Blocks:
    """The features as they are, read block by block; a bf16 copy for the solver's inner products where it pays."""

    def __init__(self, features: Features, seed: int, device: str) -> None:
        import torch

        self.rows, self.dims = features.shape
        source = as_tensor(features)
        if source.dtype == torch.float64:
            source = source.float()
        self._source = source.to(device)
        if device == "cpu" and source.dtype != torch.float32 and source.numel() * 4 <= KEEP_FLOAT32:
            self._source = source.float()
        # On a CPU a block that stays in the cache is converted for next to nothing; a GPU wants large ones.
        self._block = block_rows(self.dims, 2048 if device != "cpu" else 16)
        self._buffer: Tensor | None = None
        self._quick = self._source.bfloat16() if self._quick_pays(device) else None
        # The transposed product is three times as quick on a CPU from a transposed copy.
        turn = self._quick is not None and device == "cpu" and self._quick.numel() * 2 <= KEEP_TURNED
        self._turned = self._quick.T.contiguous() if turn and self._quick is not None else None
        self._basis, self._spectrum = self._eigenbasis(seed, device)
        self._gram: Tensor | None = None
        self._factors: dict[int, Tensor] = {}

    def _quick_pays(self, device: str) -> bool:
        import torch

        if self.rows * self.dims < QUICK_VALUES:
            return False
        return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def _eigenbasis(self, seed: int, device: str) -> tuple[Tensor, Tensor]:
        """Orthonormal directions [dims + 1, r] and X'X along them: all of them, or those of a sample of rows, scaled up."""
        import torch

        if self.dims < SAMPLE_ROWS:
            identity = torch.eye(self.dims + 1, device=device)
            spectrum, vectors = torch.linalg.eigh(self.transposed(self.times(identity)).double())
            return vectors.float(), spectrum.clamp(min=0).float()
        count = min(self.rows, SAMPLE_ROWS)
        chosen = np.sort(numpy_stream(seed, "preconditioner", self.rows).choice(self.rows, count, replace=False))
        sample = self._source[torch.from_numpy(chosen).to(device)].float()
        sample = torch.cat([sample, torch.ones(count, 1, device=sample.device)], dim=1)
        spectrum, vectors = torch.linalg.eigh((sample @ sample.T).double())
        kept = spectrum > spectrum[-1] * 1e-6
        spectrum, vectors = spectrum[kept], vectors[:, kept]
        basis = sample.T @ (vectors / spectrum.sqrt()).float()
        return basis, (spectrum * (self.rows / count)).float()

    def zeros(self, columns: int) -> Tensor:
        """Weights to begin with, float32."""
        return self._basis.new_zeros(self.dims + 1, columns)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, their features as float32); the next block overwrites the one before it."""
        import torch

        if self._source.dtype == torch.float32:
            yield slice(0, self.rows), self._source
            return
        if self._buffer is None:
            self._buffer = torch.empty(min(self._block, self.rows), self.dims, device=self._source.device)
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

    def quick_times(self, weights: Tensor) -> Tensor:
        """`times` in bf16 where a copy is kept."""
        if self._quick is None:
            return self.times(weights)
        out: Tensor = (self._quick @ weights[:-1].bfloat16()).float() + weights[-1]
        return out

    def quick_transposed(self, sums: Tensor) -> Tensor:
        """`transposed` in bf16 where a copy is kept."""
        import torch

        if self._quick is None:
            return self.transposed(sums)
        turned = self._quick.T if self._turned is None else self._turned
        return torch.cat([(turned @ sums.bfloat16()).float(), sums.sum(0, keepdim=True)])

    def give_up_quick(self) -> bool:
        """Drops the bf16 copy when its directions no longer help; says whether there was one."""
        there = self._quick is not None
        self._quick = self._turned = None
        return there

    def sharpen(self) -> None:
        """From now on preconditions with X'X of all rows, where that is not too wide; the sample's eigenvectors had it nearly."""
        import torch

        if self._gram is not None or not SAMPLE_ROWS <= self.dims <= EXACT_DIMS:
            return
        gram = self._basis.new_zeros(self.dims, self.dims)
        total, part = self._basis.new_zeros(self.dims), -(-self.dims // 8)
        for _, block in self._blocks():
            total += block.sum(0)
            for low in range(0, self.dims, part):  # each pair of columns once
                gram[low : low + part, : low + part].addmm_(block[:, low : low + part].T, block[:, : low + part])
        ones = total.new_tensor([float(self.rows)])
        lower = torch.cat([torch.cat([gram.tril(), total.new_zeros(self.dims, 1)], 1), torch.cat([total, ones])[None]])
        self._gram = lower + lower.tril(-1).T

    def _factor(self, level: int) -> Tensor:
        """Cholesky factor of 1 + 4^level X'X; a jitter where float32 does not resolve it."""
        import torch

        if level not in self._factors:
            assert self._gram is not None
            if len(self._factors) >= FACTORS:
                self._factors.pop(next(iter(self._factors)))
            matrix = self._gram * 4.0**level
            ridge, wrong = 1.0, 1
            while wrong:
                matrix.diagonal().add_(ridge)
                factor, info = torch.linalg.cholesky_ex(matrix)
                ridge, wrong = 10 * ridge, int(info)
            self._factors[level] = factor
        return self._factors[level]

    def precondition(self, vector: Tensor, curvature: Tensor) -> Tensor:
        """(1 + curvature * V diag(spectrum) V')^-1 vector by Woodbury's formula; curvature [P].

        Sharpened: (1 + curvature * X'X)^-1 vector, the curvature rounded to a power of 4 so that columns share their factors.
        """
        import torch

        if self._gram is not None:
            out = torch.empty_like(vector)
            levels = curvature.clamp(min=1e-30).log2().div(2).round().int()
            for level in sorted(set(levels.tolist())):
                columns = (levels == level).nonzero()[:, 0]
                out[:, columns] = torch.cholesky_solve(vector[:, columns], self._factor(level))
            return out
        shrink = 1 / (1 + self._spectrum[:, None] * curvature) - 1
        change: Tensor = vector + self._basis @ (shrink * (self._basis.T @ vector))
        return change

    def lift(self, weights: Tensor) -> Tensor:
        """Nothing to lift: the weights are in the original space."""
        return weights


class Turned(Blocks):
    """Rows turned into a triangular basis of their own span: [rows, rows] instead of [rows, dims], nearly the same Gram matrix.

    The basis is the Cholesky factor L of the rows' Gram matrix XX' plus `JITTER` of its mean diagonal, so a product costs
    rows x rows instead of rows x dims. Sums run in float32, and what the jitter changes is below what float32 resolves; the caller
    has the solution certified on the features themselves (`_linear.solved`).
    """

    JITTER = 1e-6

    def __init__(self, features: Features, seed: int, device: str) -> None:
        import torch

        gram = single_gram(features, device).double()
        jitter, wrong = self.JITTER * float(gram.diagonal().mean()), 1
        while wrong:  # equal rows make the matrix singular, and rounding may make it worse
            gram.diagonal().add_(jitter)
            self._root, info = torch.linalg.cholesky_ex(gram)
            jitter, wrong = 10 * jitter, int(info)
        self._features, self._device = features, device
        super().__init__(self._root.float().cpu().numpy(), seed, device)

    def lift(self, weights: Tensor) -> Tensor:
        """Weights in the original space, float32 [dims + 1, P]: X' L'^-1 weights."""
        import torch

        inner = torch.linalg.solve_triangular(self._root.T, weights[:-1].double(), upper=True)
        return torch.cat([back(self._features, inner, self._device)[:-1].to(weights), weights[-1:]])


def single_gram(features: Features, device: str) -> Tensor:
    """Inner products of all rows, float32 [rows, rows], each pair once; the features are converted a block of columns at a time."""
    import torch

    rows, dims = features.shape
    gram = torch.zeros(rows, rows, device=device)
    part, step = max(256, -(-rows // 8)), max(256, 2**26 // (4 * max(rows, 1)))
    for start in range(0, dims, step):
        block = as_tensor(features[:, start : start + step]).to(device).float()
        for low in range(0, rows, part):
            gram[low : low + part, : low + part].addmm_(block[low : low + part], block[: low + part].T)
    return gram.tril() + gram.tril(-1).T
