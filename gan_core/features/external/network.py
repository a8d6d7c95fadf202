"""Features from an external network: any `nn.Module`, its layers found by watching an image go
through it.

`features(module, images)` is the notebook's way; the stage extract uses `ExternalNetwork` the same
way. The module's code is not touched: activations are caught by hooks (`hooks` says which
activation belongs to a layer).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gan_core.config.features import FeatureMode
from gan_core.errors import DataError, RequestError, UnknownName
from gan_core.features import extract
from gan_core.features.external.hooks import (
    NORMS,
    WEIGHTED,
    Point,
    activation,
    as_it_was,
    batch_statistics,
    catch,
    run_of,
    store_statistics,
)
from gan_core.features.modes import BatchNormCReLU, LayerSize, Pool, select_layers
from gan_core.networks.layers import LayerInfo
from gan_core.progress import Progress, silent

log = logging.getLogger(__name__)

Range = Literal["-1..1", "0..1", "imagenet"]
SIZES = (32, 64, 28, 96, 128, 224, 256, 48, 16)  # sides tried where none is given
CHANNELS = (3, 1)  # colour before grey
_KINDS = (nn.Conv2d, nn.Linear)
# What makes features of a convolution's maps; sigmoid, softmax and tanh make scores or codes of
# them.
_SHAPING = (
    *(
        NORMS,
        nn.GroupNorm,
        nn.InstanceNorm2d,
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.PReLU,
        nn.ELU,
        nn.SELU,
        nn.CELU,
    ),
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus),
)
_RANGES = {
    "-1..1": "in [-1, 1]",
    "0..1": "in [0, 1]",
    "imagenet": "with ImageNet's mean and deviation taken off",
}


class ExternalNetwork:
    """A module with named layers, in the form that extraction needs.

    Args:
        module: maps float32 [n, channels, side, side] to anything; put into evaluation mode,
            without gradients, and into float32.
        side: images are resized to it; None: `given` where the module accepts that, else the first
            of `SIZES` that it accepts.
        values: the range that it was trained on.
        given: side of the images as they come.

    Attributes:
        input_shape: (channels, side, side); found by running it: in colour, and in grey where that
            fails.
        assumed: what a person should know of how images are turned into its input, in sentences.
    """

    def __init__(
        self,
        module: nn.Module,
        side: int | None = None,
        values: Range = "-1..1",
        given: int | None = None,
    ) -> None:
        if any(isinstance(p, UninitializedParameter) for p in module.parameters()):
            raise RequestError(
                f"{type(module).__name__} has lazy layers, whose weights have no size yet.",
                expected="a network with weights",
                remedy="run it once on images of its size, or load its weights",
            )
        self.module = module.eval().requires_grad_(False)
        self.values = values
        self.without_labels = True
        if not any(isinstance(part, nn.Conv2d) for part in module.modules()):
            raise RequestError(
                f"{type(module).__name__} has no two-dimensional convolution.",
                expected="a convolutional network (nn.Conv2d)",
                remedy="wrap it in a module with a convolution, or extract with your own code",
            )
        other = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
        if other:
            module.float()
        self.input_shape = self._input(side, given)
        self.assumed = self._assumptions(given)
        if other:
            kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in other))
            self.assumed.append(f"Its weights are {kinds}: it is run in float32.")
        self._points: dict[str, Point] = {}
        self._layers: list[LayerInfo] = []
        self._columns: dict[str, str] = {}
        self._find()

    def _assumptions(self, given: int | None) -> list[str]:
        channels, side, _ = self.input_shape
        colour = "grey" if channels == 1 else "RGB"
        sentences = [
            f"{type(self.module).__name__} is given {colour} images of {side} x {side}, values "
            f"{_RANGES[self.values]}."
        ]
        if given and given != side:
            sentences.append(
                f"The images are {given} x {given}: they are resized. crop.size={side} crops them "
                "at that size at once."
            )
        return sentences

    def _input(self, side: int | None, given: int | None) -> tuple[int, int, int]:
        """(channels, side, side): the first that works of the sides that may be meant, each in
        colour and in grey.
        """
        wanted = (side,) if side else ((given,) if given else ()) + SIZES
        for candidate in wanted:
            for channels in CHANNELS:
                if not self._error_of(channels, candidate):
                    return channels, candidate, candidate
        name = type(self.module).__name__
        takes = next(
            part.in_channels for part in self.module.modules() if isinstance(part, nn.Conv2d)
        )
        fits = next(
            (
                other
                for other in SIZES
                for channels in CHANNELS
                if side and not self._error_of(channels, other)
            ),
            None,
        )
        if takes not in CHANNELS and not fits:
            raise RequestError(
                f"{name} takes {takes} channels.",
                expected="a network that takes images: 3 channels, or 1 for grey",
                remedy="wrap it in a module of yours that takes an image and makes its input",
            )
        error_text = self._error_of(takes if takes in CHANNELS else 3, wanted[0])
        raise RequestError(
            f"{name} does not run on images of {side} x {side}: {error_text}"
            if side
            else f"{name} runs on no usual size of image: {error_text}",
            expected=f"images of {fits} x {fits} (crop.size={fits}, or side={fits})"
            if fits
            else f"sides tried: {SIZES}",
        )

    def _error_of(self, channels: int, side: int) -> str:
        """'' where the module runs on this side, else what it sentences."""
        try:
            with torch.no_grad():
                self.module(self._empty(channels, side))
        except Exception as error:  # whatever an external forward raises
            return str(error).split("\n")[0] or type(error).__name__
        return ""

    def _empty(self, channels: int, side: int) -> Tensor:
        """Two grey images, float32 [2, channels, side, side], where the module is."""
        return torch.zeros(2, channels, side, side, device=next(self.module.parameters()).device)

    def _find(self) -> None:
        """Runs one image and fixes where each layer's activation is caught."""
        with torch.no_grad():
            seen, gave = run_of(self.module, self._empty(*self.input_shape[:2]))
        weighted = [place for place, entry in enumerate(seen) if isinstance(entry.module, WEIGHTED)]
        for place, entry in enumerate(seen):
            if entry.name in self._columns or len(entry.gave) not in (1, 3):
                continue  # used twice (the first use counts), or no maps and no vector
            point, kind = Point(entry.module, before=False), "other"
            if isinstance(entry.module, _KINDS):
                following = [later for later in weighted if later > place]
                # the last layer with weights scores: no feature, unless a norm or a nonlinearity
                # makes features of its maps
                kind = "linear" if isinstance(entry.module, nn.Linear) else "conv"
                shaped = kind == "conv" and any(
                    isinstance(later.module, _SHAPING) for later in seen[place + 1 :]
                )
                if not following and not (shaped and entry.gave[0] > 1):
                    if kind == "conv" and entry.gave[0] > 1:
                        self.assumed.append(
                            f"Its last convolution, {entry.name} with {entry.gave[0]} maps, is "
                            "taken for the one that scores: no features"
                            f" unless it is named (--layers {entry.name})."
                        )
                    kind = "head"
                point = activation(seen, place, following[0] if following else len(seen))
            column = self._column(entry.name)
            if column != entry.name.replace(".", "_"):
                self.assumed.append(
                    f"Two of its modules would share a column: that of {entry.name!r} is called "
                    f"{column!r}."
                )
            self._points[column] = point
            self._layers.append(LayerInfo(column, _three(entry.gave), kind))
        if isinstance(gave, Tensor) and gave.dim() in (2, 4):
            column = (
                self._column("output") if "output" not in self._columns else self._free("output")
            )
            self._points[column] = Point(self.module, before=False)
            self._layers.append(LayerInfo(column, _three(tuple(gave.shape[1:])), "output"))

    def _column(self, name: str) -> str:
        """The column of a module, another for each: 'a.b' and 'a_b' are 'a_b' and 'a_b_2'."""
        self._columns[name] = self._free(name.replace(".", "_"))
        return self._columns[name]

    def _free(self, column: str) -> str:
        number, taken = 2, column
        while taken in self._points:
            taken, number = f"{column}_{number}", number + 1
        return taken

    def columns(self, layers: Sequence[str]) -> list[str]:
        """Names of modules ('main.2') or of columns ('main_2') as names of columns; a module of
        that very name goes first.
        """
        return [self._columns.get(name, name.replace(".", "_")) for name in layers]

    def layers(self) -> list[LayerInfo]:
        """Every module that gave maps or vectors, in the order of the run, and last what the whole
        gave ('output').

        Kinds: 'conv' (taken by default), 'linear', 'head' (the last with weights), 'other',
            'output'.
        """
        return self._layers

    def norms(self) -> dict[str, nn.Module]:
        """Batch norms by name."""
        return {
            name: module
            for name, module in self.module.named_modules()
            if isinstance(module, NORMS)
        }

    def prepare(self, images: Tensor) -> Tensor:
        """From float32 [n, 3, height, width] in [-1, 1] to what the module takes, of its size and
        in its range.

        Resizing is bilinear, over all of the area where images shrink.
        """
        if tuple(images.shape[2:]) != self.input_shape[1:]:
            images = F.interpolate(images, self.input_shape[1:], mode="bilinear", antialias=True)
        if self.input_shape[0] == 1:
            weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
            images = (images * weights).sum(1, keepdim=True)
        if self.values != "-1..1":
            images = (images + 1) / 2
        if self.values == "imagenet":
            mean, deviation = (
                images.new_tensor(v)[:, None, None]
                for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            )
            images = (images - mean) / deviation
        return images

    def activations(self, images: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Activations of layers for float32 [n, 3, side, side] in [-1, 1]."""
        found: dict[str, Tensor] = {}
        wanted = list(names)
        for name in wanted:
            if name not in self._points:
                raise UnknownName("layer", name, self._points)
        handles = [catch(found, name, self._points[name]) for name in wanted]
        try:
            self.module(self.prepare(images))
        finally:
            for handle in handles:
                handle.remove()
        return found

    def calibrate(self, batches: Iterable[Tensor]) -> int:
        """Batch-norm statistics over images as the DCGAN authors take them: see
        `networks.layers.calibrate_batchnorm`.

        torch's own running averages are of the batches that training showed, generated ones among
        them.
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

        handles = [
            norm.register_forward_pre_hook(watch(number)) for number, norm in enumerate(norms)
        ]
        count = 0
        try:
            with batch_statistics(norms), torch.no_grad():
                for batch in batches:
                    self.module(self.prepare(batch))
                    count += 1
        finally:
            for handle in handles:
                handle.remove()
        for number, norm in enumerate(norms):
            if sums[number]:
                store_statistics(
                    norm, torch.stack(sums[number]).mean(0), torch.stack(variances[number]).mean(0)
                )
        return count


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width


def features(
    module: nn.Module,
    images: npt.NDArray[np.uint8] | Tensor,
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
    """Features of images from any convolutional module: what `discern extract --network` writes, in
    a notebook.

    Args:
        module: moved, frozen and put into evaluation mode while this runs; afterwards it is as it
            was: mode, device, type, gradients, batch-norm statistics.
        images: uint8 [n, height, width, 3] RGB; resized, with a warning, where the module does not
            take their size.
        layers: names of modules ('main.2' or 'main_2'); None: the mode's choice, every convolution
            but the last, scoring one.
        mode, grid, pool: see `modes`.
        side: images are resized to it; None: only if need be.
        values: what the module was trained on.
        statistics: 'running', as the module comes; 'real': batch-norm statistics taken over these
            images.

    Returns: float16 [n, dims], and the layers with their shapes and places, in order.
    Raises: RequestError when the module does not run on such images; UnknownName for a layer that
        is not there; DataError for activations that are not numbers.
    """
    from gan_core.devices import resolve_device

    place = resolve_device(device)
    array = images.cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise DataError(
            f"Images of {array.dtype} {array.shape} were given.",
            expected="uint8 [n, height, width, 3], RGB",
        )
    if not len(array):
        raise DataError(
            "No image was given.", expected="uint8 [n, height, width, 3], RGB, at least one"
        )
    with as_it_was(module):
        network = ExternalNetwork(module.to(place), side, values, given=array.shape[1])
        for sentence in network.assumed[1:]:
            log.warning(sentence)
        what = select_layers(network, mode, layers and network.columns(layers), grid, pool)
        if statistics == "real":
            extract.set_statistics(
                network, lambda rows: array[rows], len(array), len(array), 0, place
            )
        how: dict[str, Any] = {"batch": batch, "device": place}
        after = BatchNormCReLU() if what.crelu else None
        if after is not None:
            after.measure(extract.pooled(network.activations, array, what, **how))
        parts = []
        for start in range(0, len(array), batch):
            some_images = array[start : start + batch]
            numbers = [str(start + number) for number in range(len(some_images))]
            some, _ = extract.extract_features(
                network.activations, some_images, what, after=after, names=numbers, **how
            )
            parts.append(
                np.concatenate(
                    [some[size.name].reshape(len(some[size.name]), -1) for size in what.sizes],
                    axis=1,
                )
            )
            progress(min(start + batch, len(array)), len(array), "images")
        return np.concatenate(parts), what.sizes
