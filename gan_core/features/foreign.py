"""Features from anybody's network: any `nn.Module`, its layers found by watching a picture go through it.

`features(module, pictures)` is the notebook's way; the stage extract uses `ForeignNetwork` the same way. The module's code is
not touched: activations are caught by hooks.

Which activation belongs to a convolution? What the next layer with weights gets to see, as long as it has the convolution's
shape, flattened or not: that is the value after batch norm and nonlinearity, whether the nonlinearity is a module or a function.
Pooling between two convolutions changes the shape; then the last module's output with the convolution's shape is taken.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.config import FeatureMode
from gan_core.errors import DataError, RequestError, UnknownName
from gan_core.features import extract
from gan_core.features.modes import BatchNormCReLU, taking
from gan_core.features.pooling import LayerSize, Pool
from gan_core.networks.base import LayerInfo
from gan_core.progress import Progress, silent

log = logging.getLogger(__name__)

Range = Literal["-1..1", "0..1", "imagenet"]
SIZES = (32, 64, 28, 96, 128, 224, 256, 48, 16)  # sides tried when nobody says what a network takes
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_NORMS = nn.modules.batchnorm._BatchNorm
_KINDS = (nn.Conv2d, nn.Linear)
_RANGES = {"-1..1": "in [-1, 1]", "0..1": "in [0, 1]", "imagenet": "with ImageNet's mean and deviation taken off"}
_NONLINEAR = (nn.Sigmoid, nn.Softmax, nn.LogSoftmax, nn.LogSigmoid)


@dataclass(frozen=True)
class _Seen:
    """One leaf module in the order of the run: its name, itself, the shapes that went in and came out (without the batch)."""

    name: str
    module: nn.Module
    given: tuple[int, ...]
    gave: tuple[int, ...]


@dataclass(frozen=True)
class _Point:
    """Where a layer's activation is caught: the input of a module (given back the maps' `shape`), or its output."""

    module: nn.Module
    before: bool
    shape: tuple[int, ...] = ()


class ForeignNetwork:
    """A module with named layers, in the form that extract takes features from.

    Args:
        module: maps float32 [n, channels, side, side] to anything.
        side: pictures are resized to it; None: `given` where the module accepts that, else the first of `SIZES` that it accepts.
        values: the range that it was trained on.
        given: side of the pictures as they come.

    Attributes:
        input_shape: (channels, side, side); pictures become grey where the module takes one channel.
        assumed: what a person should know of how pictures are turned into its input, in sentences.
    """

    def __init__(self, module: nn.Module, side: int | None = None, values: Range = "-1..1", given: int | None = None) -> None:
        self.module = module.eval().requires_grad_(False)
        self.values = values
        first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
        if first is None:
            raise RequestError(
                f"{type(module).__name__} has no two-dimensional convolution.",
                expected="a convolutional network (nn.Conv2d)",
                remedy="name other layers once it runs on pictures, or take features of your own code's making",
            )
        channels = first.in_channels
        if channels not in (1, 3):
            raise RequestError(
                f"{type(module).__name__} takes {channels} channels.",
                expected="a network that takes pictures: 3 channels, or 1 for grey",
                remedy="wrap it in a module of yours that takes a picture and makes its input",
            )
        found = side if side or not given or self._trouble(channels, given) else given
        self.input_shape = (channels, *self._side(channels, found))
        self.assumed = self._told(given)
        self._points: dict[str, _Point] = {}
        self._layers: list[LayerInfo] = []
        self._find()

    def _told(self, given: int | None) -> list[str]:
        channels, side, _ = self.input_shape
        colour = "grey" if channels == 1 else "RGB"
        said = [f"{type(self.module).__name__} is given {colour} pictures of {side} x {side}, values {_RANGES[self.values]}."]
        if given and given != side:
            said.append(
                f"The pictures are {given} x {given}: they are resized. crop.size={side} crops them at that size at once."
            )
        return said

    def _side(self, channels: int, side: int | None) -> tuple[int, int]:
        """The side that was given, checked, or the first that works."""
        trouble = ""
        for candidate in (side,) if side else SIZES:
            trouble = self._trouble(channels, candidate)
            if not trouble:
                return candidate, candidate
        fits = next((other for other in SIZES if other != side and not self._trouble(channels, other)), None)
        hint = f"pictures of {fits} x {fits} (crop.size={fits}, or side={fits})" if fits else f"sides tried: {SIZES}"
        raise RequestError(
            f"{type(self.module).__name__} does not run on pictures of {side} x {side}: {trouble}"
            if side
            else f"{type(self.module).__name__} runs on no usual size of picture: {trouble}",
            expected=hint,
        )

    def _trouble(self, channels: int, side: int) -> str:
        """'' where the module runs on this side, else what it said."""
        device = next(self.module.parameters()).device
        try:
            with torch.inference_mode():
                self.module(torch.zeros(2, channels, side, side, device=device))
        except Exception as error:  # whatever a stranger's forward raises
            return str(error).split("\n")[0]
        return ""

    def _find(self) -> None:
        """Runs one picture and fixes where each layer's activation is caught."""
        seen: list[_Seen] = []

        def watch(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                    seen.append(_Seen(name, module, tuple(inputs[0].shape[1:]), tuple(output.shape[1:])))

            return hook

        leaves = [(name, module) for name, module in self.module.named_modules() if name and not list(module.children())]
        handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
        device = next(self.module.parameters()).device
        try:
            with torch.inference_mode():
                gave = self.module(torch.zeros(2, *self.input_shape, device=device))
        finally:
            for handle in handles:
                handle.remove()
        weighted = [place for place, entry in enumerate(seen) if isinstance(entry.module, _WEIGHTED)]
        for place, entry in enumerate(seen):
            column = entry.name.replace(".", "_")
            if column in self._points or len(entry.gave) not in (1, 3):
                continue  # used twice (the first use counts), or no maps and no vector
            point, kind = _Point(entry.module, before=False), "other"
            if isinstance(entry.module, _KINDS):
                following = [later for later in weighted if later > place]
                # the last layer with weights scores: no feature
                kind = ("linear" if isinstance(entry.module, nn.Linear) else "conv") if following else "head"
                point = _activation(seen, place, following[0] if following else len(seen))
            self._points[column] = point
            self._layers.append(LayerInfo(column, _three(entry.gave), kind))
        if isinstance(gave, Tensor) and gave.dim() in (2, 4) and "output" not in self._points:
            self._points["output"] = _Point(self.module, before=False)
            self._layers.append(LayerInfo("output", _three(tuple(gave.shape[1:])), "output"))

    def layers(self) -> list[LayerInfo]:
        """Every module that gave maps or vectors, in the order of the run, and last what the whole gave ('output').

        Kinds: 'conv' (taken by default), 'linear', 'head' (the last with weights), 'other', 'output'.
        """
        return self._layers

    def norms(self) -> dict[str, nn.Module]:
        """Batch norms by name."""
        return {name: module for name, module in self.module.named_modules() if isinstance(module, _NORMS)}

    def prepare(self, images: Tensor) -> Tensor:
        """From float32 [n, 3, height, width] in [-1, 1] to what the module takes, of its size and in its range.

        Resizing is bilinear, over all of the area where pictures shrink.
        """
        if tuple(images.shape[2:]) != self.input_shape[1:]:
            images = F.interpolate(images, self.input_shape[1:], mode="bilinear", antialias=True)
        if self.input_shape[0] == 1:
            weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
            images = (images * weights).sum(1, keepdim=True)
        if self.values != "-1..1":
            images = (images + 1) / 2
        if self.values == "imagenet":
            mean, deviation = (images.new_tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            images = (images - mean) / deviation
        return images

    def activations(self, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Activations of layers for float32 [n, 3, side, side] in [-1, 1]."""
        found: dict[str, Tensor] = {}
        handles = []
        for name in names:
            if name not in self._points:
                raise UnknownName("layer", name, self._points)
            point = self._points[name]
            handles.append(
                point.module.register_forward_pre_hook(_catch_input(found, name, point.shape))
                if point.before
                else point.module.register_forward_hook(_catch_output(found, name))
            )
        try:
            self.module(self.prepare(images))
        finally:
            for handle in handles:
                handle.remove()
        return found

    def measure(self, batches: Iterable[Tensor]) -> int:
        """Batch-norm statistics over pictures as the DCGAN authors take them: see `networks.base.measure_statistics`.

        torch's own running averages are of the batches that training showed, generated ones among them.
        """
        norms = list(self.norms().values())
        sums: list[list[Tensor]] = [[] for _ in norms]
        variances: list[list[Tensor]] = [[] for _ in norms]

        def watch(number: int) -> Callable[..., None]:
            def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                values = inputs[0].float()
                variance, mean = torch.var_mean(values, [0, *range(2, values.dim())], correction=0)
                sums[number].append(mean.double())
                variances[number].append(variance.double())

            return hook

        handles = [norm.register_forward_pre_hook(watch(number)) for number, norm in enumerate(norms)]
        count = 0
        try:
            with _batch_statistics(norms), torch.inference_mode():
                for batch in batches:
                    self.module(self.prepare(batch))
                    count += 1
        finally:
            for handle in handles:
                handle.remove()
        for number, norm in enumerate(norms):
            if sums[number]:
                _store(norm, torch.stack(sums[number]).mean(0), torch.stack(variances[number]).mean(0))
        return count


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width


def _activation(seen: list[_Seen], place: int, following: int) -> _Point:
    """Where the activation of the convolution at `place` is: nothing with weights runs between it and `following`."""
    shape = seen[place].gave
    if following < len(seen) and seen[following].given == shape:
        return _Point(seen[following].module, before=True)
    last = seen[place].module
    for entry in seen[place + 1 : following]:
        if entry.gave == shape and not isinstance(entry.module, _NONLINEAR):
            last = entry.module
    flat = following < len(seen) and seen[following].given == (math.prod(shape),)
    if flat and isinstance(last, (*_WEIGHTED, _NORMS)):  # a nonlinearity by function, then flattened into a linear layer
        return _Point(seen[following].module, before=True, shape=shape)
    return _Point(last, before=False)


def _catch_output(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        found.setdefault(name, output.clone())  # a later module may work in place

    return hook


def _catch_input(found: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.setdefault(name, inputs[0].reshape(-1, *shape) if shape else inputs[0])

    return hook


@contextlib.contextmanager
def _batch_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Within it batch norms use each batch's statistics and leave the stored ones alone."""
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.training, norm.momentum = True, 0.0  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.training, norm.momentum = training, momentum


def _store(norm: nn.Module, mean: Tensor, variance: Tensor) -> None:
    """Puts statistics into a batch norm, also one that keeps none of its own."""
    norm.running_mean = mean.float().clone()
    norm.running_var = variance.float().clone()
    norm.track_running_stats = True  # type: ignore[assignment]


def features(
    module: nn.Module,
    pictures: npt.NDArray[np.uint8] | Tensor,
    layers: Sequence[str] | None = None,
    *,
    mode: FeatureMode = "dcgan",
    grid: int = 4,
    pool: Pool = "max",
    side: int | None = None,
    values: Range = "-1..1",
    statistics: Literal["running", "real"] = "running",
    batch: int = 128,
    device: str = "auto",
    progress: Progress = silent,
) -> tuple[npt.NDArray[np.float16], list[LayerSize]]:
    """Features of pictures from any convolutional module: what `discern extract --network` writes, in a notebook.

    Args:
        module: its weights are its own affair; it is put into evaluation mode.
        pictures: uint8 [n, height, width, 3] RGB; resized, with a warning, where the module does not take their size.
        layers: names of modules ('main.2' or 'main_2'); None: the mode's choice, every convolution but the last, scoring one.
        mode, grid, pool: see `modes`.
        side: pictures are resized to it; None: only if need be.
        values: what the module was trained on.
        statistics: 'running', as the module comes; 'real': batch-norm statistics taken over these pictures.

    Returns: float16 [n, dims], and the layers with their shapes and places, in order.
    Raises: RequestError when the module does not run on such pictures; UnknownName for a layer that is not there.
    """
    from gan_core.devices import resolve_device

    place = resolve_device(device)
    array = pictures.cpu().numpy() if isinstance(pictures, Tensor) else np.asarray(pictures)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise DataError(f"Pictures of {array.dtype} {array.shape} were given.", expected="uint8 [n, height, width, 3], RGB")
    network = ForeignNetwork(module.to(place), side, values, given=array.shape[1])
    for sentence in network.assumed[1:]:
        log.warning(sentence)
    what = taking(network, mode, columns(layers), grid, pool)
    if statistics == "real":
        extract.set_statistics(network, lambda rows: array[rows], len(array), len(array), 0, place)
    how: dict[str, Any] = {"grid": what.grid, "pool": what.pool, "batch": batch, "device": place}
    after = BatchNormCReLU() if what.crelu else None
    if after is not None:
        after.measure(extract.pooled(network.activations, array, what.sizes, **how))
    parts = []
    for start in range(0, len(array), batch):
        some, _ = extract.take(network.activations, array[start : start + batch], what.sizes, after=after, **how)
        parts.append(np.concatenate([some[size.name].reshape(len(some[size.name]), -1) for size in what.sizes], axis=1))
        progress(min(start + batch, len(array)), len(array), "pictures")
    return np.concatenate(parts), what.sizes


def columns(layers: Sequence[str] | None) -> list[str] | None:
    """Names of modules as names of columns: 'main.2' is 'main_2'."""
    return None if layers is None else [name.replace(".", "_") for name in layers]
