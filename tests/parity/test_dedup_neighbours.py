"""Candidates against all similarities computed at once."""

from __future__ import annotations

import numpy as np

from gan_core.dedup.search import neighbours
from gan_core.dedup.search.descriptors import mirrored


def unit(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, 128)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def expected(
    edges: np.ndarray, count: int, floor: float, queries: np.ndarray, targets: np.ndarray
) -> set[tuple[int, int, bool]]:
    out = set()
    for flip in (False, True):
        similarity = (mirrored(edges) if flip else edges) @ edges.T
        for row in queries:
            order = [at for at in targets[np.argsort(-similarity[row, targets], kind="stable")]][
                : count + 1
            ]
            out |= {
                (min(row, at), max(row, at), flip)
                for at in order
                if at != row and similarity[row, at] >= floor
            }
    return out


def test_nearest_neighbours_and_mirrored_ones() -> None:
    edges = unit(200, 0)
    everything = np.arange(200)
    found = neighbours.nearest(edges, 4, floor=0.1)
    listed = set(zip(found.i.tolist(), found.j.tolist(), found.mirrored.tolist(), strict=True))
    assert listed == expected(edges, 4, 0.1, everything, everything) and len(listed) == len(found.i)
    assert (found.i < found.j).all()


def test_queries_and_targets_restrict_both_sides() -> None:
    edges = unit(120, 1)
    queries, targets = np.arange(100, 120), np.arange(100)
    found = neighbours.nearest(edges, 3, floor=-1, queries=queries, targets=targets)
    listed = set(zip(found.i.tolist(), found.j.tolist(), found.mirrored.tolist(), strict=True))
    # One more than asked for is looked at, for the image itself, which is not among the targets
    # here.
    assert listed == expected(edges, 3, -1, queries, targets)
    assert (found.i < 100).all() and (found.j >= 100).all()


def test_inverted_lists_find_nearly_what_the_flat_index_finds() -> None:
    base = unit(3000, 2)
    edges = np.concatenate([base, base + 0.03 * unit(3000, 3)]).astype(np.float32)
    edges /= np.linalg.norm(edges, axis=1, keepdims=True)
    original = neighbours.EXACT_ROWS
    try:
        neighbours.EXACT_ROWS = 1000
        found = neighbours.nearest(edges, 3, floor=0.5, mirror=False)
    finally:
        neighbours.EXACT_ROWS = original
    planted = {(row, row + 3000) for row in range(3000)}
    assert len(planted & set(zip(found.i.tolist(), found.j.tolist(), strict=True))) > 0.99 * 3000
