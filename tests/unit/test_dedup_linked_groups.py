"""Maps between members of linked groups, and which groups are joined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gan_core.dedup.folder.full_resolution import Originals
from gan_core.dedup.folder.read import read_images
from gan_core.dedup.folder.run import dedup_images
from gan_core.dedup.groups import Groups
from gan_core.dedup.search.find_duplicates import Duplicates
from gan_core.dedup.search.linked_groups import join_groups, maps_in_groups, suggested_pairs
from gan_core.dedup.search.verify_pairs import Verified
from gan_core.dedup.tables import Found
from gan_core.progress import silent

SIDE, STRETCH = 32, 0.8
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


def texture(seed: int, side: int = SIDE) -> np.ndarray:
    random = np.random.default_rng(seed)
    layers = [random.normal(size=(cells, cells, 3)).astype(np.float32) for cells in (4, 7, 11)]
    sizes = [cv2.resize(layer, (side, side), interpolation=cv2.INTER_CUBIC) for layer in layers]
    return np.asarray(np.sum(sizes, axis=0))


def write(path: Path, image: np.ndarray, noise: float = 0.0) -> None:
    random = np.random.default_rng(len(path.name))
    image = 128 + 28 * image + random.normal(0, noise, image.shape)
    cv2.imwrite(str(path), np.clip(image, 0, 255).astype(np.uint8))


def test_small_images_are_joined_at_the_threshold_where_an_accepted_pair_suggests_it(
    tmp_path: Path,
) -> None:
    large = texture(1, 96)
    cut = large[:, : round(STRETCH * 96)]
    for name, image in (("a", large), ("b", cut), ("c", texture(2, 96))):
        write(tmp_path / f"{name}.png", cv2.resize(image, (SIDE, SIDE)), noise=4)
    images = read_images(tmp_path, None, 1, 1.0, tmp_path, silent)
    originals = Originals([(images, np.arange(3))], 1, 1.0, tmp_path)
    # b is a, cut and stretched; the maps are off by more than a pixel.
    pose = np.array([[1 / STRETCH, 0, 1 / STRETCH - 1.1], [0, 1, 0.1], [0, 0, 1]])
    poses = np.stack([np.eye(3), pose, pose])
    pairs = verified([(0, 1), (0, 1), (0, 2), (1, 2)], [0.93, 0.91, 0.99, 0.99], poses)
    assert originals.same_image(pairs, 0.92).tolist() == [True, False, False, False]


def test_a_chain_of_small_images_does_not_become_one_group(tmp_path: Path) -> None:
    first, last = texture(1), texture(2)
    steps = 19
    for step in range(steps):
        turn = np.pi / 2 * step / (steps - 1)
        write(tmp_path / f"{step:02d}.png", np.cos(turn) * first + np.sin(turn) * last)
    for seed in range(3, 15):
        write(tmp_path / f"other-{seed}.png", texture(seed))
    rows = dedup_images(tmp_path, keep="first").table.to_pylist()
    kept = [int(row["representative_address"][:2]) for row in rows[:steps]]
    # Neighbours are duplicates, so connected components would be one group. What differs by more
    # than 23 degrees does not reach the threshold: joins by links alone would tie 18 to 4.
    assert all(not row["keep"] for row in rows[1:3])
    assert max(abs(step - at) for step, at in enumerate(kept)) <= 6
