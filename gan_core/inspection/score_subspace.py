"""The subspace of a layer's activations that the discriminator's score reads: where its gradient
moves.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gan_core.inspection.base import NotApplicable
from gan_core.networks.snapshot import Snapshot

BATCH = 128


@dataclass(frozen=True)
class Subspace:
    """A subspace of a layer's activations.

    Attributes:
        basis: orthonormal columns, float32 [values or channels, rank].
        maps: of the channels, at each place alike; else of all values.
    """

    basis: Tensor
    maps: bool

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    @property
    def name(self) -> str:
        return f"{'maps' if self.maps else 'values'}, rank {self.rank}"

    @property
    def expected(self) -> float:
        """The share of energy that a random subspace of this rank holds."""
        return self.rank / self.basis.shape[0]

    def coordinates(self, x: Tensor) -> Tensor:
        """The part within the subspace, by its coordinates: activations [n, C, H, W] to [n, rank,
        places].
        """
        return torch.einsum("ncp,ck->nkp", x.reshape(self._as(x)), self.basis)

    def rest(self, x: Tensor) -> Tensor:
        """The part orthogonal to the subspace: [n, C, H, W] to [n, values]."""
        flat = x.reshape(self._as(x))
        return (flat - torch.einsum("nkp,ck->ncp", self.coordinates(x), self.basis)).flatten(1)

    def share(self, x: Tensor) -> float:
        """The part's share of the energy of activations [n, C, H, W]."""
        return float(self.coordinates(x).square().sum() / x.square().sum())

    def _as(self, x: Tensor) -> tuple[int, int, int]:
        return (len(x), self.basis.shape[0], x[0].numel() // self.basis.shape[0])


def task_subspace(gradients: Tensor, rank: int, maps: bool) -> Subspace:
    """The subspace of a rank that holds most of the energy of gradients [n, C, H, W]."""
    channels = gradients.shape[1]
    rows = gradients.transpose(0, 1).reshape(channels, -1).T if maps else gradients.flatten(1)
    rows = rows.double()
    if rows.shape[1] <= len(rows):
        vectors = torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :rank]
    else:
        vectors = rows.T @ torch.linalg.eigh(rows @ rows.T)[1].flip(1)[:, :rank]
    return Subspace(torch.linalg.qr(vectors)[0].float(), maps)


def random_subspace(like: Subspace, random: torch.Generator) -> Subspace:
    """A uniformly drawn subspace of the same space and rank."""
    drawn = torch.randn(like.basis.shape, generator=random, dtype=torch.float64)
    return Subspace(torch.linalg.qr(drawn)[0].float(), like.maps)


def prepared(snapshot: Snapshot, real: Tensor, device: str) -> Snapshot:
    """A copy whose batch-norm statistics are those of real images float [n, 3, S, S].

    Raises: NotApplicable: the method gives images no score.
    """
    if "discriminator" not in snapshot.networks:
        raise NotApplicable("The snapshot has no discriminator.")
    own = copy.deepcopy(snapshot)
    for network in own.networks.values():
        network.without_labels = True
    starts = range(0, len(real) - 1, BATCH)  # batch norm refuses a batch of one image
    own.feature_network("discriminator").calibrate(
        real[start : start + BATCH].to(device) for start in starts
    )
    if own.realness(real[:2].to(device)) is None:
        raise NotApplicable("The method gives images no score of realness.")
    return own


def read(snapshot: Snapshot, layer: str, images: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """A layer's activations of images, and the gradients of their scores by them: float32 [n, C, H,
    W] both, on the CPU.
    """
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_())
        return kept[-1]

    found, gradients = [], []
    hook = snapshot.discriminator.layer(layer).register_forward_hook(keep)
    try:
        for some in torch.split(images, BATCH):
            score = snapshot.realness(some.to(device))
            assert score is not None
            (gradient,) = torch.autograd.grad(score.sum(), kept[-1])
            found.append(kept[-1].detach().float().cpu())
            gradients.append(gradient.float().cpu())
            kept.clear()
    finally:
        hook.remove()
    return torch.cat(found), torch.cat(gradients)
