"""Traces of an earlier JPEG compression in an image: evidence that it was made from another file.

JPEG rounds the cosine coefficients of 8x8 blocks to multiples of a step. Decoded, altered and saved
again, an image keeps those multiples, on a grid that mirroring and cropping move. (Fan and de
Queiroz, IEEE Trans. Image Processing 2003; Lukas and Fridrich, DFRWS 2003.)
"""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

_FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1))  # rows, columns
_STEPS = range(2, 25)
_SIDE = 320  # of the part in the middle that is examined
_FEWEST = 40  # coefficients beyond the step that a mean needs
_PERIODIC = 0.4  # length of the mean phase that counts: 1 for exact multiples, near 0 for none
_FINE, _BINS = 8, 1 << 12  # bins of a grey level, and in all; the last holds what is larger
_AGREE = 3  # frequencies that must show a step
_MEAN = 57.625  # step of libjpeg's luma table at quality 50


@cache
def _basis(frequency: int) -> Floats:
    """The cosine of one frequency over 8 pixels, of unit length."""
    wave = np.cos((2 * np.arange(8) + 1) * frequency * np.pi / 16)
    return np.asarray(wave / np.linalg.norm(wave), np.float32)


def _steps(luma: Floats) -> npt.NDArray[np.int64]:
    """The coarsest step that each frequency shows on each grid: int64 [frequencies, 8, 8]."""
    found = np.zeros((len(_FREQUENCIES), 8, 8), np.int64)
    for number, (row, column) in enumerate(_FREQUENCIES):
        values = cv2.sepFilter2D(luma, cv2.CV_32F, _basis(column), _basis(row), anchor=(0, 0))
        values = values[: values.shape[0] // 8 * 8 - 8, : values.shape[1] // 8 * 8 - 8]
        height, width = values.shape
        grid = values.reshape(height // 8, 8, width // 8, 8).transpose(1, 3, 0, 2).reshape(64, -1)
        # Counts of values stand for the values: every step asks for sums over all of them.
        binned = np.minimum(np.rint(np.abs(grid) * _FINE).astype(np.int64), _BINS - 1)
        binned += np.arange(64)[:, None] * _BINS
        counts = np.bincount(binned.ravel(), minlength=64 * _BINS)
        counts = counts.reshape(64, _BINS).astype(np.float32)
        waves, beyond = _waves()
        used = counts @ beyond
        real = (counts @ waves) / np.maximum(used, 1)
        for at, step in enumerate(_STEPS):
            hit = (real[:, at] > _PERIODIC) & (used[:, at] >= _FEWEST)
            found[number].ravel()[hit] = step
    return found


@cache
def _waves() -> tuple[Floats, Floats]:
    """For each bin and step the cosine that is 1 at the step's multiples, and whether the bin lies
    beyond 3/4 of the step: each float32 [bins, steps], the cosine 0 where it does not.
    """
    values = np.arange(_BINS)[:, None] / _FINE
    steps = np.array(_STEPS)
    beyond = values > 0.75 * steps
    beyond[-1] = False
    waves = np.where(beyond, np.cos(2 * np.pi * values / steps), 0)
    return waves.astype(np.float32), beyond.astype(np.float32)


def compression(data: bytes) -> tuple[float, int]:
    """How coarsely an image was ever compressed as JPEG, and traces that its file does not explain.

    Args:
        data: the file's bytes, of an image that may be decoded.

    Returns:
        the median step of low frequencies, of the file's own table or found in the pixels, at least
        1; the number of 8x8 grids, 0 to 64, that show another compression than the file's. (1, 0)
        for small images and for what OpenCV does not read.
    """
    image = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if image is None or min(image.shape[:2]) < 64:
        return 1.0, 0
    # The part begins on the file's own grid.
    y, x = (max(0, (length - _SIDE) // 16 * 8) for length in image.shape[:2])
    part = image[y : y + _SIDE, x : x + _SIDE].astype(np.float32)
    found = _steps(part @ np.array([0.114, 0.587, 0.299], np.float32) - 128)
    own = own_steps(luma_table(data))
    found[:, 0, 0][found[:, 0, 0] <= 1.5 * own] = 0
    grids = (found > 0).sum(axis=0) >= _AGREE
    steps = np.maximum(np.where(grids, found, 0).max(axis=(1, 2)), own)
    return max(1.0, float(np.median(steps))), int(grids.sum())


def luma_table(data: bytes) -> npt.NDArray[np.int64]:
    """A JPEG file's own table of steps for luma, int64 [8, 8]; zeros for other formats."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            tables = getattr(file, "quantization", None)
    except (OSError, ValueError):
        tables = None
    if not tables:
        return np.zeros((8, 8), np.int64)
    return np.asarray(tables[0], np.int64).reshape(8, 8)


def own_steps(table: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The table's steps of the low frequencies that are looked at here."""
    return np.array([table[row, column] for row, column in _FREQUENCIES], np.int64)


def quality(table: npt.NDArray[np.int64]) -> float:
    """The quality 1 to 100 whose table of libjpeg has the same mean; 100 for zeros."""
    scale = float(table.mean()) / _MEAN
    return float(100 - 50 * scale if scale < 1 else 50 / scale)
