"""Duplicates across two sets: which of these images are already in those."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gan_core.config import DedupConfig
from gan_core.dedup.hashing.codes import equal_codes
from gan_core.dedup.search import neighbours
from gan_core.dedup.search.descriptors import Described, Fetch, describe
from gan_core.dedup.search.find_duplicates import (
    SIMILARITY_FLOOR,
    SMALL_SET,
    accept,
    all_pairs,
    gates_for,
    reasons,
)
from gan_core.dedup.search.recheck import (
    Confirm,
    Identical,
    drop_unconfirmed,
    exact_pairs,
    exact_reasons,
)
from gan_core.dedup.search.threshold import background
from gan_core.dedup.search.verify_pairs import Verified, verify
from gan_core.dedup.tables import Found
from gan_core.progress import Progress, silent

Rows = npt.NDArray[np.int64]


def find_across(
    fetch: Fetch,
    count: int,
    queries: Rows,
    targets: Rows,
    config: DedupConfig,
    progress: Progress = silent,
    confirm: Confirm | None = None,
    identical: Identical | None = None,
) -> Found:
    """Pairs (i of `queries`, j of `targets`) that are duplicates; both sorted, no row in both.

    A query with equal pixels in the targets is paired with the first of them alone: there may be
        very many.

    Args:
        fetch: gives uint8 [m, S, S, 3] RGB for row numbers 0..count-1.
        confirm: asked about the best pair of each query; what it denies is no pair.
        identical: see `confirm.exact_reasons`.

    Returns:
        pairs sorted by (i, j); summary with queries, targets, queries_found and what the
        verification saw.
    """
    described = describe(fetch, count, progress)
    exact = _exact_duplicates(described, queries, targets)
    if confirm and (exact >= 0).any():
        hit = np.flatnonzero(exact >= 0)
        exact[hit[~confirm(exact_pairs(queries[hit], exact[hit]))]] = -1
    sought = queries[exact < 0]
    usual = background(fetch, described, targets, config.threshold)
    threshold = max(config.threshold, usual.bound)
    if len(sought) * len(targets) <= SMALL_SET**2 // 2:
        near = all_pairs(sought, targets, described, mirror=config.mirror)
    else:
        near = neighbours.nearest(
            described.edges,
            config.neighbours,
            floor=SIMILARITY_FLOOR,
            mirror=config.mirror,
            queries=sought,
            targets=targets,
        )
    verified = verify(fetch, described, near, progress, gates=gates_for(threshold))
    accepted = accept(verified, threshold)
    # Candidates hold the smaller row first; here the query comes first.
    asked = np.zeros(count, np.bool_)
    asked[queries] = True
    if confirm:
        accepted = drop_unconfirmed(accepted, _best(accepted, asked), confirm)
    swap = ~asked[accepted.i]
    i = np.concatenate([np.where(swap, accepted.j, accepted.i), queries[exact >= 0]])
    j = np.concatenate([np.where(swap, accepted.i, accepted.j), exact[exact >= 0]])
    score = np.concatenate([accepted.score, np.ones(int((exact >= 0).sum()), np.float32)])
    reason = reasons(accepted) + exact_reasons(
        queries[exact >= 0], exact[exact >= 0], fetch, identical
    )
    order = np.lexsort((j, i))
    summary = {
        "queries": len(queries),
        "targets": len(targets),
        "queries_found": len(np.unique(i)),
        "identical": int((exact >= 0).sum()),
        "candidates": len(near.i),
        "verified": verified.passed[-1],
        "threshold": round(threshold, 4),
        "background": usual._asdict(),
    }
    return Found(i[order], j[order], score[order], [reason[at] for at in order.tolist()], summary)


def _best(accepted: Verified, asked: npt.NDArray[np.bool_]) -> Callable[[Rows], Rows]:
    """For `drop_unconfirmed`: the best pair of each query."""
    query = np.where(asked[accepted.i], accepted.i, accepted.j)

    def choose(alive: Rows) -> Rows:
        order = alive[np.lexsort((accepted.j[alive], accepted.i[alive], -accepted.score[alive]))]
        return order[np.unique(query[order], return_index=True)[1]]

    return choose


def _exact_duplicates(described: Described, queries: Rows, targets: Rows) -> Rows:
    """For each query the first target with equal pixels, or -1."""
    classes, first = equal_codes(described.digest[np.concatenate([targets, queries])])
    known = first[classes[len(targets) :]]
    if not len(targets):
        return np.full(len(queries), -1, np.int64)
    return np.where(known < len(targets), targets[np.minimum(known, len(targets) - 1)], -1)
