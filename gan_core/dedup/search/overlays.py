"""Pairs of which one image is the other with something opaque of few colours on it: text, a date,
a logo.

1. Candidates: pairs that share many cells of the 16x16 grey image, and details of the 32x32 one.
2. Decision on originals: outside the places that differ the two must agree nearly exactly. There,
   one image must hold more edges than the other, in at most two colours that blend into the other
   image, with a high contrast. So the objects that pass before a fixed camera are no overlays.

No alignment: an overlay leaves the image where it was. The search compares all pairs.
The bounds were set on `benchmarks/dedup_overlays.py` (docs/dedup/notes.md).
"""

from __future__ import annotations

import logging
import time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gan_core.dedup.search.align import LUMA
from gan_core.progress import Progress, duration, silent

_log = logging.getLogger(__name__)
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

SIDE = 384  # pixels of the longer side at which originals are compared, at most
COARSE = 96  # side of the squashed images at which the rest is compared
EQUAL_CELL = 6  # grey levels that equal cells may differ
EQUAL_CELLS = 0.25  # least share of equal cells of a candidate; other photos: 0.23 at most
SHARED = 0.15  # least share of a thumbnail's details that a candidate shares; other photos: 0.07
EQUAL_PIXEL = 16  # levels that equal pixels may differ in any channel ...
DIFFERS = 25  # ... and from which pixels differ
AGREE = 0.85  # least share of the details outside the overlay that agree
LEFT = 0.2  # least share of all details that lie outside the overlay
EXPLAINED = 0.5  # least share of the difference that blends into two colours explain ...
BLEND = 12.0  # ... up to so many levels
CONTRAST = 75.0  # least median difference of an overlay; objects in street frames: 73 at most
EDGES = 1.1  # least gain of edge energy under the overlay
PAIRS = "pairs of images compared in small for overlays"
TIMED = 32  # images after which the whole time is estimated ...
LONG = 30  # ... and announced, from so many seconds on
_EDGE = 4.0  # length of a gradient that is a detail


def candidates(
    small: npt.NDArray[np.uint8],
    thumbnails: Image,
    first: Rows,
    second: Rows,
    progress: Progress = silent,
) -> Rows:
    """Pairs of rows that may be an image and its overlaid version, each once: int64 [2, pairs].

    Args:
        small: uint8 [n, 16, 16] grey; thumbnails: uint8 [n, 32, 32, 3].
        first, second: rows to be paired with one another; equal, or without a common row.
    """
    cells = small.reshape(len(small), -1)
    within = len(first) == len(second) and bool((first == second).all())
    parts = [np.empty((2, 0), np.int64)]
    done, total = 0, len(first) * (len(first) - 1) // 2 if within else len(first) * len(second)
    progress(done, total, PAIRS)
    start = time.perf_counter()
    for at, row in enumerate(first.tolist()):
        others = second[at + 1 :] if within else second
        one, many = cells[row], cells[others]
        equal = (np.maximum(many, one) - np.minimum(many, one) <= EQUAL_CELL).mean(axis=1)
        near = others[equal >= EQUAL_CELLS]
        shared = _shared_details(thumbnails[np.full(len(near), row)], thumbnails[near])
        near = near[shared >= SHARED]
        parts.append(np.stack([np.full(len(near), row), near]))
        done += len(others)
        progress(done, total, PAIRS)
        spent = time.perf_counter() - start
        if at + 1 == TIMED and done and (left := spent * (total / done - 1)) > LONG:
            _log.info(
                "--overlays compares every pair of %s images, so its time grows with the square "
                "of their number: about %s here.",
                f"{len(np.union1d(first, second)):,}",
                duration(left),
            )
    return np.concatenate(parts, axis=1)


def _shared_details(first: Image, second: Image) -> Floats:
    """Share of the details of one of two images that are in the other, the larger one: [n]."""
    a, b = (_gradients(images) for images in (first, second))
    equal = np.abs(first.astype(np.int16) - second).max(axis=3) <= EQUAL_PIXEL
    apart = np.hypot(*(one - other for one, other in zip(a, b, strict=True)))
    shares = []
    for length in (np.hypot(*a), np.hypot(*b)):
        detail = length > _EDGE
        good = (detail & equal & (apart <= 0.5 * length)).sum(axis=(1, 2))
        count = detail.sum(axis=(1, 2))
        shares.append(np.where(count > 20, good / np.maximum(count, 1), 0))
    return np.asarray(np.maximum(*shares), np.float32)


