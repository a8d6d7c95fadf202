"""Which image of a family the others were made from, as far as the images tell: it represents them.

An image that is mirrored, turned, grey, noisy, padded, cropped, moved, made smaller or saved again
is not the best source of its family, even where it has more pixels or more bytes; nor is one that
was enlarged (`enlarged.py`).

Two images alone do not always tell: of two lossless files that are each other's mirror image, of
JPEG files of one quality with equal pixels, and of a JPEG photograph and a finer file without
traces of it, either may be the source. Then the finer file is preferred, then the rank decides: it
is the same for every order of the files.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gan_core.dedup.folder.compression import compression, luma_table, own_steps, quality
from gan_core.dedup.folder.thumbnails import trim_border
from gan_core.vision.decode import decode

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Luma = npt.NDArray[np.float32]

EVIDENCE = 12  # numbers that `examine` gives
SMALLER = 0.75  # share of the family's largest area below which an image counts as made smaller
CROPPED = 0.95  # ... and as cropped
BLURRED = 0.78  # share of the greatest sharpness below which an image counts as resampled
SOFTER = 0.98  # ... and, where nothing else tells, as a later generation
BLOCKY = 8.0  # JPEG step from which blocks are sharper than details
COARSER = 1.3  # factor on the least JPEG step above which an image was compressed more
EDGES = (1.0, 0.4)  # jump at the file's own 8x8 grid, in levels and in JPEG steps, that it explains
TURNED = 0.015  # radians from the family's usual orientation beyond which an image counts as turned
LEVELS = 0.97  # share of the greatest number of grey levels in use below which, and ...
CLIPPED = 1.2  # factor on the least share of clipped values above which, brightness was changed
COMB = (0.28, 2.0)  # roughness of a histogram, and factor on the least, that a tone curve leaves
COMBED = (0.12, 1.5)  # ... and that it leaves where compression has filled the gaps
GREY = 3.0  # levels of spread between channels below which an image is grey
NOISY = 3.0  # levels of noise above twice the family's least from which noise was added
REPEATED = 0.35  # share of a row's details that may change to the next row, which repeats it ...
MOVED = (10, 1.5)  # ... rows from which a border was repeated, and factor on the family's least
PADDED = 1.02  # factor on the smallest whole area above which a plain border was added
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_PART = 320  # side of the middle part on which sharpness is compared after compression


def examine(data: bytes, max_megapixels: float) -> tuple[float, ...]:
    """What one image says of its own history.

    Returns:
        colour: mean spread of the channels, grey levels; noise: standard deviation in the flattest
        places, grey levels; step and grids: `compression`; traced: 1 where blocks show at the
        file's own 8x8 grid that its own JPEG table does not explain; whole: pixels, with a plain
        border; padded: 1 with a plain border, else 0; moved: rows or columns at one border that
        repeat one another; levels: of 256, in use; clipped: share of the values that are 0 or 255,
        whichever are more; comb: roughness of the histogram; quality: of the file's JPEG
        compression, 100 without.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    whole = decode(data, max_megapixels)
    image = trim_border(whole)
    part = _middle(whole)
    colour = float((part.max(axis=2) - part.min(axis=2)).mean())
    entire = whole.astype(np.float32) @ _LUMA
    luma = _middle(entire)
    counts = np.bincount(image.ravel(), minlength=256)
    levels, clipped = float((counts > 0).sum()), float(max(counts[0], counts[255]) / image.size)
    table = luma_table(data)
    allowed = EDGES[0] + EDGES[1] * float(np.median(own_steps(table)))
    return (
        colour,
        _noise(luma),
        *compression(data),
        float(_edges(luma) > allowed),
        float(whole.shape[0] * whole.shape[1]),
        float(image.shape != whole.shape),
        float(_repeated(entire)),
        levels,
        clipped,
        max(_roughness(image[..., channel]) for channel in range(3)),
        quality(table),
    )


def common_quality(evidence: Floats, area: Rows) -> int:
    """The JPEG quality at which the sharpness of a family is compared: the least that one of its
    large images was saved with, 50 to 95. Args: as of `best_source`.
    """
    large = (area >= SMALLER * area.max()) & (np.nan_to_num(evidence[:, 11]) >= 50)
    return int(min(95, round(evidence[large, 11].min(initial=95))))


def sharpness(data: bytes, max_megapixels: float, quality: int) -> float:
    """The energy of an image's finest details as a share of that of coarser ones, which resampling
    lowers, once it is saved as JPEG of a quality.

    Compression adds sharp details that are none of the source's. So a family's images are compared
    after they were all compressed alike.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    part = _middle(decode(data, max_megapixels))
    y, x = (max(0, (length - _PART) // 16 * 8) for length in part.shape[:2])
    luma = part[y : y + _PART, x : x + _PART].astype(np.float32) @ _LUMA
    saved = cv2.imencode(
        ".jpg", np.rint(luma).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    again = np.asarray(cv2.imdecode(saved, cv2.IMREAD_GRAYSCALE), np.float32)
    coarse = np.abs(cv2.Laplacian(cv2.GaussianBlur(again, (0, 0), 2.0), cv2.CV_32F)).mean()
    fine = _within_blocks(np.abs(cv2.Laplacian(again, cv2.CV_32F)))
    return float(fine / max(float(coarse), 1e-3))


def _middle(image: npt.NDArray[np.generic]) -> npt.NDArray[Any]:
    """The middle of an image: what a turned one has at its corners is no detail of it. It begins on
    the file's own 8x8 grid.
    """
    y, x = (length // 40 * 8 for length in image.shape[:2])
    return image[y : image.shape[0] - y, x : image.shape[1] - x]


def _within_blocks(values: Luma) -> float:
    """The mean without the edges of 8x8 blocks, which JPEG makes sharp."""
    return float(np.mean([values[y::8, x::8].mean() for y in range(2, 6) for x in range(2, 6)]))


def _noise(luma: Luma) -> float:
    """Standard deviation of noise by Immerkaer's mask (CVIU 1996), the quartile over 8x8 blocks."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    height, width = (length // 8 * 8 for length in luma.shape)
    response = cv2.filter2D(luma, cv2.CV_32F, mask)[:height, :width] ** 2
    blocks = response.reshape(height // 8, 8, width // 8, 8)[:, 1:7, :, 1:7].mean(axis=(1, 3))
    return float(np.sqrt(np.quantile(blocks, 0.25)))


def _edges(luma: Luma) -> float:
    """How much more neighbours differ across the lines of the 8x8 grid than beside them: levels,
    both directions added.
    """
    total = 0.0
    for lines in (luma, luma.T):
        steps = np.abs(np.diff(lines, axis=1))
        excess = steps[:, 7:-1:8] - (steps[:, 6:-2:8] + steps[:, 8::8]) / 2
        total += float(np.clip(excess, -8, 8).mean()) if excess.size else 0.0
    return total


def _repeated(luma: Luma) -> int:
    """The most rows or columns at one border that repeat one another's details.

    What differs along a row must hardly differ from row to row: a plain sky has no such details.
    """
    most = 0
    for lines in (luma, luma.T):
        details = np.diff(lines, axis=1)
        strength = np.abs(details).mean(axis=1)
        change = np.abs(np.diff(details, axis=0)).mean(axis=1)
        for own, other in ((strength[:-1], change), (strength[:0:-1], change[::-1])):
            same = ((other < REPEATED * own) & (own > 1))[: len(lines) // 6]
            most = max(most, len(same) if same.all() else int(np.argmin(same)))
    return most


def _roughness(channel: npt.NDArray[np.uint8]) -> float:
    """How far the counts of grey levels lie from the mean of their two neighbours', as a share:
    near 0 for a photograph, more where a tone curve left gaps.
    """
    counts = np.bincount(channel.ravel(), minlength=256).astype(np.float64)
    low, high = np.searchsorted(np.cumsum(counts) / counts.sum(), [0.02, 0.98])
    counts = counts[max(1, low) : min(254, high) + 1]
    if len(counts) < 8:
        return 0.0
    off = np.abs(counts[1:-1] - (counts[:-2] + counts[2:]) / 2)
    return float(off.sum() / max(1.0, counts[1:-1].sum()))


def best_source(
    evidence: Floats,
    sharpness: Floats,
    area: Rows,
    transparent: Rows,
    maps: Floats,
    rank: Rows,
    enlarged: npt.NDArray[np.bool_] | None = None,
) -> int:
    """The place of the best source in a family.

    Args:
        evidence: float64 [n, EVIDENCE], `examine`; sharpness: float64 [n], at `common_quality`;
            NaN where they are not known.
        area: pixels without a plain border [n]; of an enlarged image, those of its source.
        transparent: 1 with transparent parts.
        maps: float64 [n, 3, 3], from one image of the family to each (`align`, mirroring included).
        rank: int64 [n], decides what the evidence leaves open; lower is preferred.
        enlarged: bool [n], images known to be enlarged; None: none.
    """
    colour, noise, step, grids, traced, whole, padded, moved, levels, clipped, comb, _ = (
        np.nan_to_num(evidence).T
    )
    if enlarged is None:
        enlarged = np.zeros(len(area), np.bool_)
    smaller = area < SMALLER * area.max()
    large = ~smaller
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
    blocky = (step >= BLOCKY) & (step > 1.6 * step[large].min())
    noisy = noise > NOISY + 2 * noise[large].min()
    similar = large & ~grey & ~blocky & ~noisy & ~enlarged
    sharpness = np.nan_to_num(sharpness)
    sharpest = sharpness[similar].max() if similar.any() else 0.0
    blurred, softer = sharpness < BLURRED * sharpest, sharpness < SOFTER * sharpest
    cropped = area < CROPPED * area[similar].max() if similar.any() else smaller
    retoned = (levels < LEVELS * levels.max()) & (clipped > CLIPPED * clipped.min())
    retoned |= (comb > COMB[0]) & (comb > COMB[1] * comb[large].min())
    edged = (padded > 0) & (whole > PADDED * whole[large].min())
    edged |= (moved >= MOVED[0]) & (moved > MOVED[1] * moved[large].min())
    combed = (comb > COMBED[0]) & (comb > COMBED[1] * comb[large].min())
    traces = grids + traced + combed
    clean = similar & ~softer & ~retoned & ~edged & (traces == 0)
    lossy = step > COARSER * step[clean].min() if clean.any() else smaller
    keys = (
        rank,
        transparent,
        softer,
        lossy,
        traces,
        blurred,
        edged,
        cropped,
        retoned,
        turned,
        turned_over,
        noisy,
        blocky,
        grey,
        enlarged,
        smaller,
    )
    return int(np.lexsort(keys)[0])
