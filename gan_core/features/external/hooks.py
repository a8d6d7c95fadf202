"""Where an external module is hooked: its leaves, the hooks on them, and which activation belongs
to which layer.

What the next layer with weights gets to see is taken, as long as it has the layer's shape,
flattened or not: that is the value after batch norm and nonlinearity, whether the nonlinearity is a
module or a function. Pooling between two convolutions changes the shape; then the last module's
output with the layer's shape is taken. What is caught is copied at once: a later sum may work in
place.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
NORMS = nn.modules.batchnorm._BatchNorm
_NONLINEAR = (nn.Sigmoid, nn.Softmax, nn.LogSoftmax, nn.LogSigmoid)
# what torch.nn.utils.parametrize puts below a module: weights in the making, no layers
_PARAMETRIZATIONS = "parametrizations"


@dataclass(frozen=True)
class Seen:
    """One leaf module in the order of the run: its name, itself, the shapes that went in and came
    out (without the batch).
    """

    name: str
    module: nn.Module
    given: tuple[int, ...]
    gave: tuple[int, ...]


@dataclass(frozen=True)
class Point:
    """Where a layer's activation is caught: the input of a module (given back the maps' `shape`),
    or its output.
    """

    module: nn.Module
    before: bool
    shape: tuple[int, ...] = ()


def leaves(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that count as one step of the run: with weights, a norm, or without children; what
    lies below one is part of it.

    A convolution whose weight is parametrised (`torch.nn.utils.parametrizations.spectral_norm`) has
    children and is a leaf all the same.
    """
    inside: list[str] = []
    for name, part in module.named_modules():
        if (
            not name
            or _PARAMETRIZATIONS in name.split(".")
            or any(name.startswith(above) for above in inside)
        ):
            continue
        if isinstance(part, (*WEIGHTED, NORMS)):
            inside.append(f"{name}.")
            yield name, part
        elif all(child == _PARAMETRIZATIONS for child, _ in part.named_children()):
            yield name, part


def run_of(module: nn.Module, image: Tensor) -> tuple[list[Seen], Any]:
    """What each leaf was given and gave while the module ran on [n, channels, side, side], in that
    order; and what the whole gave.
    """
    seen: list[Seen] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                seen.append(Seen(name, part, tuple(inputs[0].shape[1:]), tuple(output.shape[1:])))

        return hook

    handles = [part.register_forward_hook(watch(name)) for name, part in leaves(module)]
    try:
        return seen, module(image)
    finally:
        for handle in handles:
            handle.remove()


def activation(seen: list[Seen], place: int, following: int) -> Point:
    """Where the activation of the layer at `place` is: nothing with weights runs between it and
    `following`.
    """
    shape = seen[place].gave
    if following < len(seen) and seen[following].given == shape:
        return Point(seen[following].module, before=True)
    last = seen[place].module
    for entry in seen[place + 1 : following]:
        if entry.gave == shape and not isinstance(entry.module, _NONLINEAR):
            last = entry.module
    flat = following < len(seen) and seen[following].given == (math.prod(shape),)
    # a nonlinearity by function, then flattened into a linear layer
    if flat and isinstance(last, (*WEIGHTED, NORMS)):
        return Point(seen[following].module, before=True, shape=shape)
    return Point(last, before=False)


def catch(found: dict[str, Tensor], name: str, point: Point) -> Any:
    """Puts what passes at a point, the first time, into `found` under a name. Returns: the hook's
    handle.
    """

    def output(_: nn.Module, __: tuple[Any, ...], value: Tensor) -> None:
        if name not in found:
            found[name] = value.clone()

    def given(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if name not in found:
            found[name] = (
                inputs[0].clone().reshape(-1, *point.shape) if point.shape else inputs[0].clone()
            )

    return (
        point.module.register_forward_pre_hook(given)
        if point.before
        else point.module.register_forward_hook(output)
    )


@contextlib.contextmanager
def batch_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Within it batch norms use each batch's statistics and leave the stored ones alone."""
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.training, norm.momentum = True, 0.0  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.training, norm.momentum = training, momentum


def store_statistics(norm: nn.Module, mean: Tensor, variance: Tensor) -> None:
    """Puts statistics into a batch norm, also one that keeps none of its own."""
    norm.running_mean = mean.float().clone()
    norm.running_var = variance.float().clone()
    norm.track_running_stats = True  # type: ignore[assignment]


@contextlib.contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Within it a module may be moved, cast, frozen and measured; afterwards it is as it was, also
    when something was raised.

    Put back are each part's mode, every parameter with its device, type, `requires_grad` and
    gradient, every buffer with its values, and what batch norms keep in addition. Parameters that
    were not made yet (lazy modules) are left as they are by then.
    """
    parameters = [
        (p, p.data, p.requires_grad, p.grad) for p in module.parameters() if not is_lazy(p)
    ]
    parts = []
    for part in module.modules():
        kept = {name: value for name, value in vars(part).items() if isinstance(value, Tensor)}
        if isinstance(part, NORMS):
            kept |= {name: getattr(part, name) for name in ("momentum", "track_running_stats")}
        parts.append((part, part.training, dict(part._parameters), dict(part._buffers), kept))
    values = [
        (buffer, buffer.clone())
        for buffer in module.buffers()
        if not is_lazy(buffer) and not buffer.is_inference()
    ]
    for parameter, *_ in parameters:
        parameter.grad = None  # moving a module would move it as well
    try:
        yield
    finally:
        for parameter, data, wanted, gradient in parameters:
            parameter.data = data
            parameter.requires_grad_(wanted).grad = gradient
        for part, training, own, buffers, kept in parts:
            part.training = training
            part._parameters.update(own)
            part._buffers.update(buffers)
            vars(part).update(kept)
        for buffer, value in values:
            buffer.detach().copy_(value)
