"""Maps between members of linked groups, and which groups are joined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gan_core.dedup.groups import Groups
from gan_core.dedup.search.find_duplicates import Duplicates
from gan_core.dedup.search.linked_groups import join_groups, maps_in_groups, suggested_pairs
from gan_core.dedup.search.verify_pairs import Verified
from gan_core.dedup.tables import Found

FLIP = np.diag([-1.0, 1.0, 1.0])


def verified(pairs: list[tuple[int, int]], score: list[float], poses: np.ndarray) -> Verified:
    """Pairs of images that lie as the poses say: a place p of the scene is at pose @ p."""
    i, j = np.array(pairs, np.int64).reshape(-1, 2).T
    maps = poses[j] @ np.linalg.inv(poses[i])
    mirrored = np.linalg.det(maps[:, :2, :2]) < 0
    maps[mirrored] = maps[mirrored] @ FLIP  # verification mirrors the first image beforehand
    zeros, ones = np.zeros(len(i), np.float32), np.ones(len(i), np.float32)
    return Verified(
        i, j, mirrored, np.array(score, np.float32), zeros, zeros, ones,
        maps[:, :2].astype(np.float32), [len(i)],
    )  # fmt: skip


@pytest.fixture
def poses() -> np.ndarray:
    random = np.random.default_rng(0)
    out = np.tile(np.eye(3), (6, 1, 1))
    out[:, :2] += random.normal(0, 0.1, (6, 2, 3))
    return np.where((np.arange(6) % 3 == 1)[:, None, None], out @ FLIP, out)


def search(poses: np.ndarray, *, raised: bool = False) -> Duplicates:
    """Groups {0, 1}, {2, 3} and {4, 5}; 1 and 3 are a pair, 5 and 3 nearly one."""
    accepted = verified([(0, 1), (2, 3), (4, 5), (1, 3)], [0.95, 0.95, 0.95, 0.93], poses)
    seen = accepted.joined(verified([(3, 5), (0, 4)], [0.8, 0.4], poses))
    groups = Groups(np.array([0, 0, 2, 2, 4, 4]), np.array([-1, 0, -1, 1, -1, 2]))
    found = Found(accepted.i, accepted.j, accepted.score, [""] * 4)
    nothing: object = None
    return Duplicates(
        found, groups, accepted, seen, 0.92, raised, np.arange(6), nothing  # type: ignore[arg-type]
    )  # fmt: skip


def test_members_suggest_how_their_representatives_lie(poses: np.ndarray) -> None:
    pairs = suggested_pairs(search(poses))
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == [(0, 2), (2, 4)]
    direct = verified([(0, 2), (2, 4)], [0, 0], poses)
    assert np.array_equal(pairs.mirrored, direct.mirrored)
    np.testing.assert_allclose(pairs.maps, direct.maps, atol=1e-5)
    # Where different images agree, only accepted pairs suggest anything.
    assert suggested_pairs(search(poses, raised=True)).j.tolist() == [2]


def test_a_pair_that_was_denied_is_not_suggested_again(poses: np.ndarray) -> None:
    found = search(poses)
    denied = replace(found, seen=found.seen.joined(verified([(0, 2)], [0.97], poses)))
    assert suggested_pairs(denied).i.tolist() == [2]


def test_only_a_comparison_joins_and_no_chain_does(poses: np.ndarray) -> None:
    found = search(poses)
    rank = np.array([3, 0, 1, 2, 4, 5])  # 2 before 0 before 4
    groups, joins = join_groups(found, rank, lambda pairs: np.ones(len(pairs.i), np.bool_))
    assert groups.representative.tolist() == [2] * 6 and set(joins.i.tolist()) == {2}
    expected = [poses[row] @ np.linalg.inv(poses[2]) for row in range(6)]
    np.testing.assert_allclose(maps_in_groups(found, joins), expected, atol=1e-5)
    groups, _ = join_groups(found, rank, lambda pairs: pairs.j == 4)
    assert groups.representative.tolist() == [0, 0, 2, 2, 2, 2]
    chain, _ = join_groups(found, np.arange(6), lambda pairs: np.ones(len(pairs.i), np.bool_))
    assert chain.representative.tolist() == [0, 0, 0, 0, 4, 4]
