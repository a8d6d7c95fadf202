"""What is odd about an image or a set of images: dark, bright, blurry, empty, of odd size.

Measures and thresholds are those of cleanvision 0.3 (cleanlab/cleanvision, issue_managers), but for
`tiny` and `grey`, which are ours, and for the blur, which is measured on at most 64 pixels without
cleanvision's second look at the variation of grey levels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

DARK = 0.32  # brightness, 0 to 1, that 99 % of the pixels stay below
BRIGHT = 0.95  # brightness that 95 % of the pixels reach
BLURRY = 0.29  # 1 - exp(-0.01 * variance of the edges) below which an image is blurry
LOW_INFORMATION = 3.0  # bits of entropy of the grey levels, of 8
ODD_ASPECT = 0.35  # shorter over longer side
ODD_SIZE = 10.0  # factor between the root of the area and its median in the set
TINY = 32  # pixels of the shorter side: the smallest that the networks here are trained on
GREY = 3.0  # levels of mean spread between the channels
_EDGES = 64  # pixels of the longer side at which blur is measured

PROBLEMS = (
    "dark",
    "bright",
    "blurry",
    "low information",
    "odd aspect ratio",
    "odd size",
    "tiny",
    "grey",
)


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of one image.

    Attributes:
        width, height: pixels.
        brightness_99, brightness_5: percentiles of the perceived brightness, 0 to 1.
        sharpness: 1 - exp(-0.01 * variance of the edges), 0 to 1.
        entropy: bits of the histogram of grey levels, 0 to 8.
        colour: mean spread between the channels, 0 to 255.
        pixels: digest of size and pixels, equal for exact duplicates.
    """

    width: int
    height: int
    brightness_99: float
    brightness_5: float
    sharpness: float
    entropy: float
    colour: float
    pixels: str


def measure(image: npt.NDArray[np.uint8]) -> Quality:
    """Measures uint8 [height, width, 3] RGB."""
    height, width = image.shape[:2]
    weights = np.array([0.241, 0.691, 0.068], np.float32)
    brightness = np.sqrt(image.astype(np.float32) ** 2 @ weights) / 255
    low, high = np.percentile(brightness, (5, 99)).tolist()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    share = share[share > 0]
    scale = _EDGES / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    kernel = np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32)
    edges = np.clip(cv2.filter2D(grey.astype(np.float32), -1, kernel), 0, 255)
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16)
    digest.update(f"{width}x{height}".encode())
    return Quality(
        width,
        height,
        float(high),
        float(low),
        float(1 - np.exp(-0.01 * edges.var())),
        float(-(share * np.log2(share)).sum()),
        float((image.max(axis=2).astype(np.int16) - image.min(axis=2)).mean()),
        digest.hexdigest(),
    )


def problems(measured: list[Quality]) -> list[list[str]]:
    """The problems of each image of a set, names of `PROBLEMS` in their order."""
    if not measured:
        return []
    size = np.array([(one.width * one.height) ** 0.5 for one in measured])
    usual = float(np.median(size))
    out = []
    for one, side in zip(measured, size.tolist(), strict=True):
        shorter, longer = sorted((one.width, one.height))
        found = (
            one.brightness_99 < DARK,
            one.brightness_5 > BRIGHT,
            one.sharpness < BLURRY,
            one.entropy < LOW_INFORMATION,
            shorter / longer < ODD_ASPECT,
            not usual / ODD_SIZE <= side <= usual * ODD_SIZE,
            shorter < TINY,
            one.colour < GREY,
        )
        out.append([name for name, is_so in zip(PROBLEMS, found, strict=True) if is_so])
    return out
