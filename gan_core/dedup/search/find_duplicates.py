"""The default way to find duplicates: propose by neighbours, decide on pixels, group around
representatives.

1. Images of equal pixels at 32x32 are duplicates, however many there are; one of each goes on.
2. Candidates: nearest neighbours of the edge histogram and of its mirror image, and codes within a
  few bits where codes are given.
3. Verification (`verify`): aligned, then correlated in their details. Where different images of the
   set agree as well (`background`), the threshold is raised.
4. Where nearly all neighbours of an image were duplicates there may be more: where such images are
   few, their neighbourhoods are searched again, wider, and their representatives are compared with
   one another (`bursts`).
5. Who has the originals at hand may confirm the pairs that count (`confirm`); what is not confirmed
  is no pair.
6. Groups around representatives (`groups.representative_balls`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gan_core.dedup.groups import Groups, component_sizes
from gan_core.dedup.hashing.codes import equal_codes
from gan_core.dedup.hashing.hamming_search import pairs_within
from gan_core.dedup.search import neighbours
from gan_core.dedup.search.bursts import join_representatives, keys_of
from gan_core.dedup.search.descriptors import Described, Fetch, describe
from gan_core.dedup.search.neighbours import Candidates
from gan_core.dedup.search.recheck import (
    Confirm,
    Identical,
    drop_unconfirmed,
    exact_reasons,
    grouped,
    representative_pairs,
    split_exact_duplicates,
)
from gan_core.dedup.search.threshold import background
from gan_core.dedup.search.verify_pairs import GATE_COARSE, GATE_SHIFT, Verified, required, verify
from gan_core.dedup.tables import Found
from gan_core.errors import DataError
from gan_core.progress import Progress, silent

if TYPE_CHECKING:
    from gan_core.config import DedupConfig

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]

SIMILARITY_FLOOR = (
    0.4  # cosine of edge histograms; 99.8 % of the accepted pairs of CIFAR-10 lie above 0.5
)
# pairs of codes within the radius, for each image on average, above which codes propose nothing
# useful
CODE_PAIRS = 20
WIDER = 8  # factor on `neighbours` where a neighbourhood was full of duplicates ...
WIDENED = (
    200  # ... of at most so many images: representatives alone are compared where there are more
)
# an image that is nearly symmetric is a duplicate of its mirror image only if that fits better by
# so
# much
PLAIN = 0.02
# what the gates let pass in addition where pairs are compared at full resolution anyway
PATIENCE = 0.12
# below so many images every pair is a candidate: their mean says little, and descriptors are
# relative to it
SMALL_SET = 200


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        found: pairs with score and reason; i, j are rows.
        groups: representatives by the rank that was given.
        accepted: the first pairs of `found`, those of unequal pixels.
        seen: every pair that was verified to the end, accepted or not.
        threshold: the one that decided.
        raised: whether it is above the one that was asked for, because different images agree.
        same: int64 [n], for each row the preferred row with equal pixels.
        described: the rows' descriptors.
    """

    found: Found
    groups: Groups
    accepted: Verified
    seen: Verified
    threshold: float
    raised: bool
    same: Rows
    described: Described


