"""From the pairs of a search to families: groups joined where more pairs link them, each around its
best source.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from gan_core.dedup.folder.best_source import EVIDENCE, GREY, SMALLER, best_source, common_quality
from gan_core.dedup.folder.full_resolution import DETAILED, Originals
from gan_core.dedup.folder.read import Images
from gan_core.dedup.groups import Groups
from gan_core.dedup.hashing import SIDE
from gan_core.dedup.search.find_duplicates import Duplicates
from gan_core.dedup.search.linked_groups import join_groups, maps_in_groups
from gan_core.dedup.search.verify_pairs import Verified
from gan_core.dedup.tables import Found
from gan_core.errors import RequestError, nearest

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
        keep: 'best' and 'largest': images in colour before grey ones, then the largest without
            its plain border; of equal ones the opaque
            before the transparent, then the one with more bytes (a strongly compressed one has
            fewer). 'oldest': the earliest modification time of the file. 'first': by address.
        prefer: folders within the place; their images come before all others, the first folder's
            first.
    """
    _, _, size, transparent, area = images.facts[rows].T
    ids = np.array([images.ids[at] for at in rows.tolist()])
    addresses = [images.addresses[at] for at in rows.tolist()]
    # A grey image is a duplicate of images of any colours: it must not tie them together.
    keys = [ids, -size, transparent, -area, is_grey(images, rows)]
    if keep == "oldest":
        keys.append(np.array([_modified(path) for path in images.paths(rows.tolist())]))
    if keep == "first":
        keys = [np.array([images.members[at] for at in rows.tolist()]), np.array(addresses)]
    order = np.lexsort((*keys, folder_tier(images, rows, prefer)))
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows))
    return rank


def folder_tier(images: Images, rows: Rows, prefer: Sequence[str]) -> Rows:
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


