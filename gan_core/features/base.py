"""What extraction needs of a network: a network of this project or an external one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from gan_core.networks.layers import LayerInfo


class FeatureNetwork(Protocol):
    """A network with named layers whose activations can be read.

    Attributes:
        input_shape: (channels, height, width) of an input.
        assumed: how images become its input, in sentences; empty where images must have its size.
        without_labels: a conditional network answers for images without labels.
    """

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    assumed: list[str]
    without_labels: bool

    def layers(self) -> list[LayerInfo]: ...

    def columns(self, layers: Sequence[str]) -> list[str]: ...

    def norms(self) -> Mapping[str, nn.Module]: ...

    def activations(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]: ...

    def calibrate(self, batches: Iterable[Tensor]) -> int: ...
