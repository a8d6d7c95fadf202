"""Differentiable augmentation: real and generated images are changed alike before the discriminator
sees them, and the generator's gradient passes through. After Zhao et al. 2020
(mit-han-lab/data-efficient-gans, DiffAugment_pytorch.py): colour, translation by up to an eighth, a
cut-out square of half the side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TRANSLATION = 1 / 8  # of the side
CUTOUT = 1 / 2  # of the side


# (rank, processes): these images are every `processes`-th of a batch, from `rank` on
Share = tuple[int, int]


def augment(
    x: Tensor, kinds: Sequence[str], random: torch.Generator | None, share: Share = (0, 1)
) -> Tensor:
    """Images [N, C, S, S] changed at random, every image in its own way.

    Args:
        kinds: of 'color', 'translation', 'cutout', in order.
        random: the stream, equal in all processes; it is drawn from for the whole batch, so that an
            image is changed alike however many processes share it out.
    """
    for kind in kinds:
        x = {"color": _colour, "translation": _translate, "cutout": _cut}[kind](x, random, share)
    return x


def _uniform(x: Tensor, random: torch.Generator | None, share: Share) -> Tensor:
    """One number in [0, 1) per image: [N, 1, 1, 1]."""
    rank, processes = share
    return torch.rand(len(x) * processes, 1, 1, 1, generator=random, device=x.device)[
        rank::processes
    ]


def _colour(x: Tensor, random: torch.Generator | None, share: Share) -> Tensor:
    """Brightness moved by up to 0.5, saturation scaled by 0 to 2, contrast by 0.5 to 1.5."""
    x = x + (_uniform(x, random, share) - 0.5)
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * (_uniform(x, random, share) * 2) + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (_uniform(x, random, share) + 0.5) + mean


def _offsets(
    x: Tensor, lowest: int, highest: int, random: torch.Generator | None, share: Share
) -> tuple[Tensor, Tensor]:
    """Whole offsets in lowest..highest per image: two of [N, 1, 1]."""
    rank, processes = share
    shape = (2, len(x) * processes, 1, 1)
    drawn = torch.randint(lowest, highest + 1, shape, generator=random, device=x.device)[
        :, rank::processes
    ]
    return drawn[0], drawn[1]


def _translate(x: Tensor, random: torch.Generator | None, share: Share) -> Tensor:
    """Moved by up to an eighth of the side both ways; what comes in from outside is 0."""
    side = x.shape[2]
    reach = int(side * TRANSLATION + 0.5)
    down, across = _offsets(x, -reach, reach, random, share)
    padded = torch.nn.functional.pad(x, (reach, reach, reach, reach))
    rows = torch.arange(side, device=x.device)[None, :, None] + reach - down
    columns = torch.arange(side, device=x.device)[None, None, :] + reach - across
    flat = padded.flatten(2).gather(
        2, (rows * padded.shape[3] + columns).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    )
    return flat.view(x.shape).contiguous(memory_format=torch.channels_last)


def _cut(x: Tensor, random: torch.Generator | None, share: Share) -> Tensor:
    """A square of half the side set to 0, from `drawn - size // 2` on; it may stick out, by half at
    most.
    """
    side = x.shape[2]
    size = int(side * CUTOUT + 0.5)
    down, across = _offsets(x, 0, side - size % 2, random, share)
    rows = torch.arange(side, device=x.device)[None, :, None] - (down - size // 2)
    columns = torch.arange(side, device=x.device)[None, None, :] - (across - size // 2)
    hidden = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    return x * (~hidden)[:, None].to(x.dtype)
