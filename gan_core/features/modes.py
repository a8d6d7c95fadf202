"""Feature modes by name: which layers of a network, and how their maps become a vector.

The DCGAN paper's features (section 5.1) are the activations of every convolutional layer after its
LeakyReLU, each map max-pooled to 4 x 4, flattened channel by channel, row by row, and joined in the
order of the layers; nothing is scaled (svhn/svhn_semisup_analysis.py). The length is the sum over
layers of maps x 4 x 4. Hidden layers are those of kind conv, deconv, project and linear, after
their nonlinearity; the output is the last entry of `layers()`.

    dcgan      every convolutional layer, pooled to a grid; only here `grid` and `pool` count
    output     the output as it is: E(x) of BiGAN, for Donahue et al.'s nearest neighbours
    ali        the last three hidden layers and the output, whole and joined (ALI, SVHN)
    avepool    the last convolutional layer, averaged over all places (BigBiGAN)
    bn_crelu   avepool, then a = BN(f) and [max(a, 0), max(-a, 0)]: twice as many (BigBiGAN)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.config import ExtractConfig
from gan_core.config.features import FeatureMode
from gan_core.errors import DataError, UnknownName
from gan_core.features.base import FeatureNetwork
from gan_core.features.views import QUADRANTS, WHOLE_IMAGE, Views
from gan_core.networks.layers import LayerInfo

Pool = Literal["max", "average", "both"]
HALF_MAX = 65504.0  # the largest float16
MODES = get_args(FeatureMode)
WHOLE = 1 << 20  # a grid that no map exceeds: maps stay as they are
EPS = 1e-5  # added to bn_crelu's variance: torch's default; the paper names none
_HIDDEN = ("conv", "deconv", "project", "linear")
_ALI_HIDDEN = 3


@dataclass(frozen=True)
class Selection:
    """Layers of a network to read: the layers with their sizes, how they are pooled, and of which
    views of an image.
    """

    sizes: list[LayerSize]
    grid: int = 4
    pool: Pool = "max"
    crelu: bool = False
    views: Views = WHOLE_IMAGE


def select_layers(
    network: FeatureNetwork,
    mode: str = "dcgan",
    layers: Sequence[str] | None = None,
    grid: int = 4,
    pool: Pool = "max",
    views: Views = WHOLE_IMAGE,
) -> Selection:
    """The layers that a mode reads, with their sizes and pooling.

    Args:
        layers: names, in place of the mode's own choice of layers.
        grid, pool: of mode dcgan; the others have their own. 'both' joins maxima and averages.

    Raises: UnknownName for a layer or mode that does not exist; DataError where the network has no
        such layers.
    """
    if mode not in MODES:
        raise UnknownName("mode of features", mode, MODES)
    infos = network.layers()
    known = [info.name for info in infos]
    for name in layers or ():
        if name not in known:
            raise UnknownName(
                "layer", name, known, remedy="set extract.layers to names of this network"
            )
    wanted = list(layers) if layers is not None else _choose(mode, infos)
    if not wanted:
        raise DataError(
            f"The network has no {'layers' if mode == 'output' else 'convolutional layers'} to "
            "take features of.",
            expected=f"layers named in extract.layers; this network has {', '.join(known)}",
        )
    if mode != "dcgan":
        grid, pool = (WHOLE, "max") if mode in ("output", "ali") else (1, "average")
    if views.crop:
        grid = 1  # a place for each quadrant
    twice = 2 if mode == "bn_crelu" or pool == "both" else 1
    sizes = []
    for info in infos:
        if info.name in wanted:
            channels, height, width = pooled_shape(info.shape, grid)
            if views.crop:
                height = width = QUADRANTS
            sizes.append(LayerSize(info.name, info.shape, (twice * channels, height, width)))
    return Selection(sizes, grid, pool, mode == "bn_crelu", views)


def select_configured(network: FeatureNetwork, config: ExtractConfig) -> Selection:
    """The layers, pooling and views that a recipe's section `extract` asks for.

    Raises: as `select_layers`.
    """
    return select_layers(
        network,
        config.mode,
        config.layers and network.columns(config.layers),
        config.grid,
        config.pool,
        Views(config.shift, config.mirror, config.crop, config.crops),
    )


def _choose(mode: str, infos: Sequence[LayerInfo]) -> list[str]:
    maps = [info.name for info in infos if info.maps]
    if mode == "dcgan":
        return maps
    if mode == "output":
        return [infos[-1].name]
    if mode == "ali":
        hidden = [info.name for info in infos[:-1] if info.kind in _HIDDEN]
        return [*hidden[-_ALI_HIDDEN:], infos[-1].name]
    return maps[-1:]


@dataclass
class BatchNormCReLU:
    """BigBiGAN's last step: a = (f - mean) / sqrt(variance + eps), then max(a, 0) and max(-a, 0),
    one after the other.

    Mean and biased variance are over training images (`measure`); the paper's gain and bias are
    left to the probe's weights.

    Attributes:
        mean, variance: layer to float32 [channels].
    """

    mean: dict[str, Tensor] = field(default_factory=dict)
    variance: dict[str, Tensor] = field(default_factory=dict)

    def measure(self, batches: Iterable[dict[str, Tensor]]) -> int:
        """Sets the statistics from pooled activations {layer: [n, channels, 1, 1]}. Returns: the
        number of images.
        """
        total: dict[str, Tensor] = {}
        square: dict[str, Tensor] = {}
        count = 0
        for batch in batches:
            rows = 0
            for name, pooled in batch.items():
                values = pooled.flatten(1).double()
                rows = len(values)
                total[name] = total.get(name, 0) + values.sum(0)
                square[name] = square.get(name, 0) + values.square().sum(0)
            count += rows
        for name in total:
            mean = total[name] / count
            self.mean[name] = mean.float()
            self.variance[name] = (square[name] / count - mean.square()).clamp(min=0).float()
        return count

    def __call__(self, name: str, pooled: Tensor) -> Tensor:
        """[n, channels, 1, 1] to [n, 2 channels, 1, 1]."""
        shape = (1, -1, 1, 1)
        mean, variance = self.mean[name].to(pooled.device), self.variance[name].to(pooled.device)
        a = (pooled.float() - mean.view(shape)) * torch.rsqrt(variance.view(shape) + EPS)
        return torch.cat([a.clamp(min=0), (-a).clamp(min=0)], 1)

    def tensors(self) -> dict[str, Tensor]:
        """The statistics as '<layer>.crelu.mean' and '<layer>.crelu.variance', float32 on
        the CPU.
        """
        found = {}
        for name in self.mean:
            found[f"{name}.crelu.mean"] = self.mean[name].cpu().contiguous()
            found[f"{name}.crelu.variance"] = self.variance[name].cpu().contiguous()
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` gave; other entries are left alone."""
        for ending, where in ((".crelu.mean", self.mean), (".crelu.variance", self.variance)):
            where.update(
                {
                    name.removesuffix(ending): value
                    for name, value in tensors.items()
                    if name.endswith(ending)
                }
            )


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
    if pool == "both":
        return torch.cat([pool_maps(maps, grid, "max"), pool_maps(maps, grid, "average")], 1)
    if maps.dim() == 2:
        return maps[:, :, None, None]
    size = pooled_shape(maps.shape[1:], grid)[1:]
    if tuple(maps.shape[2:]) == size:
        return maps
    if size == (1, 1):  # over all places in float32: one kernel instead of adaptive windows
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


def length_of(sizes: Sequence[LayerSize]) -> str:
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
