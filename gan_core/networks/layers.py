"""Layers of the DCGAN authors' networks (Newmu/dcgan_code, lib/ops.py): no biases, batch norm with
eps 1e-8. Also what every network shares: blocks, conditions, initialisation, batch-norm
calibration.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
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
        kind: 'conv' (features are extracted from it), 'deconv' (its units are dissected),
            'project' (a linear layer, reshaped to maps), 'linear', 'head' (scores), 'image'.
    """

    name: str
    shape: tuple[int, int, int]
    kind: str

    @property
    def maps(self) -> bool:
        """Whether this is a convolutional layer of a discriminator or encoder, the kind that
        gives features.
        """
        return self.kind == "conv"


def scaled(maps: int, width: float) -> int:
    """`maps` times `width`, rounded to a multiple of 8 for vector units, at least 8."""
    return max(8, 8 * round(maps * width / 8))


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process's loss depends on every process's values.
        return sum_over_processes(gradients[0])


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


class ConditionalBatchNorm(BatchNorm):
    """Batch norm with a gain and a bias for each class."""

    def __init__(self, channels: int, classes: int, *, eps: float = EPS) -> None:
        super().__init__(channels, affine=False, eps=eps)
        self.classes = classes
        self.gains = nn.Parameter(torch.ones(classes, channels))
        self.biases = nn.Parameter(torch.zeros(classes, channels))

    def modulate(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Normalises [N, C, ...], then scales and shifts by class; labels None: the classes'
        mean.
        """
        x = self(x)
        if labels is None:
            gain, bias = self.gains.mean(0)[None], self.biases.mean(0)[None]
        else:
            gain, bias = self.gains[labels], self.biases[labels]
        shape = (len(gain), -1) + (1,) * (x.dim() - 2)
        return x * gain.view(shape).to(x.dtype) + bias.view(shape).to(x.dtype)


@dataclass(frozen=True)
class Condition:
    """What a layer is given in addition to its input activation.

    Attributes:
        labels: [N] int64, for conditional layers.
        latents: [N, dim]: z of a joint discriminator; of a generator its own input, for
            hierarchical latents.
    """

    labels: Tensor | None = None
    latents: Tensor | None = None


NO_CONDITION = Condition()


class Block(nn.Module):
    """One named element of a network's chain: derive residual blocks and the like from it.

    Batch norms inside it are found, calibrated and stored by `named_modules` under any name, if
    they are `BatchNorm`s. Its output is the activation that features are extracted from.

    Attributes:
        info: name, shape and kind of what comes out.
        classes: number of classes it asks labels for; 0 for none.
        without_labels: take missing labels for "each class is equally likely".
    """

    def __init__(self, info: LayerInfo, classes: int = 0) -> None:
        super().__init__()
        self.info, self.classes, self.without_labels = info, classes, False

    def forward(self, x: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """Args: x: the activation of the element before."""
        raise NotImplementedError

    def labels_of(self, condition: Condition) -> Tensor | None:
        """The condition's labels; ValueError where this block needs them and there are none."""
        if condition.labels is None and not self.without_labels:
            raise ValueError(f"layer {self.info.name} is conditional: pass labels")
        return condition.labels

    def one_hot(self, condition: Condition, like: Tensor) -> Tensor:
        """Classes as [N, classes] in the dtype of `like`; uniform shares where labels may lack."""
        labels = self.labels_of(condition)
        if labels is None:
            return like.new_full((len(like), self.classes), 1 / self.classes)
        return F.one_hot(labels, self.classes).to(like.dtype)


class Layer(Block):
    """A linear map, then batch norm (or none), then the nonlinearity; flat results take the layer's
    shape.

    Args:
        operation: a convolution, transposed convolution or linear map.
        norm: batch norm of the operation's result before it is reshaped: a projection is normalised
            per unit.
        activation: the nonlinearity.
        classes: width of the one-hot class that is joined to the input as further channels; 0 for
            none. With a `ConditionalBatchNorm` the class modulates the norm instead.
        latents: values per latent that is embedded linearly and added to the operation's result
            (BiGAN's joint discriminator); 0 for none.
    """

    def __init__(
        self,
        operation: nn.Module,
        info: LayerInfo,
        *,
        norm: BatchNorm | None = None,
        activation: nn.Module | None = None,
        classes: int = 0,
        latents: int = 0,
    ) -> None:
        modulated = isinstance(norm, ConditionalBatchNorm)
        super().__init__(info, norm.classes if isinstance(norm, ConditionalBatchNorm) else classes)
        self.operation, self.joined = operation, 0 if modulated else classes
        self.norm, self.activation = norm, activation
        self.embed = nn.Linear(latents, info.shape[0], bias=False) if latents else None

    def forward(self, x: Tensor, condition: Condition = NO_CONDITION) -> Tensor:
        """Args: x: the activation of the element before."""
        if (
            self.info.kind == "head"
            and x.dim() > 2
            and not self.joined
            and isinstance(self.operation, nn.Linear)
            and self.operation.bias is None
        ):
            return self._add(self._head(x, self.operation.weight), condition)
        if self.info.kind in ("project", "linear", "head") and x.dim() > 2:
            x = x.flatten(1)  # channel, row, column: the authors' order
        if self.joined:
            hot = self.one_hot(condition, x)
            x = torch.cat(
                [x, hot if x.dim() == 2 else hot[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1
            )
        x = self._add(self.operation(x), condition)
        if isinstance(self.norm, ConditionalBatchNorm):
            x = self.norm.modulate(x, self.labels_of(condition))
        elif self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        if self.info.kind == "project":
            x = x.view(-1, *self.info.shape).contiguous(memory_format=torch.channels_last)
        return x

    def _add(self, x: Tensor, condition: Condition) -> Tensor:
        if self.embed is None:
            return x
        if condition.latents is None:
            raise ValueError(f"layer {self.info.name} joins latents: pass latents")
        embedded: Tensor = self.embed(condition.latents.to(x.dtype))
        return x + (embedded if x.dim() == 2 else embedded[:, :, None, None])

    def _head(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same sum over channel, row and column, taken in the order in which channels-last maps
        lie in memory: neither the maps nor their gradient need to be copied."""
        _, channels, height, width = x.shape
        turned = weight.view(-1, channels, height, width).permute(0, 2, 3, 1).flatten(1)
        return F.linear(x.permute(0, 2, 3, 1).flatten(1), turned)


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
                if isinstance(module, ConditionalBatchNorm):
                    module.gains.normal_(1.0, 0.02, generator=random)
                    module.biases.zero_()
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
def calibrate_batchnorm(
    network: nn.Module, batches: Iterable[Any], run: Callable[[Any], object] | None = None
) -> int:
    """Sets the stored batch-norm statistics from `batches`, as the authors do
    (svhn/svhn_semisup_analysis.py).

    Each norm's mean and biased variance are averaged over the batches, every batch counting
    equally, and each layer sees what the layers before it give when normalised by the same batch's
    statistics. Batches of one image are refused by batch norm.

    Args:
        batches: inputs of the network.
        run: called with each batch in place of the network (further inputs); default: the network
            itself.
    Returns: number of batches used.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm)]
    sums = [torch.zeros(2, n.channels, dtype=torch.float64) for n in norms]
    calls = [0] * len(norms)

    def add_to(index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].float()
            var, mean = torch.var_mean(values, [0, *range(2, values.dim())], correction=0)
            sums[index].add_(torch.stack([mean, var]).double().cpu())
            calls[index] += 1

        return hook

    handles = [norm.register_forward_pre_hook(add_to(i)) for i, norm in enumerate(norms)]
    count = 0
    try:
        with batch_statistics(network):
            for batch in batches:
                (run or network)(batch)
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    for norm, total, number in zip(norms, sums, calls, strict=True):
        if number:
            norm.running_mean.copy_(total[0] / number)
            norm.running_var.copy_(total[1] / number)
    return count


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
    latents: int = 0,
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
        latents=latents,
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


def head(name: str, units_in: int, outputs: int = 1, classes: int = 0, latents: int = 0) -> Layer:
    """The discriminator's last layer: a linear map without bias to scores (logits)."""
    return Layer(
        nn.Linear(units_in + classes, outputs, bias=False),
        LayerInfo(name, (outputs, 1, 1), "head"),
        classes=classes,
        latents=latents,
    )


def linear(
    name: str, units_in: int, units: int, *, norm: bool = False, slope: float | None = 0.2
) -> Layer:
    """A linear map with bias, batch norm or none, LeakyReLU with `slope` (None: no
    nonlinearity).
    """
    return Layer(
        nn.Linear(units_in, units, bias=not norm),
        LayerInfo(name, (units, 1, 1), "linear"),
        norm=BatchNorm(units) if norm else None,
        activation=None if slope is None else nn.LeakyReLU(slope),
    )
