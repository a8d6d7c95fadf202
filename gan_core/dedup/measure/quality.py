"""What a search for duplicates is worth on the set it was made on, without human verdicts: the
numbers of the report.

- `sweep`: pairs, groups and images left out at other thresholds.
- `look_alikes`: images turned upside down are duplicates of nothing; how many of them find a
  "duplicate" says how often chance does.
- `unconfirmed`: pairs that codes alone tied, verified on pixels.
- `injected_recall` (`injection`): duplicates put in on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gan_core.dedup.groups import Groups
from gan_core.dedup.search import neighbours
from gan_core.dedup.search.descriptors import Described, Fetch, describe
from gan_core.dedup.search.find_duplicates import SIMILARITY_FLOOR, Duplicates, accept, gates_for
from gan_core.dedup.search.neighbours import Candidates
from gan_core.dedup.search.recheck import grouped
from gan_core.dedup.search.verify_pairs import required, verify
from gan_core.dedup.tables import Found
from gan_core.metrics.intervals import wilson
from gan_core.randomness import numpy_stream

if TYPE_CHECKING:
    from gan_core.config import DedupConfig

Rows = npt.NDArray[np.int64]

THRESHOLDS = (0.80, 0.84, 0.88, 0.90, 0.92, 0.94, 0.96, 0.98)
TURNED = 2000  # images turned upside down
AMONG = 100_000  # at most so many images in which their look-alikes are sought
CHECKED = 200  # pairs of codes verified on pixels
AMONG_IMAGES = 1000  # images among which duplicates are put
# of each kind, and at most one for every twentieth image, so that they stay rare among the others
DUPLICATES = 50


def spaced(rows: Rows, most: int) -> Rows:
    """At most `most` of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def duplicates_per_kind(rows: int) -> int:
    """How many duplicates of each kind are put among so many images."""
    return max(1, min(DUPLICATES, rows // 20))


def counts(groups: Groups, found: Found) -> dict[str, int]:
    """Pairs, groups of more than one row, rows left out."""
    left_out = groups.representative[~groups.keep]
    return {"pairs": len(found.i), "groups": len(np.unique(left_out)), "removed": len(left_out)}


def sweep(duplicates: Duplicates, rank: Rows) -> list[dict[str, Any]]:
    """What other thresholds would have found, counted from the pairs of this search.

    Thresholds below a raised one are missing: its gates have sent too few pairs on. A search made
    at another threshold may find somewhat more or less where an image has very many duplicates,
    because full neighbourhoods are searched wider.

    Returns: [{threshold, pairs, groups, removed, used}], thresholds ascending.
    """
    gate = gates_for(duplicates.threshold)
    chosen = sorted(
        {*(one for one in THRESHOLDS if gates_for(one) >= gate), round(duplicates.threshold, 4)}
    )
    exact_duplicates = int((duplicates.same != np.arange(len(duplicates.same))).sum())
    out = []
    for threshold in chosen:
        used = threshold == round(duplicates.threshold, 4)
        accepted = accept(duplicates.seen, duplicates.threshold if used else threshold)
        groups = grouped(accepted, duplicates.same, rank)
        left_out = groups.representative[~groups.keep]
        figures = {
            "pairs": len(accepted.i) + exact_duplicates,
            "groups": len(np.unique(left_out)),
            "removed": len(left_out),
        }
        out.append({"threshold": threshold, **figures, "used": used})
    return out


def look_alikes(fetch: Fetch, duplicates: Duplicates, config: DedupConfig) -> dict[str, Any]:
    """Searches the upright images for images turned upside down, in the way and at the
    threshold of the search.

    The image itself and its duplicates do not count as a match: some images look the same upside
        down.

    Returns:
        asked, among, matched (images); low, high: 95 % interval (Wilson) of the matched share;
        paired: rows of the search that were found to have a duplicate; false_share, false_low,
        false_high: the share of those that chance alone would give, at most 1 (None where nothing
        was paired).
    """
    described = duplicates.described
    usable = np.flatnonzero((duplicates.same == np.arange(len(duplicates.same))) & ~described.blank)
    chosen, upright = spaced(usable, TURNED), spaced(usable, AMONG)
    pixels = fetch(chosen)[:, ::-1]
    turned = describe(lambda rows: pixels[rows], len(chosen), centre=described.centre)
    both = Described(
        np.concatenate([described.edges[upright], turned.edges]),
        np.concatenate([described.small[upright], turned.small]),
        np.concatenate([described.digest[upright], turned.digest]),
        np.concatenate([described.blank[upright], turned.blank]),
        described.centre,
    )
    first = len(upright)

    def fetch_both(rows: Rows) -> npt.NDArray[np.uint8]:
        out = np.empty((len(rows), *pixels.shape[1:]), np.uint8)
        out[rows >= first] = pixels[rows[rows >= first] - first]
        if (rows < first).any():
            out[rows < first] = fetch(upright[rows[rows < first]])
        return out

    near = neighbours.nearest(
        both.edges,
        config.neighbours,
        floor=SIMILARITY_FLOOR,
        mirror=config.mirror,
        queries=first + np.arange(len(chosen)),
        targets=np.arange(first),
    )
    accepted = accept(
        verify(fetch_both, both, near, gates=gates_for(duplicates.threshold)), duplicates.threshold
    )
    # The upright row is the smaller number of each pair.
    own, other = chosen[accepted.j - first], upright[accepted.i]
    matches = duplicates.groups.representative[own] != duplicates.groups.representative[other]
    asked, matched = len(chosen), len(np.unique(own[matches]))
    low, high = wilson(matched / asked, asked) if asked else (0.0, 1.0)
    paired = len(np.unique(np.concatenate([duplicates.found.i, duplicates.found.j])))
    scale = len(usable) / paired * (len(usable) / max(len(upright), 1)) if paired else None
    shares = dict(
        zip(
            ("false_share", "false_low", "false_high"),
            (matched / max(asked, 1), low, high),
            strict=True,
        )
    )
    return {
        "asked": asked,
        "among": len(upright),
        "matched": matched,
        "low": round(low, 6),
        "high": round(high, 6),
        "paired": paired,
        **{
            name: None if scale is None else round(min(1.0, value * scale), 6)
            for name, value in shares.items()
        },
    }


def unconfirmed(fetch: Fetch, found: Found, threshold: float) -> dict[str, Any]:
    """Checks some of the pairs that equal or close codes tied: how many do not reach the
    threshold on pixels.

    Returns: sampled, unconfirmed; share, low, high: 95 % interval (Wilson); None for no pairs.
    """
    count = min(CHECKED, len(found.i))
    if not count:
        return {"sampled": 0, "unconfirmed": 0, "share": None, "low": None, "high": None}
    drawn = np.sort(
        numpy_stream(0, "dedup", "pairs on pixels").choice(len(found.i), count, replace=False)
    )
    rows, place = np.unique(np.concatenate([found.i[drawn], found.j[drawn]]), return_inverse=True)
    described = describe(lambda part: fetch(rows[part]), len(rows))
    i, j = place[:count], place[count:]
    similarity = np.einsum("nd,nd->n", described.edges[i], described.edges[j]).astype(np.float32)
    pairs = Candidates(i, j, np.zeros(count, np.bool_), similarity)
    seen = verify(lambda part: fetch(rows[part]), described, pairs, gates=(-9.0, -9.0))
    good = seen.score >= required(seen.detail, seen.deformation, threshold)
    equal = (described.digest[seen.i] == described.digest[seen.j]).all(axis=1)
    bad = int((~(good | equal)).sum()) + count - len(seen.i)
    low, high = wilson(bad / count, count)
    return {
        "sampled": count,
        "unconfirmed": bad,
        "share": round(bad / count, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }
