"""Agreement of a layer's units with classes: intersection over union of thresholded, upsampled maps
and of the pixels of a class (Bau et al. 2017).

Thresholds maximise the information quality ratio on other images than the agreement is measured
on. The baseline is the same maps against the segmentation of another image: size and layout stay.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.inspection.segmenters import Segmenter
from gan_core.inspection.units import BATCH, Units

CHUNK = 32  # units whose maps are upsampled at a time, to bound memory
FRACTIONS = np.logspace(-3, 0, 100)[:-1]  # shares of places above a threshold (netdissect)
# a unit counts where its IoU is above the first, and above the shuffled one by the second
LEAST_IOU, LEAST_GAIN = 0.05, 0.05
LEAST_PIXELS = 1e-3  # classes with a smaller share of the pixels are left out (netdissect)
Floats = npt.NDArray[np.float64]


def agreement(
    generator: nn.Module, layer: str, segment: Segmenter, latents: Tensor, count: int
) -> tuple[Floats, Floats, Floats]:
    """IoU and shuffled IoU [units, classes], and the share of pixels of each class [classes]."""
    first = Units(generator, layer, latents[:count])
    second = Units(generator, layer, latents[count : 2 * count])
    before, labels = segment(first.images), segment(second.images)
    classes = len(segment.classes)
    own, shuffled = compare(first.activations, before, second.activations, labels, classes)
    return own, shuffled, np.bincount(labels.flatten().numpy(), minlength=classes) / labels.numel()


def compare(
    first: Tensor, first_labels: Tensor, second: Tensor, second_labels: Tensor, classes: int
) -> tuple[Floats, Floats]:
    """IoU and shuffled IoU [units, classes] on the second images, thresholds from the first.

    Args: first, second: activations [n, units, h, w]. Labels: int64 [n, S, S].
    """
    own, shuffled = [], []
    for start in range(0, first.shape[1], CHUNK):
        some = slice(start, start + CHUNK)
        limits = thresholds(_upsampled(first[:, some], first_labels), first_labels, classes)
        maps = _upsampled(second[:, some], second_labels)
        own.append(intersection_over_union(maps, second_labels, limits))
        shuffled.append(intersection_over_union(maps, second_labels.roll(1, 0), limits))
    return np.concatenate(own), np.concatenate(shuffled)


def _upsampled(maps: Tensor, labels: Tensor) -> Tensor:
    """Maps in the size of the labels, float16 [n, units, S, S]."""
    size = list(labels.shape[1:])
    large = [
        F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False).half()
        for x in torch.split(maps, BATCH)
    ]
    return torch.cat(large)


def thresholds(maps: Tensor, labels: Tensor, classes: int) -> Floats:
    """For each unit and class the threshold of the largest information quality ratio: mutual
    information of map and class over their joint entropy. [units, classes]; inf where no level
    above 0 exists.
    """
    units = maps.shape[1]
    flat = labels.flatten().numpy()
    total = np.bincount(flat, minlength=classes).astype(np.float64)
    out = np.full((units, classes), np.inf)
    for unit in range(units):
        values = maps[:, unit].float().flatten().numpy()
        levels = np.unique(np.quantile(values, 1 - FRACTIONS))
        levels = levels[levels > 0]
        if not len(levels):
            continue
        place = np.searchsorted(levels, values, side="left")  # number of levels below the value
        counts = np.bincount(place * classes + flat, minlength=(len(levels) + 1) * classes)
        above = counts.reshape(len(levels) + 1, classes)[::-1].cumsum(0)[::-1][1:]
        ratio = quality(above.astype(np.float64), total)
        out[unit] = levels[ratio.argmax(0)]
    return out


def quality(both: Floats, total: Floats) -> Floats:
    """Information quality ratio of "above the threshold" and "of this class".

    Args: both: pixels of each class above each threshold [levels, classes]; total: [classes].
    """
    n = total.sum()
    above = both.sum(1, keepdims=True)
    joint = np.stack([both, above - both, total - both, n - above - total + both]) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(joint > 0, joint * np.log(joint), 0).sum(0)
        map_entropy = _entropy(above / n)
        class_entropy = _entropy(total / n)
        shared = map_entropy + class_entropy - entropy
        return np.where(entropy > 0, shared / entropy, 0)


def _entropy(p: Floats) -> Floats:
    q = 1 - p
    return -(np.where(p > 0, p * np.log(p), 0) + np.where(q > 0, q * np.log(q), 0))


def intersection_over_union(maps: Tensor, labels: Tensor, limits: Floats) -> Floats:
    """[units, classes]: pixels above the threshold and of the class, over those of either."""
    classes = limits.shape[1]
    out = np.zeros_like(limits)
    shown = [labels == number for number in range(classes)]
    sizes = [float(one.sum()) for one in shown]
    for unit in range(limits.shape[0]):
        for number in range(classes):
            if not np.isfinite(limits[unit, number]):
                continue
            above = maps[:, unit].float() > limits[unit, number]
            both = float((above & shown[number]).sum())
            either = float(above.sum()) + sizes[number] - both
            out[unit, number] = both / either if either else 0.0
    return out


def count_units(iou: Floats, shuffled: Floats, pixels: Floats) -> npt.NDArray[np.bool_]:
    """Which units count: IoU above 0.05, and 0.05 above the 99th percentile of all units' shuffled
    IoU for that class; classes that are hardly drawn have none.
    """
    limit = np.quantile(shuffled, 0.99, axis=0)
    found: npt.NDArray[np.bool_] = (iou > LEAST_IOU) & (iou - limit >= LEAST_GAIN)
    return found & (pixels >= LEAST_PIXELS)
