"""Guided backpropagation: which pixels a discriminator's features answer to, next to the same image
of random filters.

DCGAN paper, section 6.2 and figure 5: the maximal axis-aligned responses of the first 6 features of
the discriminator's last convolutional layer, each traced back to the pixels (Springenberg et al.
2014, arXiv:1412.6806), with random filters as the baseline. Guided backpropagation is defined for
ReLU: on the way back only positive signals through active units pass. The paper does not say what
LeakyReLU does; here (ours) only positive signals pass, multiplied by the unit's slope (1 where it
is active, 0.2 where it is not); `strict` takes 0 where it is not active.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from gan_core.config import Section
from gan_core.inspection.base import (
    Context,
    Figure,
    Inspection,
    as_float,
    as_images,
    image_sheet,
)
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import calibrate_batchnorm, initialise
from gan_core.randomness import torch_stream
from gan_core.vision.geometry import resize

ABOUT = "guided backpropagation of the discriminator's last features, compared with random filters"
TITLE = "What the discriminator's features respond to"
VERSION = 2
ORDER = 40
EXAMPLES = ({"features": 1, "images": 32},)
GREY = 2.0  # mean difference of channels, in levels of 255, below which a set is grey
BATCH = 128
LEAST_PATCH = 8  # pixels


class Options(Section):
    """What is traced."""

    features: int = Field(6, ge=1, description="maps of the last convolutional layer")
    images: int = Field(1024, ge=2, description="images among which their maxima are searched")


def inspect(context: Context, options: Options) -> Inspection:
    """A row for each feature: the images with its strongest responses, the patches of them that it
    responds to, their guided traces, the same of random filters; first-layer filters.
    """
    if context.packs:
        images = as_float(context.training_images(options.images, "guided"))
        source = "training images"
    else:
        images, source = context.samples(options.images, "guided"), "samples"
    network = context.snapshot.feature_network()
    device = next(network.parameters()).device
    found = draw_guided(network, images.to(device), features=options.features, seed=context.seed)
    trained, random = found.numbers["trained"], found.numbers["random"]
    sentence = (
        f"The strongest responses of {found.numbers['features']} features of "
        f"{found.numbers['layer']}, the last convolutional layer, among {len(images)} {source}, "
        "traced back to pixels (grey is nothing). Neighbouring pixels of a trace correlate by "
        f"{trained['coherence']:.2f} (random filters {random['coherence']:.2f}), and its strongest "
        f"tenth of pixels holds {100 * trained['concentration']:.0f} % of its energy (random "
        f"filters {100 * random['concentration']:.0f} %)."
    )
    columns = found.images.shape[1]
    figures = [
        image_sheet("guided_images", found.images, columns, f"strongest {source}"),
        image_sheet(
            "guided_patches",
            found.patches,
            columns,
            "the parts of these images that hold 90 % of the trace's energy, enlarged",
        ),
        image_sheet("guided_trained", found.trained, columns, "trained filters"),
        image_sheet("guided_random", found.random, columns, "random filters"),
    ]
    return Inspection(sentence, {**found.numbers, "of": source}, [*figures, *filters(network)])


def filters(network: LayeredNetwork) -> list[Figure]:
    """The first layer's filters as images, scaled each to its largest weight; none where the first
    layer is no convolution of three channels.
    """
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.kernel_size[0] < 3:
        return []
    weights = first.weight.detach().float().cpu()[:64]
    scaled = weights / weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    large = nn.functional.interpolate(scaled, scale_factor=4, mode="nearest")
    return [image_sheet("filters", as_images(large), 16, "filters of the first layer")]


def is_grey(images: Tensor) -> bool:
    """Whether the channels of images [n, 3, S, S] in [-1, 1] hardly differ."""
    spread = images.float().amax(1) - images.float().amin(1)
    return float(spread.mean()) * 127.5 < GREY


class _Guided(torch.autograd.Function):
    """LeakyReLU forward, guided backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, strict: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope, ctx.strict = slope, strict
        return torch.where(x > 0, x, x * slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        passive = 0.0 if ctx.strict else ctx.slope
        return gradients[0].clamp(min=0) * torch.where(x > 0, 1.0, passive), None, None


class GuidedActivation(nn.Module):
    """Stands in for a LeakyReLU (or ReLU: slope 0) while gradients are guided."""

    def __init__(self, slope: float, strict: bool) -> None:
        super().__init__()
        self.slope, self.strict = slope, strict

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        out: Tensor = _Guided.apply(x, self.slope, self.strict)
        return out


@contextlib.contextmanager
def guided(network: LayeredNetwork, *, strict: bool = False) -> Iterator[None]:
    """Within it the network's ReLUs and LeakyReLUs pass gradients by the guided rule; what it
    computes stays the same.
    """
    changed: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.LeakyReLU | nn.ReLU):
                    changed.append((parent, name, child))
                    slope = float(getattr(child, "negative_slope", 0.0))
                    setattr(parent, name, GuidedActivation(slope, strict))
        yield
    finally:
        for parent, name, child in changed:
            setattr(parent, name, child)


