"""From the pairs of a search to families: groups joined where more pairs link them, each around its
best source.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gan_core.dedup.folder.best_source import EVIDENCE, best_source
from gan_core.dedup.folder.full_resolution import Originals
from gan_core.dedup.folder.read import Images
from gan_core.dedup.groups import Groups
from gan_core.dedup.search.find_duplicates import Duplicates
from gan_core.dedup.search.verify_pairs import Verified
from gan_core.dedup.tables import Found

Rows = npt.NDArray[np.int64]

EXAMINABLE = 128 * 128  # pixels below which an image says too little of its own history
EXAMINED = 64  # images of a family, the most preferred ones, among which the best source is sought


@dataclass(frozen=True)
class Assignment:
    """What each image is a duplicate of.

    Attributes:
        representative: int64 [n], a number; its own when it is kept in its own set, -1 without a
            duplicate in another set.
        hit: bool [n], it is a duplicate.
        score: float32 [n]; reason: of each duplicate.
    """

    representative: Rows
    hit: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float32]
    reason: list[str]

    @classmethod
    def of(cls, representative: Rows, pair: Rows, found: Found) -> Assignment:
        """From the number of the pair that assigned each image, -1 for none."""
        score = np.zeros(len(pair), np.float32)
        score[pair >= 0] = found.score[pair[pair >= 0]]
        return cls(
            representative,
            pair >= 0,
            score,
            [found.reason[at] if at >= 0 else "" for at in pair.tolist()],
        )


def representative_rank(
    images: Images, rows: Rows, keep: str = "best", prefer: Sequence[str] = ()
) -> Rows:
    """Rank of the given images as representatives, 0 the most preferred.

    Args:
        keep: 'best' and 'largest': the largest without its plain border; of equal ones the opaque
            before the transparent, then the one with more bytes (a strongly compressed one has
            fewer). 'oldest': the earliest modification time of the file. 'first': by address.
        prefer: folders within the place; their images come before all others, the first folder's
            first.
    """
    _, _, size, transparent, area = images.facts[rows].T
    ids = np.array([images.ids[at] for at in rows.tolist()])
    addresses = [images.addresses[at] for at in rows.tolist()]
    keys = [ids, -size, transparent, -area]
    if keep == "oldest":
        keys.append(np.array([_modified(path) for path in images.paths(rows.tolist())]))
    if keep == "first":
        keys = [np.array([images.members[at] for at in rows.tolist()]), np.array(addresses)]
    order = np.lexsort((*keys, preference(images, rows, prefer)))
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows))
    return rank


def preference(images: Images, rows: Rows, prefer: Sequence[str]) -> Rows:
    """Place of each image's folder among the preferred ones, their number for all others."""
    return np.array(
        [
            next(
                (at for at, one in enumerate(prefer) if _inside(images.addresses[row], one)),
                len(prefer),
            )
            for row in rows.tolist()
        ],
        np.int64,
    )


def _inside(address: str, folder: str) -> bool:
    return folder in ("", ".") or address.startswith(folder.rstrip("/") + "/")


def _modified(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 2**63 - 1


def families(
    images: Images,
    rows: Rows,
    found: Duplicates,
    rank: Rows,
    originals: Originals,
    tier: Rows | None,
) -> Assignment:
    """The groups of a search, joined where more pairs link them, each around its best source.

    Args:
        rows: numbers of the images that were searched; everything else counts in their places.
        tier: `preference` of the rows, of which the lowest of a family has its best source; None:
            the rank decides.
    """
    pairs, accepted = found.found, found.accepted
    before = found.groups.representative
    apart = np.flatnonzero(before[accepted.i] != before[accepted.j])
    apart = apart[originals(accepted.select(apart))]
    groups = found.groups  # join_linked also joins flags of other colours: docs/dedup/notes.md
    flip = np.concatenate(
        [accepted.mirrored, np.zeros(len(pairs.i) - len(accepted.i) + 1, np.bool_)]
    )
    mirrored = (found.groups.pair >= 0) & flip[found.groups.pair]
    moved = np.flatnonzero(groups.representative[before] != before)  # rows of groups that joined
    mirrored[moved] ^= _link_mirrored(groups, before, accepted, mirrored)[before[moved]]
    members = np.argsort(groups.representative, kind="stable")
    ends = np.flatnonzero(np.diff(groups.representative[members], prepend=-1, append=len(rows)))
    large = [
        members[start:stop]
        for start, stop in zip(ends[:-1], ends[1:], strict=True)
        if stop - start > 1
    ]
    area = images.facts[rows, 4]
    candidates = []
    for family in large if tier is not None else []:
        assert tier is not None
        if area[family].min() >= EXAMINABLE:
            family = family[tier[family] == tier[family].min()]
            candidates.append(family[np.argsort(rank[family])][:EXAMINED])
    examined = np.concatenate([*candidates, np.empty(0, np.int64)])
    evidence = np.full((len(rows), EVIDENCE), np.nan)
    evidence[examined] = originals.examine(examined)
    best = {
        int(groups.representative[family[0]]): int(family[np.argmin(rank[family])])
        for family in large
    }
    for family in candidates:
        at = best_source(
            evidence[family],
            area[family],
            images.facts[rows[family], 3],
            mirrored[family],
            rank[family],
        )
        best[int(groups.representative[family[0]])] = int(family[at])
    direct = _direct_pairs(pairs, best, groups, originals, accepted)
    representative = np.array([best.get(one, one) for one in groups.representative.tolist()])
    hit = representative != np.arange(len(rows))
    score, reason = np.zeros(len(rows), np.float32), [""] * len(rows)
    for row in np.flatnonzero(hit).tolist():
        number = direct.get(row, -1)
        if number >= 0:
            score[row], reason[row] = pairs.score[number], pairs.reason[number]
            continue
        # Tied through the image that the search had grouped it around, or through one next to that.
        number = int(groups.pair[row])
        if number < 0:
            number = int(groups.pair[representative[row]])
        a, b = int(pairs.i[number]), int(pairs.j[number])
        other = images.addresses[rows[a if b == row else b]]
        score[row], reason[row] = pairs.score[number], f"through {other}: {pairs.reason[number]}"
    return Assignment(representative, hit, score, reason)


def _link_mirrored(
    groups: Groups, before: Rows, accepted: Verified, mirrored: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """For a representative that joined another group: whether it is that one's mirror image."""
    out = np.zeros(len(before), np.bool_)
    for row in np.flatnonzero(
        (groups.representative != before) & (before == np.arange(len(before)))
    ):
        pair = groups.pair[row]
        out[row] = mirrored[accepted.i[pair]] ^ mirrored[accepted.j[pair]] ^ accepted.mirrored[pair]
    return out


def _direct_pairs(
    pairs: Found, best: dict[int, int], groups: Groups, originals: Originals, accepted: Verified
) -> dict[int, int]:
    """{row: number of a confirmed pair of it and its family's new representative}."""
    chosen = np.array([best.get(one, one) for one in groups.representative.tolist()])
    numbers = np.flatnonzero((chosen[pairs.i] == pairs.j) | (chosen[pairs.j] == pairs.i))
    asked = numbers < len(accepted.i)
    good = np.ones(len(numbers), np.bool_)
    good[asked] = originals(accepted.select(numbers[asked]))
    out = {}
    for number in numbers[good].tolist():
        a, b = int(pairs.i[number]), int(pairs.j[number])
        out[b if chosen[b] == a else a] = number
    return out
