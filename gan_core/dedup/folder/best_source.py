"""Which image of a family the others were made from, as far as the images tell: it represents them.

An image that is mirrored, turned, grey, padded, cropped, made smaller or saved again is not the
best source of its family, even where it has more pixels or more bytes.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from gan_core.dedup.folder.compression import compression
from gan_core.dedup.folder.thumbnails import trim_border
from gan_core.vision.decode import decode

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

EVIDENCE = 5  # numbers that `examine` gives
SMALLER = 0.75  # share of the family's largest area below which an image counts as made smaller
CROPPED = 0.985  # ... and as cropped
COARSER = 1.6  # factor on the family's finest JPEG step
BLURRED = 0.88  # share of the greatest sharpness below which an image counts as resampled
GREY = 3.0  # levels of spread between channels below which an image is grey


def examine(data: bytes, max_megapixels: float) -> tuple[float, ...]:
    """What one image says of its own history.

    Returns:
        colour: mean spread of the channels, grey levels; sharpness: energy of the finest details
        as a share of that of coarser ones, which resampling lowers; step and grids: `compression`;
        padded: 1 with a plain border, else 0.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    whole = decode(data, max_megapixels)
    image = trim_border(whole)
    height, width = image.shape[:2]
    # The middle: what a turned image has at its corners is no detail of it.
    part = image[height // 5 : height - height // 5, width // 5 : width - width // 5]
    colour = float((part.max(axis=2) - part.min(axis=2)).mean())
    luma = part.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    fine = np.abs(cv2.Laplacian(luma, cv2.CV_32F)).mean()
    coarse = np.abs(cv2.Laplacian(cv2.GaussianBlur(luma, (0, 0), 2.0), cv2.CV_32F)).mean()
    padded = float(image.shape != whole.shape)
    return colour, float(fine / max(coarse, 1e-3)), *compression(data), padded


def best_source(
    evidence: Floats, area: Rows, transparent: Rows, mirrored: npt.NDArray[np.bool_], rank: Rows
) -> int:
    """The place of the best source in a family.

    Args:
        evidence: float64 [n, 5], `examine`; NaN where it is not known.
        area: pixels without a plain border [n]; transparent: 1 with transparent parts.
        mirrored: whether an image is the mirror image of the family's first one.
        rank: int64 [n], decides what the evidence leaves open; lower is preferred.
    """
    colour, sharpness, step, grids, padded = np.nan_to_num(evidence).T
    smaller = area < SMALLER * area.max()
    grey = (colour < GREY) & (colour.max() >= GREY)
    turned_over = (mirrored if 2 * mirrored.sum() < len(mirrored) else ~mirrored) & (
        2 * mirrored.sum() != len(mirrored)
    )
    similar = ~smaller & ~grey
    sharpest = sharpness[similar].max() if similar.any() else 0.0
    blurred = sharpness < BLURRED * sharpest
    cropped = area < CROPPED * area[similar].max() if similar.any() else smaller
    coarser = step > COARSER * step[similar].min() if similar.any() else smaller
    keys = (rank, transparent, grids, coarser, blurred, padded, cropped, turned_over, grey, smaller)
    return int(np.lexsort(keys)[0])