@dataclass(frozen=True)
class Response:
    """A place where a feature answers most strongly: row of the image, and position in the layer's
    map.
    """

    feature: int
    image: int
    y: int
    x: int
    value: float


@torch.no_grad()
def strongest(
    network: LayeredNetwork, images: Tensor, layer: str, features: int, most: int
) -> list[list[Response]]:
    """For each of the first `features` maps of a layer its strongest answers, at most one for each
    image.

    Args: images: float [n, C, S, S] in [-1, 1]. Returns: [features][most], strongest first.
    """
    found: list[list[Response]] = [[] for _ in range(features)]
    for start in range(0, len(images), BATCH):
        maps = network.run_to(images[start : start + BATCH], layer)[:, :features].float()
        width = maps.shape[3]
        values, places = maps.flatten(2).max(dim=2)
        for feature in range(features):
            top = values[:, feature].topk(min(most, len(maps)))
            for value, row in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                y, x = divmod(int(places[row, feature]), width)
                found[feature].append(Response(feature, start + row, y, x, value))
    return [sorted(answers, key=lambda one: (-one.value, one.image))[:most] for answers in found]


def trace(
    network: LayeredNetwork,
    images: Tensor,
    layer: str,
    responses: Sequence[Response],
    *,
    strict: bool = False,
) -> Tensor:
    """Guided gradients of single answers in the pixels they come from: float [len(responses), C, S,
    S] on the CPU.
    """
    out = []
    with guided(network, strict=strict):
        for start in range(0, len(responses), BATCH):
            some = responses[start : start + BATCH]
            inputs = images[[one.image for one in some]].detach().clone().requires_grad_(True)
            maps = network.run_to(inputs, layer)
            rows = torch.arange(len(some))
            chosen = maps[
                rows,
                [one.feature for one in some],
                [one.y for one in some],
                [one.x for one in some],
            ]
            (gradient,) = torch.autograd.grad(chosen.sum(), inputs)
            out.append(gradient.float().cpu())
    return torch.cat(out) if out else images[:0].cpu()


def last_maps(network: LayeredNetwork) -> str:
    """Name of the last convolutional layer."""
    return [info.name for info in network.layers() if info.maps][-1]


@torch.no_grad()
def prepared(
    network: LayeredNetwork, images: Tensor, *, random_seed: int | None = None
) -> LayeredNetwork:
    """A copy with batch-norm statistics of these images; with a seed its weights are drawn again by
    the authors' initialisation.
    """
    own = copy.deepcopy(network)
    if random_seed is not None:
        initialise(own, torch_stream(random_seed, "inspect", "random filters"))
    batches = [images[start : start + BATCH] for start in range(0, len(images) - 1, BATCH)]
    calibrate_batchnorm(own, batches)
    return own.eval().requires_grad_(False)


@dataclass(frozen=True)
class GuidedFigure:
    """What guided backpropagation shows.

    Attributes:
        images: uint8 [features, most, S, S, 3]: those that a trained feature answers to most
            strongly.
        trained: uint8 [features, most, S, S, 3]: the trace of that answer, grey where nothing
            counts.
        patches: uint8 [features, most, S, S, 3]: the parts of `images` that the traces point at.
        random: the same of random filters, at their own strongest images.
        numbers: JSON values.
    """

    images: npt.NDArray[np.uint8]
    trained: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.uint8]
    random: npt.NDArray[np.uint8]
    numbers: dict[str, Any]


