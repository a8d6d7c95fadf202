"""Leakage: images of the test and validation splits that are also in the training split.

CIFAR-10's test split has 3 % of them (Barz and Denzler, "Do we train on test data?", J. Imaging
2020, found 286 by hand on the nearest neighbours of a network's features; the search here finds
more). A score with and without them says what they are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gan_core.config import DedupConfig
from gan_core.dedup.search.across_sets import find_across
from gan_core.dedup.search.descriptors import Fetch
from gan_core.dedup.tables import Found
from gan_core.progress import Progress, silent
from gan_core.vision import sheets

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Leakage:
    """What leaked.

    Attributes:
        found: pairs (held-out row, training row) of the table that was searched, sorted by both.
        leaked: int64, held-out rows with at least one pair, sorted.
        summary: {split: {rows, leaked}} and the figures of the search: plain JSON.
    """

    found: Found
    leaked: Rows
    summary: dict[str, Any]


def find_leakage(
    fetch: Fetch, splits: Sequence[str], config: DedupConfig, progress: Progress = silent
) -> Leakage:
    """Searches the training images for every held-out image.

    Args:
        fetch: gives uint8 [m, S, S, 3] RGB for row numbers.
        splits: of each row; 'train' is searched, every other split is looked up.
    """
    names = np.asarray(splits, dtype=object)
    training, held_out = np.flatnonzero(names == "train"), np.flatnonzero(names != "train")
    found = find_across(fetch, len(names), held_out, training, config, progress)
    leaked = np.unique(found.i)
    by_split = {
        str(split): {
            "rows": int((names == split).sum()),
            "leaked": int((names[leaked] == split).sum()),
        }
        for split in sorted(set(names[held_out].tolist()))
    }
    return Leakage(found, leaked, {"splits": by_split, **found.summary})


def contact_sheet(
    fetch: Fetch, found: Found, most: int = 60, scale: int = 2
) -> npt.NDArray[np.uint8]:
    """The best pair of each row i, most certain first, side by side with its score: uint8 [height,
    width, 3] RGB.
    """
    order = np.lexsort((found.j, found.i, -found.score))
    _, first = np.unique(found.i[order], return_index=True)
    chosen = order[np.sort(first)][:most]
    if not len(chosen):
        return sheets.sheet(
            np.full((1, 32 * scale, 64 * scale, 3), 255, np.uint8), captions=["no pairs"]
        )
    left, right = fetch(found.i[chosen]), fetch(found.j[chosen])
    both = np.concatenate([left, right], axis=2)
    size = (both.shape[2] * scale, both.shape[1] * scale)
    images = np.stack(
        [cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in both]
    ).astype(np.uint8)
    return sheets.sheet(
        images, columns=6, gap=4, captions=[f"{found.score[at]:.2f}" for at in chosen.tolist()]
    )
