"""Networks as lists of named layers whose activations can be read, and which can be run to a layer
and on from a layer.

A network file (`gan_core/networks/<name>.py`) offers ABOUT, IMAGE_SIZE (side in pixels),
LATENT_DIM, PRIOR ('uniform': U(-1, 1), 'normal': N(0, 1)), `generator(width, latent_dim)` and
`discriminator(width, outputs)`; conditional ones also CLASSES. The layers here are those of the
DCGAN authors (Newmu/dcgan_code, lib/ops.py): no biases, batch norm with eps 1e-8.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-8  # added to the variance (lib/ops.py); torch's own default of 1e-5 is 1000 times as much


@dataclass(frozen=True)
class LayerInfo:
    """What a layer puts out.

    Attributes:
        name: the layer's name, unique within its network.
        shape: (channels, height, width) of its activation for one image; (units, 1, 1) for a flat
            one.
        kind: 'conv', 'deconv', 'project' (a linear layer, reshaped to maps), 'linear', 'head'
            (scores), 'image'.
    """

    name: str
    shape: tuple[int, int, int]
    kind: str

    @property
    def maps(self) -> bool:
        """Whether this is a convolutional layer of a discriminator or encoder, the kind that
        features are taken of.
        """
        return self.kind == "conv"


def scaled(maps: int, width: float) -> int:
    """`maps` times `width`, rounded to a multiple of 8 (at least 8): what vector units like."""
    return max(8, 8 * round(maps * width / 8))


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_processes(
            gradients[0]
        )  # every process's loss depends on every process's values


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of `values` over all processes; the gradient flows through, twice if asked."""
    out: Tensor = _SumOverProcesses.apply(values)
    return out


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the channels, for [N, C] and [N, C, H, W].

    In training mode: statistics of the batch (biased variance) and, while `track` is on, a running
        average of them.
    In evaluation mode: the stored statistics (`running_mean`, `running_var`), which
    `measure_statistics` sets. With `across` set, batch statistics are over all processes.
    """

    def __init__(
        self, channels: int, *, affine: bool = True, eps: float = EPS, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.channels, self.eps, self.momentum = channels, eps, momentum
        self.track = True
        self.across = False
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] to the same shape and dtype."""
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if self.across:
            return self._synchronised(x)
        mean, var = (self.running_mean, self.running_var) if self.track else (None, None)
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)

    def _synchronised(self, x: Tensor) -> Tensor:
        """Statistics from sums over all processes. torch's SyncBatchNorm refuses CPU tensors; sums,
        through which the gradient flows, serve both."""
        axes = [0, *range(2, x.dim())]
        values = x.float()
        count = values.new_full((1,), values.numel() / self.channels)
        total = sum_over_processes(torch.cat([values.sum(axes), count]))
        mean = total[:-1] / total[-1]
        shape = (1, -1) + (1,) * (x.dim() - 2)
        centred = values - mean.view(shape)
        var = sum_over_processes(centred.square().sum(axes)) / total[-1]
        out = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None and self.bias is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        if self.track:
            with torch.no_grad():
                unbiased = var * (total[-1] / (total[-1] - 1))
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
        return out.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"


