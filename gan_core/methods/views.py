"""Random views of images for contrastive methods: crop, flip, colour jitter, grey; differentiable.

The "simclr" views of ContraD's code (jh-jeong/ContraD): crop of 0.2 to 1 of the area at a ratio of
3/4 to 4/3, flip with probability 0.5, jitter with probability 0.8 (brightness, contrast and
saturation by up to 0.4, hue by up to 0.1), grey with probability 0.2. Hue is turned in YIQ space
instead of HSV: linear, hence with an exact gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_TO_RGB = torch.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class View:
    """What a view changes.

    Attributes:
        crop: side in pixels of a crop that is cut out at native resolution and not resized; 0: a
            crop of 0.2 to 1 of the area, resized to the image's side.
        jitter: probability of colour jitter; grey: of a grey image.
    """

    crop: int = 0
    jitter: float = 0.8
    grey: float = 0.2


def draw_view(
    images: Tensor, view: View, random: torch.Generator | None, share: tuple[int, int] = (0, 1)
) -> Tensor:
    """A random view of each image. Args: images: [n, 3, S, S] in [-1, 1]; the same range comes out.

    Random numbers are drawn for the whole batch of all processes; this one keeps its share.
    """
    images = images.float()
    rank, processes = share
    whole = torch.rand(
        (len(images) * processes, 12), generator=random, device=images.device, dtype=torch.float32
    )
    u = whole[rank::processes]
    return recolour(crop(images, view.crop, u[:, :5]), view, u[:, 5:])


def crop(images: Tensor, side: int, u: Tensor) -> Tensor:
    """Flipped crops of images [n, C, S, S] by uniform numbers u [n, 5]: [n, C, side or S, same]."""
    size = images.shape[-1]
    if side:
        return _cut(images, min(side, size), u)
    area = 0.2 + 0.8 * u[:, 0]
    ratio = torch.exp((2 * u[:, 1] - 1) * math.log(4 / 3))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    across, down = (2 * u[:, 2] - 1) * (1 - width), (2 * u[:, 3] - 1) * (1 - height)
    flip = torch.where(u[:, 4] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    theta = torch.stack(
        [torch.stack([width * flip, zero, across], 1), torch.stack([zero, height, down], 1)], 1
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _cut(images: Tensor, side: int, u: Tensor) -> Tensor:
    """Crops of side x side pixels at whole pixels, flipped with probability one half."""
    n, channels, size, _ = images.shape
    room = size - side + 1
    top, left = (u[:, 2] * room).long(), (u[:, 3] * room).long()
    steps = torch.arange(side, device=images.device)
    columns = left[:, None] + torch.where(u[:, 4:5] < 0.5, side - 1 - steps, steps)
    place = ((top[:, None] + steps)[:, :, None] * size + columns[:, None, :]).flatten(1)
    index = place[:, None, :].expand(-1, channels, -1)
    return images.flatten(2).gather(2, index).view(n, channels, side, side)


def recolour(images: Tensor, view: View, u: Tensor) -> Tensor:
    """Jittered and partly grey images by uniform numbers u [n, 7]; values are clamped to
    [-1, 1].
    """
    x = (images + 1) / 2
    column = (slice(None), None, None, None)
    brightness, contrast, saturation = (0.6 + 0.8 * u[:, :3]).unbind(1)
    y = x * brightness[column]
    y = (y - y.mean((2, 3), keepdim=True)) * contrast[column] + y.mean((2, 3), keepdim=True)
    angle = (2 * u[:, 3] - 1) * (0.1 * 2 * math.pi)
    y = torch.einsum("nij,njhw->nihw", _colour(angle, saturation), y).clamp(0, 1)
    x = torch.where((u[:, 4] < view.jitter)[column], y, x)
    grey = (x * _TO_YIQ[0].to(x)[None, :, None, None]).sum(1, keepdim=True).expand_as(x)
    x = torch.where((u[:, 5] < view.grey)[column], grey, x)
    return x * 2 - 1


def _colour(angle: Tensor, saturation: Tensor) -> Tensor:
    """Matrices [n, 3, 3] on RGB that turn the hue by `angle` and scale the saturation."""
    cos, sin = angle.cos() * saturation, angle.sin() * saturation
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack(
        [
            torch.stack([one, zero, zero], 1),
            torch.stack([zero, cos, -sin], 1),
            torch.stack([zero, sin, cos], 1),
        ],
        1,
    )
    matrices: Tensor = _TO_RGB.to(turn) @ turn @ _TO_YIQ.to(turn)
    return matrices
