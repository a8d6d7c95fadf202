"""Ways of taking features, by name: which layers, how they are pooled, what is done to them. They
work on any network.

A network here is whatever lists its layers in order (`layers()`): the project's own, an encoder, or
anybody's (`foreign.ForeignNetwork`). Hidden layers are those of kind conv, deconv, project and
linear, after their nonlinearity; the output is the last entry of the list.

    dcgan      every convolutional layer, pooled to a grid (DCGAN, section 5.1). The only one that
    `grid` and `pool` change. output     the output as it is: E(x) of BiGAN, on which Donahue et al.
    run nearest neighbours ali        the last three hidden layers and the output, whole and joined
    (ALI's SVHN protocol) avepool    the last convolutional layer, averaged over all places
    (BigBiGAN) bn_crelu   avepool, then a = BN(f) and [max(a, 0), max(-a, 0)]: twice as many
    (BigBiGAN)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from gan_core.config import FeatureMode
from gan_core.errors import DataError, UnknownName
from gan_core.features.pooling import LayerSize, Pool, pooled_shape
from gan_core.networks.layers import LayerInfo

if TYPE_CHECKING:
    from gan_core.features.extract import Network

MODES = get_args(FeatureMode)
WHOLE = 1 << 20  # a grid that no map exceeds: maps stay as they are
EPS = 1e-5  # added to bn_crelu's variance: torch's default; the paper names none
_HIDDEN = ("conv", "deconv", "project", "linear")
_ALI_HIDDEN = 3


@dataclass(frozen=True)
class Taking:
    """What is taken of a network: its layers with their sizes, and how they are pooled."""

    sizes: list[LayerSize]
    grid: int
    pool: Pool
    crelu: bool = False


def taking(
    network: Network,
    mode: str = "dcgan",
    layers: Sequence[str] | None = None,
    grid: int = 4,
    pool: Pool = "max",
) -> Taking:
    """What a mode takes of a network.

    Args:
        layers: names, in place of the mode's own choice of layers.
        grid, pool: of mode dcgan; the others have their own.

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
    twice = 2 if mode == "bn_crelu" else 1
    sizes = []
    for info in infos:
        if info.name in wanted:
            channels, height, width = pooled_shape(info.shape, grid)
            sizes.append(LayerSize(info.name, info.shape, (twice * channels, height, width)))
    return Taking(sizes, grid, pool, mode == "bn_crelu")


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
        """The statistics as '<layer>.crelu.mean' and '<layer>.crelu.variance', float32 on the CPU."""
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