class Layer(nn.Module):
    """One named layer: a linear map, then batch norm (or none), then the nonlinearity; flat results
    take the layer's shape.

    Args:
        operation: a convolution, transposed convolution or linear map.
        info: name, shape and kind of what comes out.
        norm: batch norm of the operation's result before it is reshaped: a projection is normalised
            per unit.
        activation: the nonlinearity.
        classes: width of the one-hot class that is joined to the input as further channels; 0 for
            none.
    """

    def __init__(
        self,
        operation: nn.Module,
        info: LayerInfo,
        *,
        norm: BatchNorm | None = None,
        activation: nn.Module | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.operation, self.info, self.classes = operation, info, classes
        self.without_labels = False
        self.norm, self.activation = norm, activation

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Args: x: what the layer before put out. labels: [N] int64, for conditional layers."""
        if (
            self.info.kind == "head"
            and x.dim() > 2
            and not self.classes
            and isinstance(self.operation, nn.Linear)
        ):
            return self._head(x, self.operation.weight)
        if self.info.kind in ("project", "linear", "head") and x.dim() > 2:
            x = x.flatten(1)  # channel, row, column: the authors' order
        if self.classes:
            if labels is not None:
                hot = F.one_hot(labels, self.classes).to(x.dtype)
            elif self.without_labels:
                hot = x.new_full((len(x), self.classes), 1 / self.classes)
            else:
                raise ValueError(f"layer {self.info.name} is conditional: pass labels")
            x = torch.cat(
                [x, hot if x.dim() == 2 else hot[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1
            )
        x = self.operation(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        if self.info.kind == "project":
            x = x.view(-1, *self.info.shape).contiguous(memory_format=torch.channels_last)
        return x

    def _head(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same sum over channel, row and column, taken in the order in which channels-last maps
        lie in memory: neither the maps nor their gradient need to be copied."""
        _, channels, height, width = x.shape
        turned = weight.view(-1, channels, height, width).permute(0, 2, 3, 1).flatten(1)
        return F.linear(x.permute(0, 2, 3, 1).flatten(1), turned)


class LayeredNetwork(nn.Module):
    """A chain of named layers.

    Attributes:
        input_shape: shape of one input: (dim,) of a generator, (3, size, size) of a discriminator.
        classes: number of classes a conditional network asks for, 0 otherwise.
    """

    def __init__(self, layers: Sequence[Layer], input_shape: tuple[int, ...]) -> None:
        super().__init__()
        names = [layer.info.name for layer in layers]
        if len(set(names)) != len(names):
            raise ValueError(f"layer names repeat: {names}")
        self.chain = nn.ModuleDict({layer.info.name: layer for layer in layers})
        self.input_shape = input_shape
        self.classes = max((layer.classes for layer in layers), default=0)

    @property
    def without_labels(self) -> bool:
        """Whether a conditional network takes missing labels for "each class is equally likely"
        instead of refusing.
        """
        return any(layer.without_labels for layer in self._chain())

    @without_labels.setter
    def without_labels(self, wanted: bool) -> None:
        for layer in self._chain():
            layer.without_labels = wanted

    def layers(self) -> list[LayerInfo]:
        """What each layer puts out, in order."""
        return [layer.info for layer in self._chain()]

    def _chain(self) -> list[Layer]:
        return [layer for layer in self.chain.values() if isinstance(layer, Layer)]

    def layer(self, name: str) -> Layer:
        """The layer `name`; UnknownName when there is none."""
        if name not in self.chain:
            from gan_core.errors import UnknownName

            raise UnknownName("layer", name, self.chain.keys())
        layer = self.chain[name]
        assert isinstance(layer, Layer)
        return layer

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Runs all layers: a generator gives [N, C, H, W] in its output's range, a discriminator
        scores (logits) [N, outputs].
        """
        for layer in self._chain():
            x = layer(x, labels)
        return x

    def activations(
        self, x: Tensor, names: Iterable[str] | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Activations after the nonlinearity, [N, C, H, W] (or [N, units]); runs no further than
        the last one asked for.

        Args: names: layers wanted; None: all. Returns: in the order of the network.
        """
        wanted = list(self.chain) if names is None else list(names)
        for name in wanted:
            self.layer(name)
        found: dict[str, Tensor] = {}
        for layer in self._chain():
            if len(found) == len(set(wanted)):
                break
            x = layer(x, labels)
            if layer.info.name in wanted:
                found[layer.info.name] = x
        return found

    def run_to(self, x: Tensor, name: str, labels: Tensor | None = None) -> Tensor:
        """The activation of layer `name` for input `x`."""
        return self.activations(x, [name], labels)[name]

    def run_from(self, activation: Tensor, name: str, labels: Tensor | None = None) -> Tensor:
        """The network's output when layer `name` has put out `activation`: runs the layers after
        it.
        """
        self.layer(name)
        after = False
        for layer in self._chain():
            if after:
                activation = layer(activation, labels)
            after = after or layer.info.name == name
        return activation

    def norms(self) -> dict[str, BatchNorm]:
        """Batch norms by the name of their layer, in order."""
        return {layer.info.name: layer.norm for layer in self._chain() if layer.norm is not None}


def feature_size(network: LayeredNetwork, grid: int = 4) -> int:
    """Values per image when every convolutional layer is pooled to grid x grid and all are joined
    (DCGAN paper, 5.1).
    """
    return sum(info.shape[0] * grid * grid for info in network.layers() if info.maps)


def initialise(network: nn.Module, random: torch.Generator) -> None:
    """The authors' initialisation (train_uncond_dcgan.py): weights N(0, 0.02), gains N(1, 0.02),
    biases 0.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.weight.normal_(0.0, 0.02, generator=random)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, BatchNorm):
                if module.weight is not None and module.bias is not None:
                    module.weight.normal_(1.0, 0.02, generator=random)
                    module.bias.zero_()
                module.running_mean.zero_()
                module.running_var.fill_(1.0)


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Within it no weight of `networks` asks for a gradient: passing through costs the input's
    gradient only.
    """
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def batch_statistics(network: nn.Module, *, track: bool = False) -> Iterator[None]:
    """Within it batch norms use the statistics of each batch in this process, as the authors
    sample; the stored ones stay.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    before = [(norm.training, norm.track, norm.across) for norm in norms]
    for norm in norms:
        norm.training, norm.track, norm.across = True, track, False
    try:
        yield
    finally:
        for norm, was in zip(norms, before, strict=True):
            norm.training, norm.track, norm.across = was


@torch.no_grad()
def measure_statistics(
    network: nn.Module, batches: Iterable[Tensor], run: Callable[[Tensor], object] | None = None
) -> int:
    """Sets the stored batch-norm statistics from `batches`, as the authors do
    (svhn/svhn_semisup_analysis.py).

    Each norm's mean and biased variance are averaged over the batches, every batch counting
    equally, and each layer sees what the layers before it give when normalised by the same batch's
    statistics. Batches of one image are refused by batch norm.

    Args:
        batches: inputs of the network.
        run: called with each batch in place of the network (conditional networks); default: the
            network itself.
    Returns: number of batches used.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    sums = [
        (torch.zeros(n.channels, dtype=torch.float64), torch.zeros(n.channels, dtype=torch.float64))
        for n in norms
    ]

    def watch(index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].float()
            var, mean = torch.var_mean(values, [0, *range(2, values.dim())], correction=0)
            sums[index][0].add_(mean.double().cpu())
            sums[index][1].add_(var.double().cpu())

        return hook

    handles = [norm.register_forward_pre_hook(watch(i)) for i, norm in enumerate(norms)]
    count = 0
    try:
        with batch_statistics(network):
            for batch in batches:
                (run or network)(batch)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if count:
        for norm, (mean, var) in zip(norms, sums, strict=True):
            norm.running_mean.copy_(mean / count)
            norm.running_var.copy_(var / count)
    return count


# The layers that the authors' networks are made of
# --------------------------------------------------------------------------


def conv(
    name: str,
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    kernel: int,
    stride: int,
    norm: bool = True,
    classes: int = 0,
) -> Layer:
    """Convolution without bias, 'same' padding, batch norm or none, LeakyReLU 0.2. Args: size: side
    of what comes out.
    """
    return Layer(
        nn.Conv2d(channels_in + classes, channels_out, kernel, stride, kernel // 2, bias=False),
        LayerInfo(name, (channels_out, size, size), "conv"),
        norm=BatchNorm(channels_out) if norm else None,
        activation=nn.LeakyReLU(0.2),
        classes=classes,
    )


def deconv(
    name: str,
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    kernel: int,
    stride: int,
    classes: int = 0,
) -> Layer:
    """Transposed convolution without bias, batch norm, ReLU. Args: size: side of what comes out."""
    return Layer(
        nn.ConvTranspose2d(
            channels_in + classes, channels_out, kernel, stride, kernel // 2, stride - 1, bias=False
        ),
        LayerInfo(name, (channels_out, size, size), "deconv"),
        norm=BatchNorm(channels_out),
        activation=nn.ReLU(),
        classes=classes,
    )


def project(name: str, latent_dim: int, channels: int, size: int, classes: int = 0) -> Layer:
    """Latents to maps: a linear map without bias, batch norm of each unit, ReLU, reshape to
    [channels, size, size].
    """
    units = channels * size * size
    return Layer(
        nn.Linear(latent_dim + classes, units, bias=False),
        LayerInfo(name, (channels, size, size), "project"),
        norm=BatchNorm(units),
        activation=nn.ReLU(),
        classes=classes,
    )


def image(
    name: str,
    channels_in: int,
    size: int,
    *,
    kernel: int,
    stride: int,
    channels_out: int = 3,
    classes: int = 0,
) -> Layer:
    """The generator's last layer: transposed convolution to images, no norm, tanh: values in [-1,
    1].
    """
    return Layer(
        nn.ConvTranspose2d(
            channels_in + classes, channels_out, kernel, stride, kernel // 2, stride - 1, bias=False
        ),
        LayerInfo(name, (channels_out, size, size), "image"),
        activation=nn.Tanh(),
        classes=classes,
    )


def head(name: str, units_in: int, outputs: int = 1, classes: int = 0) -> Layer:
    """The discriminator's last layer: a linear map without bias to scores (logits)."""
    return Layer(
        nn.Linear(units_in + classes, outputs, bias=False),
        LayerInfo(name, (outputs, 1, 1), "head"),
        classes=classes,
    )
