"""Cutting squares out of images, and where each lies in the original.

Sources: Newmu/dcgan_code, lib/cv2_utils.py (min_resize) and lib/data_utils.py (center_crop), whose
rounding is kept: they ran under Python 2, where round() takes halves away from zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

# Longer side over shorter side above which an image's ends are cut off before it is resized. The
# centre crop never sees
# them, and an image of 1 x 1,000,000 pixels would otherwise be blown up to gigabytes.
LONGEST = 8


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the upright original: x0 <= x < x1, y0 <= y < y1; fractions are
    parts of pixels.
    """

    x0: float
    y0: float
    x1: float
    y1: float


def round_half_up(value: float) -> int:
    """Python 2's round() for numbers that are not negative: halves go up (Python 3's go to the even
    neighbour).
    """
    return math.floor(value + 0.5)


def resize(image: Image, width: int, height: int, *, nearest: bool = False) -> Image:
    """Resizes [h, w] or [h, w, 3] uint8: area interpolation where it becomes smaller, linear where
    larger, or nearest.

    The DCGAN authors use linear both ways, which aliases when a photograph shrinks several times;
    area is ours.
    """
    old_height, old_width = image.shape[:2]
    if (old_width, old_height) == (width, height):
        return image
    if nearest:
        how = cv2.INTER_NEAREST_EXACT
    elif width * height < old_width * old_height:
        how = cv2.INTER_AREA
    else:
        how = cv2.INTER_LINEAR
    resized: Any = cv2.resize(image, (width, height), interpolation=how)
    return resized  # type: ignore[no-any-return]


def min_resize(image: Image, size: int, *, nearest: bool = False) -> Image:
    """Resizes so that the shorter side has `size` pixels, keeping the aspect ratio
    (lib/cv2_utils.py min_resize).

    Args:
        image: uint8 [h, w] or [h, w, 3].
        size: pixels of the shorter side afterwards.
        nearest: pick pixels instead of mixing them (masks).
    """
    height, width = image.shape[:2]
    if min(height, width) == size:
        return image
    if width <= height:
        return resize(image, size, round_half_up(height * size / width), nearest=nearest)
    return resize(image, round_half_up(width * size / height), size, nearest=nearest)


def centre_crop(image: Image, size: int, *, nearest: bool = False) -> tuple[Image, Box]:
    """Shorter side to `size`, then the centre square (lib/data_utils.py center_crop: `int(round((h
    - size) / 2.))`).

    Args:
        image: uint8 [h, w] or [h, w, 3], h and w at least 1.
        size: side of the square.

    Returns:
        The square, uint8 [size, size(, 3)], contiguous, and its box in pixels of `image`.
    """
    height, width = image.shape[:2]
    left, top = _ends(width, height), _ends(height, width)
    middle = image[top : height - top, left : width - left] if left or top else image
    small = min_resize(middle, size, nearest=nearest)
    down, across = (
        round_half_up((small.shape[0] - size) / 2),
        round_half_up((small.shape[1] - size) / 2),
    )
    square = np.ascontiguousarray(small[down : down + size, across : across + size])
    scale_x, scale_y = middle.shape[1] / small.shape[1], middle.shape[0] / small.shape[0]
    box = Box(
        left + across * scale_x,
        top + down * scale_y,
        left + (across + size) * scale_x,
        top + (down + size) * scale_y,
    )
    return square, box


def _ends(side: int, other: int) -> int:
    """Pixels to cut off at either end of a side that is more than `LONGEST` times the other."""
    return (side - LONGEST * other) // 2 if side > LONGEST * other else 0


def crop_box(image: Image, box: Box, size: int, *, nearest: bool = False) -> Image:
    """Cuts a box with whole-number corners out of an image and resizes it to [size, size(, 3)]."""
    part = image[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
    return np.ascontiguousarray(resize(part, size, size, nearest=nearest))


def square_around(
    x: float,
    y: float,
    width: float,
    height: float,
    margin: float,
    image_width: int,
    image_height: int,
) -> Box:
    """A square around a detection, `margin` times its longer side, moved inside the image rather
    than padded.

    A square larger than the image becomes the largest that fits.

    Args:
        x, y, width, height: the detector's box in pixels.
        margin: side of the square over the longer side of that box.

    Returns:
        A box with whole-number corners inside the image.
    """
    side = min(round_half_up(max(width, height) * margin), image_width, image_height)
    left = min(max(round_half_up(x + width / 2 - side / 2), 0), image_width - side)
    top = min(max(round_half_up(y + height / 2 - side / 2), 0), image_height - side)
    return Box(left, top, left + side, top + side)
