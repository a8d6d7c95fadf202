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

EVIDENCE = 7  # numbers that `examine` gives
SMALLER = 0.75  # share of the family's largest area below which an image counts as made smaller
CROPPED = 0.95  # ... and as cropped
BLURRED = 0.88  # share of the greatest sharpness below which an image counts as resampled
SOFTER = 0.985  # ... and, where nothing else tells, as a later generation
BLOCKY = 8.0  # JPEG step from which blocks are sharper than details
TURNED = 0.015  # radians from the family's usual orientation beyond which an image counts as turned
LEVELS = 0.97  # share of the greatest number of grey levels in use below which, and ...
CLIPPED = 1.2  # factor on the least share of clipped values above which, brightness was changed
GREY = 3.0  # levels of spread between channels below which an image is grey


def examine(data: bytes, max_megapixels: float) -> tuple[float, ...]:
    """What one image says of its own history.

    Returns:
        colour: mean spread of the channels, grey levels; sharpness: energy of the finest details
        as a share of that of coarser ones, which resampling lowers; step and grids: `compression`;
        padded: 1 with a plain border, else 0; levels: of 256, in use; clipped: share of the values
        that are 0 or 255, whichever are more.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    whole = decode(data, max_megapixels)
    image = trim_border(whole)
    # The middle: what a turned image has at its corners is no detail of it. It begins on the file's
    # own 8x8 grid.
    y, x = (length // 40 * 8 for length in whole.shape[:2])
    part = whole[y : whole.shape[0] - y, x : whole.shape[1] - x]
    colour = float((part.max(axis=2) - part.min(axis=2)).mean())
    luma = part.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    fine = _within_blocks(np.abs(cv2.Laplacian(luma, cv2.CV_32F)))
    coarse = np.abs(cv2.Laplacian(cv2.GaussianBlur(luma, (0, 0), 2.0), cv2.CV_32F)).mean()
    padded = float(image.shape != whole.shape)
    counts = np.bincount(image.ravel(), minlength=256)
    levels, clipped = float((counts > 0).sum()), float(max(counts[0], counts[255]) / image.size)
    sharpness = float(fine / max(coarse, 1e-3))
    return colour, sharpness, *compression(data), padded, levels, clipped


def _within_blocks(values: npt.NDArray[np.float32]) -> float:
    """The mean without the edges of 8x8 blocks, which JPEG makes sharp."""
    return float(np.mean([values[y::8, x::8].mean() for y in range(2, 6) for x in range(2, 6)]))


def best_source(evidence: Floats, area: Rows, transparent: Rows, maps: Floats, rank: Rows) -> int:
    """The place of the best source in a family.

    Args:
        evidence: float64 [n, 7], `examine`; NaN where it is not known.
        area: pixels without a plain border [n]; transparent: 1 with transparent parts.
        maps: float64 [n, 3, 3], from one image of the family to each (`align`, mirroring included).
        rank: int64 [n], decides what the evidence leaves open; lower is preferred.
    """
    colour, sharpness, step, grids, padded, levels, clipped = np.nan_to_num(evidence).T
    smaller = area < SMALLER * area.max()
    grey = (colour < GREY) & (colour.max() >= GREY)
    mirrored = np.linalg.det(maps[:, :2, :2]) < 0
    turned_over = (mirrored if 2 * mirrored.sum() < len(mirrored) else ~mirrored) & (
        2 * mirrored.sum() != len(mirrored)
    )
    # An image and its mirror image are turned alike by opposite angles.
    sign = np.where(mirrored, -1, 1)
    across, along = maps[:, 1, 0] * sign - maps[:, 0, 1], maps[:, 0, 0] * sign + maps[:, 1, 1]
    angle = np.arctan2(across, along)
    turned = np.abs(angle - np.median(angle)) > TURNED
    blocky = (step >= BLOCKY) & (step > 1.6 * step[~smaller].min())
    similar = ~smaller & ~grey & ~blocky
    sharpest = sharpness[similar].max() if similar.any() else 0.0
    blurred, softer = sharpness < BLURRED * sharpest, sharpness < SOFTER * sharpest
    cropped = area < CROPPED * area[similar].max() if similar.any() else smaller
    retoned = (levels < LEVELS * levels.max()) & (clipped > CLIPPED * clipped.min())
    lossy = (step > 1) & bool(((step == 1) & (grids == 0) & similar & ~blurred & ~retoned).any())
    keys = (
        rank,
        transparent,
        softer,
        lossy,
        grids,
        blurred,
        padded,
        cropped,
        retoned,
        turned,
        turned_over,
        blocky,
        grey,
        smaller,
    )
    return int(np.lexsort(keys)[0])
