"""Problems of middling size with fewer rows than dimensions: directions sought in the space that
the rows span.

A Newton direction needs X'X only along the rows, and any factor L of a matrix near the rows' Gram
matrix XX' gives it in rows x rows values instead of rows x dims. So the problem is first solved
with L in place of X, which is quick, and then, from there, on the features: margins, gradients and
line searches are those of the features (`Rows`), the directions come from L. What L lacks (bf16
products, the jitter that its Cholesky factorisation needs) costs further steps and changes no
result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gan_core.probes.base import Features, as_tensor
from gan_core.probes.solver.design import Blocks, Rows, bf16_is_fast

if TYPE_CHECKING:
    from torch import Tensor

DUAL_SHARE = 0.5  # rows / dimensions up to which the rows' own space pays
DUAL_ROWS = 12_000  # its matrix has so many rows and columns
# penalty relative to the Gram matrix's mean diagonal from which bf16 products are near enough
APPROXIMATE_RIDGE = 0.02
JITTER = 1e-6  # added to the diagonal, relative to its mean: above the rounding of float32
SAMPLE, LONGEST = (
    256,
    32,
)  # rows of a sample, and so many of its longest directions are kept out of bf16 products


class Dual(Rows):
    """The features, with directions from the Cholesky factor of (nearly) their rows' Gram matrix.

    Args:
        curvature_of: largest second derivative of any of the losses by a margin; a small one makes
            a hard penalty, which forgives more.

    Attributes:
        near: the factor as a problem of its own, [rows, rows].
    """

    def __init__(self, features: Features, seed: int, device: str, curvature_of: float) -> None:
        import torch

        super().__init__(features, device)
        ridge = 1 / max(curvature_of * self._mean_square(), 1e-300)
        approximate = bf16_is_fast(device) and ridge > APPROXIMATE_RIDGE
        if approximate:
            gram, rounding = approximate_gram(features, device)
            jitter = max(rounding, 0.01 * ridge)
        else:
            gram, jitter = single_gram(features, device).double(), min(JITTER, 0.01 * ridge)
        jitter, wrong = (
            jitter * float(gram.diagonal().mean()) or 1.0,
            1,
        )  # features that are all 0 have no size
        while wrong:  # equal rows make the matrix singular, and rounding may make it worse
            gram.diagonal().add_(jitter)
            self._root, info = torch.linalg.cholesky_ex(gram)
            jitter, wrong = 4 * jitter, int(info)
        self.near = Blocks(self._root.float().cpu().numpy(), seed, device)

    def _mean_square(self) -> float:
        """Mean squared length of some of the rows."""
        some = self._source[:: max(1, self.rows // 64)].float()
        return float(some.square().sum(1).mean())

    def to_dual(self, gradient: Tensor) -> Tensor:
        """A gradient in the coordinates of `near`: L^-1 X gradient."""
        import torch

        along = self.times(torch.cat([gradient[:-1], torch.zeros_like(gradient[-1:])])).to(
            self._root
        )
        return torch.cat(
            [
                torch.linalg.solve_triangular(self._root, along, upper=False).to(gradient),
                gradient[-1:],
            ]
        )

    def from_dual(self, step: Tensor) -> Tensor:
        """What coordinates of `near` stand for: X' L'^-1 step."""
        import torch

        inner = torch.linalg.solve_triangular(
            self._root.T, step[:-1].to(self._root), upper=True
        ).to(step)
        return torch.cat([self.transposed(inner)[:-1], step[-1:]])

    def approximate_times(self, weights: Tensor) -> Tensor:
        """That of `near`."""
        return self.near.approximate_times(weights)

    def approximate_transposed(self, sums: Tensor) -> Tensor:
        """That of `near`."""
        return self.near.approximate_transposed(sums)

    def precondition(self, vector: Tensor, curvature: Tensor, hard: Tensor) -> Tensor:
        """That of `near`."""
        return self.near.precondition(vector, curvature, hard)

    def refine_preconditioner(self) -> bool:
        """That of `near`."""
        return self.near.refine_preconditioner()

    def drop_approximation(self) -> bool:
        """That of `near`."""
        return self.near.drop_approximation()

    def to_primal(self, weights: Tensor) -> Tensor:
        """Nothing to lift: the weights are in the original space."""
        return weights


def single_gram(features: Features, device: str) -> Tensor:
    """Inner products of all rows, float32 [rows, rows], each pair once; the features are converted
    a block of columns at a time.
    """
    import torch

    rows, dims = features.shape
    source, gram = as_tensor(features), torch.zeros(rows, rows, device=device)
    part, step = max(256, -(-rows // 8)), max(256, 2**26 // (4 * max(rows, 1)))
    for start in range(0, dims, step):
        block = source[:, start : start + step].to(device).float()
        for low in range(0, rows, part):
            gram[low : low + part, : low + part].addmm_(
                block[low : low + part], block[: low + part].T
            )
    return gram.tril() + gram.tril(-1).T


def approximate_gram(features: Features, device: str) -> tuple[Tensor, float]:
    """`single_gram` by bf16 products, and about how far off it is (spectral norm, relative to the
    mean diagonal).

    torch rounds each product of bf16 matrices to bf16, by up to 2^-9 of its size, and rows that are
    not centred have large products: so the directions in which a sample of rows is longest are
    taken off before and put back after, in float32; blocks of columns are summed in float32, and so
    is the diagonal.
    """
    import torch

    rows, dims = features.shape
    source, gram = as_tensor(features), torch.zeros(rows, rows, device=device)
    part, step = max(256, -(-rows // 8)), min(4096, max(256, 2**27 // (4 * max(rows, 1))))
    longest = _leading_directions(source, device)
    buffer = torch.empty(rows * min(step, dims), device=device)

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, dims, step):
            wide = min(step, dims - start)
            block = buffer[: rows * wide].view(rows, wide).copy_(source[:, start : start + wide])
            yield block, longest[start : start + wide]

    along, square = (
        torch.zeros(rows, longest.shape[1], device=device),
        torch.zeros(rows, device=device),
    )
    for block, directions in blocks():
        along.addmm_(block, directions)
    for block, directions in blocks():
        block.addmm_(along, directions.T, alpha=-1)
        square += torch.einsum("ij,ij->i", block, block)
        short = block.bfloat16()
        for low in range(0, rows, part):
            gram[low : low + part, : low + part] += short[low : low + part] @ short[: low + part].T
    gram = gram.tril(-1)
    gram += gram.T.clone()
    # Independent entries of size 1 have norm 2 sqrt(rows); these are not quite independent:
    # measured, 3 times as much.
    size = 2**-9 / 3**0.5 * float(gram.square().mean().sqrt()) / (dims / step) ** 0.5
    rounding = 3 * 2 * rows**0.5 * size
    gram.diagonal().copy_(square)
    gram.addmm_(along, along.T)
    return gram, rounding / max(float(gram.diagonal().mean()), 1e-300)


def _leading_directions(source: Tensor, device: str) -> Tensor:
    """Orthonormal directions float32 [dims, LONGEST] in which evenly spaced rows are longest."""
    import torch

    sample = source[:: max(1, len(source) // SAMPLE)][:SAMPLE].to(device).float()
    spectrum, vectors = torch.linalg.eigh((sample @ sample.T).double())
    spectrum, vectors = spectrum[-LONGEST:], vectors[:, -LONGEST:]
    kept = (
        spectrum > spectrum[-1] * 1e-5
    )  # what is as short as float32's rounding is not orthogonal to the others
    directions: Tensor = sample.T @ (vectors[:, kept] / spectrum[kept].sqrt()).float()
    return directions
