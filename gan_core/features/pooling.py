"""From a layer's maps to a fixed grid, and how long the vector is that comes out.

The features of the DCGAN paper (section 5.1) are the activations of every convolutional layer after
its LeakyReLU, each map max-pooled to 4 x 4, flattened channel by channel, row by row, and joined in
the order of the layers; nothing is scaled (svhn/svhn_semisup_analysis.py). The length follows from
the network: the sum over layers of maps x 4 x 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Pool = Literal["max", "average"]
HALF_MAX = 65504.0  # the largest float16


@dataclass(frozen=True)
class LayerSize:
    """One layer as features. `shape` is what the network gives, `pooled` what is kept, `dims` their
    product.
    """

    name: str
    shape: tuple[int, int, int]
    pooled: tuple[int, int, int]

    @property
    def dims(self) -> int:
        channels, height, width = self.pooled
        return channels * height * width

    def as_json(self) -> dict[str, object]:
        """For summaries and lineage."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "pooled": list(self.pooled),
            "dims": self.dims,
        }


def pooled_shape(shape: Sequence[int], grid: int) -> tuple[int, int, int]:
    """(channels, height, width) after pooling. Maps that are no larger than the grid stay as they
    are; flat layers are 1 x 1.
    """
    channels, height, width = (*shape, 1, 1)[:3]
    return (channels, min(height, grid), min(width, grid))


def pool_maps(maps: Tensor, grid: int, pool: Pool = "max") -> Tensor:
    """[n, channels, height, width] (or [n, units]) to [n, channels, min(height, grid), min(width,
    grid)].

    Where height is a multiple of the grid these are plain windows of height / grid. Where it is
    not, window i covers rows floor(i h / grid) to ceil((i + 1) h / grid): neighbouring windows then
    share a row (torch's adaptive pooling).
    """
    if maps.dim() == 2:
        return maps[:, :, None, None]
    size = pooled_shape(maps.shape[1:], grid)[1:]
    if tuple(maps.shape[2:]) == size:
        return maps
    if size == (
        1,
        1,
    ):  # over all places at once, in float32: one kernel instead of adaptive windows
        whole = maps.float()
        return (
            whole.amax((2, 3), keepdim=True) if pool == "max" else whole.mean((2, 3), keepdim=True)
        ).to(maps.dtype)
    return F.adaptive_max_pool2d(maps, size) if pool == "max" else F.adaptive_avg_pool2d(maps, size)


def to_half(values: Tensor) -> tuple[Tensor, int]:
    """float16 on the CPU, and how many values were beyond its range (infinite ones too) and clipped
    to +-65504.
    """
    beyond = int((values.abs() > HALF_MAX).sum())
    if beyond:
        values = values.clamp(-HALF_MAX, HALF_MAX)
    return values.to(torch.float16).cpu(), beyond


def told(sizes: Sequence[LayerSize]) -> str:
    """The sum that a vector's length is: '2,048 (conv1) + 4,096 (conv2) = 6,144'."""
    return (
        " + ".join(f"{size.dims:,} ({size.name})" for size in sizes)
        + f" = {sum(size.dims for size in sizes):,}"
    )


def uneven(sizes: Sequence[LayerSize], grid: int) -> list[str]:
    """Names of the layers whose sides the grid does not divide, so that pooling windows overlap."""
    return [
        size.name for size in sizes if any(side > grid and side % grid for side in size.shape[1:])
    ]