def find_duplicates(
    fetch: Fetch,
    rank: Rows,
    config: DedupConfig,
    codes: npt.NDArray[np.uint8] | None = None,
    progress: Progress = silent,
    confirm: Confirm | None = None,
    identical: Identical | None = None,
) -> Duplicates:
    """Finds the duplicates among images 0..n-1 and groups them.

    Args:
        fetch: gives uint8 [m, S, S, 3] RGB for row numbers; asked for blocks, so that pixels may
            lie on disk.
        rank: int64 [n], lower is preferred as representative.
        codes: uint8 [n, 16], the autoencoder's; None: they propose nothing.
        confirm: asked about pairs that tie an image to its representative; what it denies is no
            pair.
        identical: see `confirm.exact_reasons`.
    """
    described = describe(fetch, len(rank), progress)
    same = _equal_pixels(described, rank)
    if confirm:
        same = split_exact_duplicates(same, rank, confirm)
    rows = np.unique(same)
    usual = background(fetch, described, rows, config.threshold)
    threshold = max(config.threshold, usual.bound)
    candidates = _propose(described, rows, config, codes)
    gates = gates_for(threshold, patience=PATIENCE if confirm else 0)
    verified = verify(fetch, described, candidates, progress, gates=gates)
    seen, accepted = verified, accept(verified, threshold)
    again = _saturated(accepted, len(rank), config.neighbours)
    tried = keys_of(candidates)
    if 0 < len(again) <= WIDENED:
        wider = _search_wider(described, rows, again, config, candidates)
        more = verify(fetch, described, wider, progress, gates=gates)
        seen, accepted = seen.joined(more), _merge(accepted, accept(more, threshold))
        tried = np.concatenate([tried, keys_of(wider)])
    if len(again):
        late: list[Verified] = []

        def verify_more(pairs: Candidates) -> Verified:
            late.append(verify(fetch, described, pairs, progress, gates=gates))
            return accept(late[-1], threshold)

        accepted = join_representatives(
            described,
            accepted,
            rank,
            again,
            tried,
            verify_more,
            _merge,
            count=config.neighbours,
            floor=SIMILARITY_FLOOR,
            mirror=config.mirror,
        )
        for more in late:
            seen = seen.joined(more)
    if confirm:
        accepted = drop_unconfirmed(accepted, representative_pairs(accepted, rank), confirm)
    exact = np.flatnonzero(same != np.arange(len(same)))
    found, groups = _assemble(
        accepted, same, rank, exact_reasons(same[exact], exact, fetch, identical)
    )
    summary = {
        "candidates": len(candidates.i),
        "verified": verified.passed[-1],
        "searched_wider": len(again),
        "blank": int(described.blank.sum()),
        "identical": int((same != np.arange(len(same))).sum()),
        "threshold": round(threshold, 4),
        "background": usual._asdict(),
        "mirrored_pairs": int(accepted.mirrored.sum()),
        "largest_chain": int(component_sizes(found.i, found.j, len(rank)).max(initial=1)),
        "scores": _histogram(verified.score),
    }
    log.info(
        "dedup: %d candidates, %d verified, %d pairs",
        len(candidates.i),
        verified.passed[-1],
        len(found.i),
    )
    return Duplicates(
        Found(found.i, found.j, found.score, found.reason, summary),
        groups,
        accepted,
        seen,
        threshold,
        threshold > config.threshold,
        same,
        described,
    )


def _search_wider(
    described: Described, rows: Rows, again: Rows, config: DedupConfig, known: Candidates
) -> Candidates:
    """More neighbours of the rows `again`, most of whose nearest ones are duplicates; no known
    pairs.
    """
    found = neighbours.nearest(
        described.edges,
        WIDER * config.neighbours,
        floor=SIMILARITY_FLOOR,
        mirror=config.mirror,
        queries=again,
        targets=rows,
    )
    return _without(found, known)


def _equal_pixels(described: Described, rank: Rows) -> Rows:
    """For each row the preferred row with equal pixels: int64 [n]."""
    classes, first = equal_codes(described.digest)
    best = np.full(len(first), len(rank), np.int64)
    np.minimum.at(best, classes, rank)
    row_of = np.empty(len(rank), np.int64)
    row_of[rank] = np.arange(len(rank))
    return row_of[best[classes]]


def all_pairs(first: Rows, second: Rows, described: Described, *, mirror: bool) -> Candidates:
    """Every pair of a row of `first` and a row of `second`, each once, plain and (with `mirror`)
    mirrored.

    Their similarity counts as 1: in a set so small the descriptor has no say.
    """
    first, second = (rows[~described.blank[rows]] for rows in (first, second))
    i, j = (part.ravel() for part in np.meshgrid(first, second, indexing="ij"))
    i, j = np.minimum(i, j), np.maximum(i, j)
    pairs = np.unique(np.stack([i[i < j], j[i < j]]), axis=1).repeat(1 + mirror, axis=1)
    flip = np.arange(pairs.shape[1]) % 2 == 1 if mirror else np.zeros(pairs.shape[1], np.bool_)
    return Candidates(pairs[0], pairs[1], flip, np.ones(pairs.shape[1], np.float32))