def refuse_empty_folders(images: Images, prefer: Sequence[str]) -> None:
    """RequestError where a preferred folder holds no image: its name is wrong, or not seen from the
    set.
    """
    for folder in prefer:
        if any(_inside(address, folder) for address in images.addresses):
            continue
        folders = {str(PurePosixPath(address).parent) for address in images.addresses}
        near = nearest(folder, sorted(folders))
        raise RequestError(
            f"No image of the set is in the preferred folder {folder!r}"
            + (f"; did you mean {near!r}?" if near else "."),
            expected="a folder within the set, as addresses begin: not an absolute path",
            remedy="the column address of the table shows them",
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
    """The groups of a search, joined where their representatives agree, each around its best
    source.

    Args:
        rows: numbers of the images that were searched; everything else counts in their places.
        tier: `folder_tier` of the rows, of which the lowest of a family has its best source; None:
            the rank decides.
    """
    order = np.lexsort((rank, -found.groups.sizes, is_grey(images, rows)))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    groups, joins = join_groups(
        found, place, lambda pairs: originals.same_image(pairs, found.threshold)
    )
    maps = maps_in_groups(found, joins)
    members = np.argsort(groups.representative, kind="stable")
    ends = np.flatnonzero(np.diff(groups.representative[members], prepend=-1, append=len(rows)))
    large = [
        members[start:stop]
        for start, stop in zip(ends[:-1], ends[1:], strict=True)
        if stop - start > 1
    ]
    best = _best_sources(images, rows, groups, large, maps, rank, originals, tier)
    representative = np.array([best.get(one, one) for one in groups.representative.tolist()])
    score, reason = _explain(images, rows, found, groups, joins, representative, originals)
    return Assignment(representative, representative != np.arange(len(rows)), score, reason)


def _best_sources(
    images: Images,
    rows: Rows,
    groups: Groups,
    families: Sequence[Rows],
    maps: npt.NDArray[np.float64],
    rank: Rows,
    originals: Originals,
    tier: Rows | None,
) -> dict[int, int]:
    """The representative of each family to its best source."""
    area = images.facts[rows, 4]
    candidates = []
    for family in families if tier is not None else []:
        assert tier is not None
        if area[family].min() >= EXAMINABLE:
            family = family[tier[family] == tier[family].min()]
            candidates.append(family[np.argsort(rank[family])][:EXAMINED])
    examined = np.concatenate([*candidates, np.empty(0, np.int64)])
    evidence = np.full((len(rows), EVIDENCE), np.nan)
    evidence[examined] = originals.examine(examined)
    quality = np.array(
        [common_quality(evidence[one], area[one]) for one in candidates for _ in one], np.int64
    )
    sharpness = np.full(len(rows), np.nan)
    sharpness[examined] = originals.sharpness(examined, quality)
    best = {
        int(groups.representative[family[0]]): int(family[np.argmin(rank[family])])
        for family in families
    }
    for family, at in zip(
        candidates,
        _choose(images, rows, candidates, evidence, sharpness, maps, rank, originals),
        strict=True,
    ):
        best[int(groups.representative[family[0]])] = int(family[at])
    return best


def _choose(
    images: Images,
    rows: Rows,
    candidates: Sequence[Rows],
    evidence: npt.NDArray[np.float64],
    sharpness: npt.NDArray[np.float64],
    maps: npt.NDArray[np.float64],
    rank: Rows,
    originals: Originals,
) -> list[int]:
    """The place of the best source in each family. One that turns out to be a smaller member
    enlarged counts as no larger than that, and the choice is made again.
    """
    area, enlarged = images.facts[rows, 4].copy(), np.zeros(len(rows), np.bool_)
    mirrored = np.linalg.det(maps[:, :2, :2]) < 0

    def best(family: Rows) -> int:
        transparent = images.facts[rows[family], 3]
        return best_source(
            evidence[family],
            sharpness[family],
            area[family],
            transparent,
            maps[family],
            rank[family],
            enlarged[family],
        )

    chosen = [best(family) for family in candidates]
    unsure = np.arange(len(candidates))
    while len(unsure):
        numbers, large, small = [], [], []
        for number in unsure.tolist():
            family = candidates[number]
            one = int(family[chosen[number]])
            less = family[(area[family] < SMALLER * area[one]) & ~enlarged[family]]
            if len(less):
                numbers.append(number)
                large.append(one)
                small.append(int(less[best(less)]))
        larger, less = np.array(large, np.int64), np.array(small, np.int64)
        found = originals.enlarged(larger, less, mirrored[larger] != mirrored[less])
        enlarged[larger[found]], area[larger[found]] = True, area[less[found]]
        unsure = np.array(numbers, np.int64)[found]
        for number in unsure.tolist():
            chosen[number] = best(candidates[number])
    return chosen


def _explain(
    images: Images,
    rows: Rows,
    found: Duplicates,
    groups: Groups,
    joins: Verified,
    representative: Rows,
    originals: Originals,
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Score and reason of each duplicate: of the pair that ties it to its representative, or to an
    image between them.
    """
    hit = representative != np.arange(len(rows))
    score, reason = np.zeros(len(rows), np.float32), [""] * len(rows)
    direct = _direct_pairs(found, representative, originals)
    join = {
        pair: at for at, pair in enumerate(zip(joins.i.tolist(), joins.j.tolist(), strict=True))
    }
    former, centre = found.groups.representative, groups.representative
    for row in np.flatnonzero(hit).tolist():
        kept = int(representative[row])
        number = direct.get(row, -1)
        joined = join.get((row, kept), join.get((kept, row), -1))
        through = ""
        if number < 0 and joined < 0:
            # Tied through another image: the one that the search had grouped it around, or the one
            # around which that one's group was joined.
            tied = row if row != centre[row] else kept
            number = int(groups.pair[tied])
            joined = join[int(centre[tied]), int(former[tied])] if number < 0 else -1
            other = former[tied] if number >= 0 else centre[tied] if tied == row else former[kept]
            through = f"through {images.name(int(rows[other]))}: "
        if number >= 0:
            score[row], text = found.found.score[number], found.found.reason[number]
        else:
            score[row] = joins.score[joined]
            smaller = originals.area(np.array([joins.i[joined], joins.j[joined]])).min()
            what = "equal at full resolution"
            if smaller < DETAILED:
                what = f"agree at {SIDE} x {SIDE} pixels"
            text = f"{'mirrored, ' if joins.mirrored[joined] else ''}{what}"
        reason[row] = through + text
    return score, reason


def _direct_pairs(found: Duplicates, representative: Rows, originals: Originals) -> dict[int, int]:
    """{row: number of a confirmed pair of it and its family's representative}."""
    pairs, accepted = found.found, found.accepted
    numbers = np.flatnonzero(
        (representative[pairs.i] == pairs.j) | (representative[pairs.j] == pairs.i)
    )
    asked = numbers < len(accepted.i)
    good = np.ones(len(numbers), np.bool_)
    good[asked] = originals(accepted.select(numbers[asked]))
    out = {}
    for number in numbers[good].tolist():
        a, b = int(pairs.i[number]), int(pairs.j[number])
        out[b if representative[b] == a else a] = number
    return out


def is_grey(images: Images, rows: Rows) -> npt.NDArray[np.bool_]:
    """Whether the thumbnail of each image has no colour: bool [n]."""
    out = np.empty(len(rows), np.bool_)
    for start in range(0, len(rows), 4096):
        part = images.thumbnails[rows[start : start + 4096]]
        spread = part.max(axis=3).astype(np.int16) - part.min(axis=3)
        out[start : start + len(part)] = spread.mean(axis=(1, 2)) < GREY
    return out
