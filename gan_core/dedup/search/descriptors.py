"""What an image looks like in few numbers, for finding candidates: orientations of edges, and a
small grey image.

The descriptor is a small histogram of oriented gradients (Dalal and Triggs, CVPR 2005): 8
undirected orientations in 4x4 overlapping cells of the 32x32 grey image, square roots, the set's
mean off, unit length. It does not see gain, offset and colour, hardly sees small shifts, and the
descriptor of the mirror image is a permutation of its numbers. Of the 279 near-duplicate pairs that
people found in CIFAR-10 it has 97.8 % among the 10 nearest neighbours; blurred grey pixels have 92
to 96 %, the autoencoder's real-valued code 91 to 94 %, its binary code within 4 bits 7 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gan_core.dedup.hashing import SIDE
from gan_core.dedup.hashing.autoencoder import Pixels, resize_to
from gan_core.progress import Progress, silent

Floats = npt.NDArray[np.float32]
Fetch = Callable[[npt.NDArray[np.int64]], Pixels]

ORIENTATIONS = 8
CELLS = 4
LENGTH = ORIENTATIONS * CELLS * CELLS
SMALL = 16
_BLANK = 2.0  # grey levels of deviation below which an image has nothing that could be aligned


@dataclass(frozen=True)
class Described:
    """Descriptors of n images.

    Attributes:
        edges: float32 [n, 128], cell rows, cell columns, orientations; unit length (blank images:
            zeros).
        small: uint8 [n, 16, 16] grey.
        digest: uint8 [n, 16], equal for images of equal pixels at 32x32.
        blank: bool [n], images of one tone.
        centre: float32 [128], subtracted from every descriptor before normalisation.
    """

    edges: Floats
    small: npt.NDArray[np.uint8]
    digest: npt.NDArray[np.uint8]
    blank: npt.NDArray[np.bool_]
    centre: Floats

    def __len__(self) -> int:
        return len(self.edges)


def grey(pixels: Pixels) -> npt.NDArray[np.int16]:
    """Luma of ITU-R BT.601, rounded: int16 [n, h, w], 0 to 255."""
    weights = np.array([19595, 38470, 7471], np.uint32)  # of 65536
    total = (pixels.astype(np.uint32) * weights).sum(axis=3, dtype=np.uint32)
    return np.asarray((total + 32768) >> 16, np.int16)


@cache
def _tables() -> tuple[npt.NDArray[np.uint8], Floats]:
    """Orientation bin and magnitude of every possible gradient (dy, dx), each -255..255, at index
    (dy + 255) * 511 + dx + 255.
    """
    dy, dx = np.mgrid[-255:256, -255:256].astype(np.float64)
    # Upright and level edges are frequent: they lie in the middle of a bin, where mirroring leaves
    # them.
    bins = np.round(np.arctan2(dy, dx) / np.pi * ORIENTATIONS).astype(np.int64) % ORIENTATIONS
    return bins.astype(np.uint8).ravel(), np.hypot(dx, dy).astype(np.float32).ravel()


def edge_histograms(luma: npt.NDArray[np.int16]) -> Floats:
    """Square roots of gradient energy by cell and orientation: float32 [n, 128], mean and length
    untouched.

    Args:
        luma: int16 [n, 32, 32].
    """
    bins, magnitudes = _tables()
    count = len(luma)
    dx = np.zeros_like(luma, np.int32)
    dy = np.zeros_like(luma, np.int32)
    dx[:, :, 1:-1] = luma[:, :, 2:] - luma[:, :, :-2]
    dy[:, 1:-1] = luma[:, 2:] - luma[:, :-2]
    # Central differences reach +-255; the border has none.
    place = (dy + 255) * 511 + (dx + 255)
    fine = SIDE // 4  # cells of 4x4 pixels, of which overlapping cells of 8x8 are made
    rows, columns = np.mgrid[:SIDE, :SIDE] // 4
    cell = ((rows * fine + columns) * ORIENTATIONS).astype(np.int64)
    index = (
        cell
        + bins[place]
        + (np.arange(count, dtype=np.int64) * (fine * fine * ORIENTATIONS))[:, None, None]
    )
    energy = np.bincount(
        index.ravel(), magnitudes[place].ravel(), count * fine * fine * ORIENTATIONS
    )
    energy = energy.reshape(count, fine, fine, ORIENTATIONS)
    wide = energy[:, :-1, :-1] + energy[:, 1:, :-1] + energy[:, :-1, 1:] + energy[:, 1:, 1:]
    return np.asarray(np.sqrt(wide[:, ::2, ::2]), np.float32).reshape(count, LENGTH)


def mirrored(edges: npt.NDArray[Any]) -> Floats:
    """The descriptors of the mirror images (left and right exchanged)."""
    cells = edges.reshape(-1, CELLS, CELLS, ORIENTATIONS)
    turned = -np.arange(ORIENTATIONS) % ORIENTATIONS
    return np.ascontiguousarray(cells[:, :, ::-1, turned], np.float32).reshape(len(edges), LENGTH)


def describe(
    fetch: Fetch,
    rows: int,
    progress: Progress = silent,
    block: int = 2048,
    *,
    centre: Floats | None = None,
) -> Described:
    """Describes images 0..rows-1, a block at a time.

    Args:
        fetch: gives uint8 [n, S, S, 3] for row numbers.
        centre: float32 [128] of the set that these images are compared with; None: their own.
    """
    edges = np.empty((rows, LENGTH), np.float32)
    small = np.empty((rows, SMALL, SMALL), np.uint8)
    digest = np.empty((rows, 16), np.uint8)
    blank = np.empty(rows, np.bool_)
    for start in range(0, rows, block):
        part = slice(start, min(start + block, rows))
        pixels = np.ascontiguousarray(resize_to(fetch(np.arange(part.start, part.stop))))
        luma = grey(pixels)
        edges[part] = edge_histograms(luma)
        small[part] = luma.reshape(-1, SMALL, 2, SMALL, 2).mean(axis=(2, 4)).round()
        blank[part] = luma.std(axis=(1, 2)) < _BLANK
        for row, image in enumerate(pixels, start):
            digest[row] = np.frombuffer(
                hashlib.blake2b(image.data, digest_size=16).digest(), np.uint8
            )
        progress(part.stop, rows, "images described")
    # Centred over the images and their mirror images, so that mirroring stays a permutation.
    if centre is None:
        mean = (
            edges.mean(axis=0, dtype=np.float64).astype(np.float32)
            if rows
            else np.zeros(LENGTH, np.float32)
        )
        centre = (mean + mirrored(mean[None])[0]) / 2
    edges -= centre
    edges[blank] = 0
    edges /= np.maximum(np.linalg.norm(edges, axis=1, keepdims=True), 1e-6)
    return Described(edges, small, digest, blank, centre)