def draw_guided(
    network: LayeredNetwork,
    images: Tensor,
    *,
    features: int = 6,
    most: int = 4,
    seed: int = 0,
    layer: str | None = None,
) -> GuidedFigure:
    """Traces the strongest answers of the first `features` maps of `layer` (None: the last
    convolutional one).

    Args:
        network: a discriminator.
        images: float [n, C, S, S] in [-1, 1] on its device, n >= 2; batch-norm statistics are
            measured over them.
    Numbers: for trained and random filters `concentration` (share of the trace's energy in its
        strongest tenth of pixels; 0.1 is even) and `coherence` (correlation of neighbouring pixels
        of the trace: noise has 0), means over features and answers.
    """
    name = layer or last_maps(network)
    channels = next(info.shape[0] for info in network.layers() if info.name == name)
    features = min(features, channels)
    traces, answers = [], []
    for random_seed in (None, seed):
        own = prepared(network, images, random_seed=random_seed)
        found = strongest(own, images, name, features, most)
        flat = [one for row in found for one in row]
        traced = trace(own, images, name, flat)
        if is_grey(images):  # the channels of a grey set carry the same signal, apart from noise
            traced = traced.mean(1, keepdim=True).expand_as(traced)
        traces.append(traced)
        answers.append(flat)
    shown = images[[one.image for one in answers[0]]].cpu()
    shape = (features, len(answers[0]) // features)
    trained, random = traces
    numbers = {
        "layer": name,
        "features": features,
        "images": len(images),
        "rule": "positive signals only, times the slope of the LeakyReLU",
        "trained": {
            **_numbers(trained),
            "answer": round(float(np.mean([one.value for one in answers[0]])), 6),
        },
        "random": {
            **_numbers(random),
            "answer": round(float(np.mean([one.value for one in answers[1]])), 6),
        },
    }
    drawn = [
        as_images(shown),
        as_grey(trained),
        patches(as_images(shown), trained),
        as_grey(random),
    ]
    parts = [image.reshape(*shape, *image.shape[1:]) for image in drawn]
    return GuidedFigure(parts[0], parts[1], parts[2], parts[3], numbers)


def patches(
    images: npt.NDArray[np.uint8], traces: Tensor, share: float = 0.9
) -> npt.NDArray[np.uint8]:
    """The part of each image that its trace points at, enlarged to the image's size: the square
    around the strip of rows and the strip of columns that hold `share` of the trace's energy.

    Args: images: uint8 [n, S, S, 3]. traces: float [n, C, S, S].
    """
    size = images.shape[1]
    out = np.empty_like(images)
    for n, energy in enumerate(traces.square().sum(1).double()):
        ends = [_strip(energy.sum(axis).numpy(), share) for axis in (1, 0)]
        side = min(size, max(LEAST_PATCH, *(last - first for first, last in ends)))
        top, left = (min(max(0, (first + last - side) // 2), size - side) for first, last in ends)
        part = images[n, top : top + side, left : left + side]
        out[n] = resize(np.ascontiguousarray(part), size, size)
    return out


def _strip(energy: npt.NDArray[np.float64], share: float) -> tuple[int, int]:
    """First and last place (excluded) between which `share` of the energy lies."""
    below = np.cumsum(energy) / max(float(energy.sum()), 1e-30)
    first = int(np.searchsorted(below, (1 - share) / 2, side="right"))
    last = int(np.searchsorted(below, (1 + share) / 2)) + 1
    return min(first, len(energy) - 1), min(max(last, first + 1), len(energy))


def _numbers(traces: Tensor) -> dict[str, float]:
    return {
        "concentration": round(concentration(traces), 6),
        "coherence": round(coherence(traces), 6),
    }


def concentration(traces: Tensor) -> float:
    """Share of squared values in the strongest tenth of the pixels, mean over traces [n, C,
    S, S].
    """
    energy = traces.square().sum(dim=1).flatten(1)
    tenth = max(1, energy.shape[1] // 10)
    total = energy.sum(dim=1).clamp(min=1e-30)
    return float((energy.topk(tenth, dim=1).values.sum(dim=1) / total).mean())


def coherence(traces: Tensor) -> float:
    """Correlation of each pixel with its right and its lower neighbour, mean over both and over
    traces [n, C, S, S].
    """
    found = []
    for a, b in ((traces[..., :-1], traces[..., 1:]), (traces[..., :-1, :], traces[..., 1:, :])):
        first, second = (
            part.flatten(1) - part.flatten(1).mean(dim=1, keepdim=True) for part in (a, b)
        )
        norm = (first.norm(dim=1) * second.norm(dim=1)).clamp(min=1e-30)
        found.append(float(((first * second).sum(dim=1) / norm).mean()))
    return sum(found) / 2


def as_grey(traces: Tensor) -> npt.NDArray[np.uint8]:
    """Traces [n, C, S, S] as images uint8 [n, S, S, 3]: 0 is mid-grey, each scaled by its own
    98th percentile, and its root taken, so that all but the weakest signals show.
    """
    scale = torch.quantile(traces.abs().flatten(1), 0.98, dim=1).clamp(min=1e-12)
    shown = (traces / scale[:, None, None, None]).clamp(-1, 1)
    return as_images(shown.sign() * shown.abs().sqrt())