def _propose(
    described: Described, rows: Rows, config: DedupConfig, codes: npt.NDArray[np.uint8] | None
) -> Candidates:
    if len(rows) < SMALL_SET:
        return all_pairs(rows, rows, described, mirror=config.mirror)
    near = neighbours.nearest(
        described.edges,
        config.neighbours,
        floor=SIMILARITY_FLOOR,
        mirror=config.mirror,
        queries=rows,
        targets=rows,
    )
    if codes is None or not config.radius:
        return near
    sharp = rows[~described.blank[rows]]
    distinct, first = equal_codes(codes[sharp])
    try:
        close = pairs_within(
            codes[sharp[first]], config.radius, max_pairs=max(1_000_000, CODE_PAIRS * len(sharp))
        )
    except DataError:
        log.warning(
            "dedup: the codes have collapsed and propose no candidates; neighbours alone do"
        )
        return near
    # Rows of equal code: each with the first of them; the rest follows from the neighbours.
    others = np.flatnonzero(first[distinct] != np.arange(len(sharp)))
    left = np.concatenate([first[close.i], first[distinct[others]]])
    right = np.concatenate([first[close.j], others])
    i, j = np.minimum(sharp[left], sharp[right]), np.maximum(sharp[left], sharp[right])
    similarity = np.einsum("nd,nd->n", described.edges[i], described.edges[j]).astype(np.float32)
    more = Candidates(i, j, np.zeros(len(i), np.bool_), similarity)
    return _joined(near, _without(more, near))


def gates_for(threshold: float, patience: float = 0.0) -> tuple[float, float]:
    """The gates of `verify`, less `patience`; a raised threshold needs less patience with pairs
    that agree only so far.
    """
    raised = 2 * max(0.0, threshold - 0.9)
    return GATE_SHIFT - patience, GATE_COARSE + raised - patience


def _without(some: Candidates, known: Candidates) -> Candidates:
    new = ~np.isin(keys_of(some), keys_of(known))
    return some.select(new)


def _joined(one: Candidates, other: Candidates) -> Candidates:
    return Candidates(
        np.concatenate([one.i, other.i]),
        np.concatenate([one.j, other.j]),
        np.concatenate([one.mirrored, other.mirrored]),
        np.concatenate([one.similarity, other.similarity]),
    )


def accept(verified: Verified, threshold: float) -> Verified:
    """The pairs that pass, each once (plain or mirrored, the better one), sorted by (i, j)."""
    passed = verified.score >= required(verified.detail, verified.deformation, threshold)
    return verified.select(_best_of_each(verified, np.flatnonzero(passed)))


def _best_of_each(verified: Verified, rows: Rows) -> Rows:
    worth = verified.score[rows] - PLAIN * verified.mirrored[rows]
    rows = rows[np.lexsort((-worth, verified.j[rows], verified.i[rows]))]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (np.diff(verified.i[rows]) != 0) | (np.diff(verified.j[rows]) != 0)
    return rows[first]


def _merge(one: Verified, other: Verified) -> Verified:
    both = one.joined(other)
    return both.select(_best_of_each(both, np.arange(len(both.i))))


def _saturated(accepted: Verified, rows: int, neighbours: int) -> Rows:
    """Rows most of whose neighbours turned out to be duplicates."""
    duplicates = np.bincount(np.concatenate([accepted.i, accepted.j]), minlength=rows)
    return np.flatnonzero(duplicates >= max(1, round(0.7 * neighbours)))


def _assemble(
    accepted: Verified, same: Rows, rank: Rows, exact_reason: list[str]
) -> tuple[Found, Groups]:
    """Pairs of both kinds in one list, and the groups. Args: exact_reason: of each row that is not
    its own class's preferred one.
    """
    exact = np.flatnonzero(same != np.arange(len(same)))
    found = Found(
        np.concatenate([accepted.i, same[exact]]),
        np.concatenate([accepted.j, exact]),
        np.concatenate([accepted.score, np.ones(len(exact), np.float32)]),
        reasons(accepted) + exact_reason,
    )
    return found, grouped(accepted, same, rank)


def reasons(accepted: Verified) -> list[str]:
    """A phrase for each pair: what was laid over what, and how well it fits."""
    out = []
    columns = (accepted.mirrored, accepted.score, accepted.shift, accepted.deformation)
    for flip, score, shift, bend in zip(*(column.tolist() for column in columns), strict=True):
        text = f"{'mirrored, ' if flip else ''}correlation {score:.2f}"
        if shift >= 0.25:
            text += f", shifted {shift:.1f} px of 32"
        if bend >= 0.03:
            text += f", scaled or turned {100 * bend:.0f} %"
        out.append(text)
    return out


def _histogram(score: npt.NDArray[np.float32]) -> dict[str, Any]:
    """How the scores of the last round fall: counts in steps of 0.05, so that a person sees whether
    the threshold lies in a gap.
    """
    edges = np.round(np.arange(0, 1.0001, 0.05), 2)
    counts, _ = np.histogram(np.clip(score, 0, 1), edges)
    return {f"{edge:.2f}": int(count) for edge, count in zip(edges[:-1], counts, strict=True)}
