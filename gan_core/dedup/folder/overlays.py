"""Groups joined where one image is another one with text or a logo on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gan_core.dedup.folder.families import Assignment
from gan_core.dedup.folder.full_resolution import Originals
from gan_core.dedup.groups import representative_balls
from gan_core.dedup.search import overlays
from gan_core.dedup.search.descriptors import Described
from gan_core.progress import Progress

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SMALLEST = 64 * 64  # pixels of an image in which overlays are sought


def overlay_pairs(
    described: Described,
    thumbnails: npt.NDArray[np.uint8],
    first: Rows,
    second: Rows,
    originals: Originals,
    progress: Progress,
) -> tuple[Rows, Rows, Floats]:
    """(image, the same with an overlay, share of its details elsewhere that agree), by row.

    Args:
        first, second: rows to be paired; equal, or without a common row.
    """
    large = [rows[originals.area(rows) >= SMALLEST] for rows in (first, second)]
    pairs = overlays.candidates(described.small, thumbnails, large[0], large[1], progress)
    which, agree = originals.overlaid(pairs[0], pairs[1])
    good = np.flatnonzero(which)
    clean = np.where(which == 2, pairs[0], pairs[1])[good]
    return clean, np.where(which == 2, pairs[1], pairs[0])[good], agree[good]


def tie_overlays(
    found: Assignment,
    pairs: tuple[Rows, Rows, Floats],
    rank: Rows,
    tier: Rows | None,
    names: Sequence[str],
) -> Assignment:
    """The groups, joined by pairs of an image and its overlaid version.

    Args:
        pairs: see `overlay_pairs`; rank, tier: see `families`. With a tier an image with an overlay
            represents no group that has one without.
    """
    clean, over, agree = pairs
    if not len(clean):
        return found
    count, own = len(rank), np.arange(len(rank))
    has_overlay = np.isin(own, over)
    former = found.representative
    first_choice = np.lexsort((rank, former != own))
    if tier is not None:
        # A group's partners without an overlay may represent it; else its former representative.
        free = (former == own) | (np.isin(own, clean) & ~has_overlay)
        first_choice = np.lexsort((rank, former != own, ~free, has_overlay, tier))
    place = np.empty(count, np.int64)
    place[first_choice] = own
    # Groups join groups, by the place of their best image, and only directly.
    best = np.full(count, count, np.int64)
    np.minimum.at(best, former, place)
    order = np.empty(count, np.int64)
    order[np.lexsort((own, best))] = own
    between = former[clean] != former[over]
    joined = representative_balls(former[clean][between], former[over][between], order)
    centre = joined.representative[former]
    best = np.full(count, count, np.int64)
    np.minimum.at(best, centre, place)
    touched = np.isin(centre, centre[np.concatenate([clean, over])])
    representative = np.where(touched, first_choice[np.minimum(best[centre], count - 1)], former)
    hit = representative != own
    score, reason = found.score.copy(), list(found.reason)
    link = {}
    for at in range(len(clean)):
        link[int(over[at]), int(clean[at])] = link[int(clean[at]), int(over[at])] = at
    partner = dict(zip(over.tolist(), clean.tolist(), strict=True)) | dict(
        zip(clean.tolist(), over.tolist(), strict=True)
    )
    for row in np.flatnonzero(touched).tolist():
        kept, before = int(representative[row]), int(former[row])
        at = link.get((row, kept), -1)
        if not hit[row]:
            score[row], reason[row] = 0, ""
        elif at >= 0:
            what = "with" if row == over[at] else "without"
            score[row], reason[row] = agree[at], f"the same {what} an overlay"
        elif before != kept and before == row:
            through = partner.get(row, kept)
            score[row] = agree[link[row, through]] if (row, through) in link else found.score[kept]
            reason[row] = f"through {names[through]}: the same but for an overlay"
        elif before != kept:
            reason[row] = f"through {names[before]}: {found.reason[row]}"
    return Assignment(representative, hit, score, reason)
