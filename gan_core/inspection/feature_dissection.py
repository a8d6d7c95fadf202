"""Which units of the discriminator or encoder detect which classes, on real images with masks.

Network Dissection (Bau et al. 2017) with the thresholds and baselines of `dissection.py`: those
that maximise the information quality ratio on one half of the images, agreement on the other half;
shuffled pairs (a unit's maps against the masks of other images) and the same network with random
weights. No segmenter is needed where the training set has masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section, SegmenterConfig
from gan_core.inspection.agreement import LEAST_PIXELS, compare, count_units
from gan_core.inspection.base import Context, Inspection, Table, as_float, image_sheet
from gan_core.inspection.guided import prepared
from gan_core.inspection.segmenters import VOID, of_context
from gan_core.inspection.units import highlighted
from gan_core.networks.base import LayeredNetwork
from gan_core.randomness import numpy_stream

ABOUT = "which units of the discriminator or encoder detect which classes, on real images"
TITLE = "Dissection of the feature network"
VERSION = 1
ORDER = 75
DEFAULT = False  # it needs masks or a segmenter
EXAMPLES = (
    {"images": 32, "segmenter": {"palette": {"dark": [0, 0, 0], "light": [255, 255, 255]}}},
)

SHOWN = 8  # images of a class under the map of its best unit
BATCH = 128
Floats = npt.NDArray[np.float64]


class Options(Section):
    """Which network, and where its images' classes come from."""

    role: str = Field("", description="discriminator, encoder, ...; empty: the method's choice")
    layers: list[str] = Field(default_factory=list, description="empty: all convolutional ones")
    segmenter: SegmenterConfig = Field(
        SegmenterConfig(), description="where the training set has no masks; its classes name them"
    )
    images: int = Field(800, ge=32, description="training images, half of them for thresholds")


@dataclass(frozen=True)
class Found:
    """One layer. Attributes: iou, shuffled: [units, classes]; counts: bool [units, classes]."""

    iou: Floats
    shuffled: Floats
    counts: npt.NDArray[np.bool_]


def inspect(context: Context, options: Options) -> Inspection:
    """Detectors by layer and by class, against a random network; images under the best units."""
    count = min(options.images, len(context.training_set))
    order = numpy_stream(context.seed, "inspect", "feature dissection").permutation(
        len(context.training_set)
    )[:count]
    images = as_float(context.training_set.pixels(order))
    labels, classes, source = _labels(context, options, order, images)
    network = context.snapshot.feature_network(options.role or None)
    layers = options.layers or [info.name for info in network.layers() if info.maps]
    trained = prepared(network, images.to(context.device))
    random = prepared(network, images.to(context.device), random_seed=context.seed)
    found = {layer: dissect(trained, layer, images, labels, len(classes)) for layer in layers}
    chance = {layer: dissect(random, layer, images, labels, len(classes)) for layer in layers}
    pixels = np.bincount(labels.clamp(max=len(classes)).flatten().numpy(), minlength=len(classes))
    shares = pixels[: len(classes)] / labels.numel()
    shown = [n for n in range(len(classes)) if shares[n] >= LEAST_PIXELS]
    detectors = {layer: int(one.counts.any(1).sum()) for layer, one in found.items()}
    spurious = {layer: int(one.counts.any(1).sum()) for layer, one in chance.items()}
    best = {n: max(layers, key=lambda layer: found[layer].iou[:, n].max()) for n in shown}
    detected = [classes[n] for n in shown if any(one.counts[:, n].any() for one in found.values())]
    sentence = (
        f"Of {sum(len(one.iou) for one in found.values())} units of {len(layers)} layers, "
        f"{sum(detectors.values())} detect a class beyond layout ({sum(spurious.values())} in the "
        f"same network with random weights); classes from {source}. Detected: "
        f"{', '.join(detected) or 'none'}."
    )
    by_layer = Table(
        ["layer", "units", "detectors", "with random weights"],
        [[layer, len(found[layer].iou), detectors[layer], spurious[layer]] for layer in layers],
    )
    rows = [_class_row(n, classes, shares, best[n], found, chance) for n in shown]
    columns = ["class", "pixels", "layer", "unit", "IoU", "shuffled", "random weights, best IoU"]
    numbers = {
        "layers": {
            layer: {"detectors": detectors[layer], "random": spurious[layer]} for layer in layers
        },
        "classes": {row[0]: {"layer": row[2], "unit": row[3], "iou": row[4]} for row in rows},
        "source": source,
        "images": count,
    }
    sheets = []
    for row, n in zip(rows, shown, strict=True):
        most = (labels == n).float().mean((1, 2)).argsort(descending=True)[:SHOWN]
        maps = _maps(trained, str(row[2]), images[most])[:, [row[3]]]
        sheets.append(highlighted(images[most], maps))
    names = ", ".join(classes[n] for n in shown)
    caption = f"images with most of a class under the map of its best unit; rows: {names}"
    figures = [image_sheet("feature_dissection", np.concatenate(sheets), SHOWN, caption)]
    return Inspection(sentence, numbers, figures, [by_layer, Table(columns, rows)])


def _class_row(
    number: int,
    classes: Sequence[str],
    shares: Floats,
    layer: str,
    found: Mapping[str, Found],
    chance: Mapping[str, Found],
) -> list[Any]:
    """The row of a class in the table: its best unit in the layer where that is best."""
    one = found[layer]
    unit = int(one.iou[:, number].argmax())
    return [
        classes[number],
        f"{100 * shares[number]:.1f} %",
        layer,
        unit,
        f"{one.iou[unit, number]:.3f}",
        f"{one.shuffled[unit, number]:.3f}",
        f"{max(other.iou[:, number].max() for other in chance.values()):.3f}",
    ]


def _labels(
    context: Context, options: Options, rows: npt.NDArray[np.int64], images: Tensor
) -> tuple[Tensor, list[str], str]:
    """Classes of the pixels of training images, int64 [n, S, S]; the classes' names; where both
    come from: the masks of the training set, else the segmenter.
    """
    if not context.training_set.has_masks:
        segmenter = of_context(context, options.segmenter)
        return segmenter(images), list(segmenter.classes), "the segmenter"
    labels = torch.from_numpy(context.training_masks[rows].astype(np.int64))
    names = options.segmenter.classes or list(options.segmenter.palette)
    known = np.unique(labels[labels < VOID].numpy()).tolist()
    return labels, names or [f"class {n}" for n in known], "masks of the training set"


def dissect(
    network: LayeredNetwork, layer: str, images: Tensor, labels: Tensor, classes: int
) -> Found:
    """Agreement of a layer's units with the classes of real images.

    Args: images: float [n, 3, S, S]. labels: int64 [n, S, S]; numbers from `classes` on are void.
    """
    half = len(images) // 2
    maps = _maps(network, layer, images)
    known = labels.clamp(max=classes)  # void becomes one more class
    iou, shuffled = compare(maps[:half], known[:half], maps[half:], known[half:], classes + 1)
    iou, shuffled = iou[:, :classes], shuffled[:, :classes]
    shares = np.bincount(known.flatten().numpy(), minlength=classes + 1)[:classes] / known.numel()
    return Found(iou, shuffled, count_units(iou, shuffled, shares))


@torch.no_grad()
def _maps(network: LayeredNetwork, layer: str, images: Tensor) -> Tensor:
    """Activations float32 [n, units, h, w] on the CPU."""
    device = next(network.parameters()).device
    found = [network.run_to(some.to(device), layer) for some in torch.split(images, BATCH)]
    return torch.cat([maps.float().cpu() for maps in found])