def _gradients(images: Any) -> tuple[Floats, Floats]:
    """Central differences of the luma along y and x: float32 [n, h, w] each."""
    luma = images.astype(np.float32) @ np.array(LUMA, np.float32)
    padded = np.pad(luma, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    right = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    return down, right


def overlaid(first: Image, second: Image) -> tuple[int, float]:
    """Which of two images is the other with an overlay.

    Args:
        first, second: uint8 [h, w, 3] RGB of any sizes.

    Returns:
        0 none, 1 the first, 2 the second; and the share of details outside the overlay that agree.
    """
    height, width = first.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    a, b = (cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (first, second))
    agree, left = _outside(*(cv2.resize(one, (COARSE, COARSE)) for one in (a, b)))
    if agree < AGREE or left < LEFT:
        return 0, agree
    if _is_overlay(a, b):
        return 2, agree
    return (1 if _is_overlay(b, a) else 0), agree


def _outside(a: Any, b: Any) -> tuple[float, float]:
    """Share of the details outside the differing places that agree, and share of all details that
    lie there.
    """
    off = np.abs(a.astype(np.int16) - b).max(axis=2)
    differs = cv2.dilate((off > DIFFERS).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    pair = np.stack([cv2.GaussianBlur(one, (0, 0), 0.6) for one in (a, b)])
    down, right = _gradients(pair)
    length = np.hypot(down[0], right[0])
    apart = np.hypot(down[0] - down[1], right[0] - right[1])
    detail = length > _EDGE
    outside = detail & ~differs
    agree = outside & (off <= EQUAL_PIXEL) & (apart <= 0.35 * length)
    count = max(int(outside.sum()), 1)
    return float(agree.sum() / count), float(outside.sum() / max(int(detail.sum()), 1))


def _is_overlay(clean: Any, over: Any) -> bool:
    """Whether `over` is `clean` with something of at most two colours on it."""
    a, b = clean.astype(np.float32), over.astype(np.float32)
    off = np.abs(b - a).max(axis=2)
    differs = off > DIFFERS
    weight = off[differs]
    if len(weight) < 20 or np.median(weight) < CONTRAST:
        return False
    around = cv2.dilate(differs.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    pair = np.stack([cv2.GaussianBlur(one, (0, 0), 0.6) for one in (a, b)])
    edges = np.hypot(*_gradients(pair))
    if edges[1][around].sum() < EDGES * max(float(edges[0][around].sum()), 1.0):
        return False
    explained = _residual(a[differs], b[differs], weight) <= BLEND
    return bool((weight * explained).sum() >= EXPLAINED * weight.sum())


def _residual(below: Floats, seen: Floats, weight: Floats) -> Floats:
    """Distance of each pixel from the blends of two colours with what lies below, and with each
    other: float32 [n].

    The colours are the most frequent one, and the most frequent one of what that leaves.
    """
    colours: list[Floats] = []
    best = np.full(len(seen), np.inf, np.float32)
    for _ in range(2):
        rest = best > BLEND
        if rest.sum() < 5:
            break
        pixels = seen[rest]
        bins = ((pixels + 6) // 16).astype(np.int64) @ np.array([400, 20, 1])
        _, inverse = np.unique(bins, return_inverse=True)
        centre = pixels[inverse == np.bincount(inverse, weight[rest]).argmax()].mean(axis=0)
        colour = pixels[np.abs(pixels - centre).max(axis=1) <= 16].mean(axis=0)
        for end in (below, *colours):
            step = colour - end
            along = ((seen - end) * step).sum(axis=-1) / np.maximum((step**2).sum(axis=-1), 1e-3)
            blend = end + np.clip(along, 0, 1)[:, None] * step
            best = np.minimum(best, np.abs(blend - seen).max(axis=1))
        colours.append(colour)
    return best
