"""What a search says of itself, against planted truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gan_core.config import DedupConfig
from gan_core.dedup.measure import quality
from gan_core.dedup.search.find_duplicates import Duplicates, find_duplicates
from gan_core.dedup.tables import Found


def textures(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.empty((count, 32, 32, 3), np.uint8)
    for row in range(count):
        noise = [rng.normal(size=(n, n, 3)).astype(np.float32) for n in (4, 7, 11)]
        out[row] = np.clip(
            128
            + 28 * sum(cv2.resize(one, (32, 32), interpolation=cv2.INTER_CUBIC) for one in noise),
            0,
            255,
        )
    return out


def noisy(pixels: np.ndarray, levels: list[float]) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.stack(
        [
            np.clip(one + rng.normal(0, by, one.shape), 0, 255)
            for one, by in zip(pixels, levels, strict=True)
        ]
    ).astype(np.uint8)


def search(pixels: np.ndarray, threshold: float = 0.9) -> Duplicates:
    return find_duplicates(
        lambda rows: pixels[rows], np.arange(len(pixels)), DedupConfig(threshold=threshold)
    )


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """70 images, then duplicates of the first 40 with ever more noise, then two that are equal to
    the first.
    """
    base = textures(70)
    return np.concatenate(
        [base, noisy(base[:40], list(np.linspace(2, 40, 40))), base[:1], base[:1]]
    )


def test_the_sweep_counts_what_a_search_at_that_threshold_finds(pixels: np.ndarray) -> None:
    rows = quality.sweep(search(pixels), np.arange(len(pixels)))
    assert [row["threshold"] for row in rows if row["used"]] == [0.9]
    assert rows[0]["removed"] > rows[-1]["removed"] > 0
    for row in rows[::6]:
        alone = search(pixels, row["threshold"])
        assert row["pairs"] == len(alone.found.i), row
        assert row["removed"] == int((~alone.groups.keep).sum()), row
        assert row["groups"] == len(np.unique(alone.groups.representative[~alone.groups.keep])), row


def test_images_that_are_upside_down_in_the_set_are_counted_as_look_alikes(
    pixels: np.ndarray,
) -> None:
    result = quality.look_alikes(lambda rows: pixels[rows], search(pixels), DedupConfig())
    assert (
        result["matched"] == 0
        and result["high"] > 0
        and result["asked"] == result["among"] == len(pixels) - 2
    )
    planted = np.concatenate([pixels, pixels[40:60, ::-1]])
    result = quality.look_alikes(lambda rows: planted[rows], search(planted), DedupConfig())
    assert result["matched"] == 40, (
        "each of 20 images and its turned exact_duplicate finds the other"
    )
    paired = np.unique(np.concatenate([search(planted).found.i, search(planted).found.j]))
    assert result["false_share"] == pytest.approx(
        min(1.0, 40 / result["asked"] * (len(planted) - 2) / len(paired)), abs=1e-5
    )


def test_an_image_that_is_its_own_reverse_does_not_look_alike() -> None:
    half = textures(60)[:, :16]
    whole = np.concatenate([half, half[:, ::-1]], axis=1)
    assert (
        quality.look_alikes(lambda rows: whole[rows], search(whole), DedupConfig())["matched"] == 0
    )


def test_pairs_of_codes_that_are_different_images_are_not_confirmed(pixels: np.ndarray) -> None:
    i, j = np.arange(15), np.concatenate([70 + np.arange(10), [60, 61, 62, 63, 64]])
    found = Found(i, j, np.ones(15, np.float32), ["equal code"] * 15)
    result = quality.unconfirmed(lambda rows: pixels[rows], found, 0.9)
    assert (result["sampled"], result["unconfirmed"]) == (15, 5) and result["low"] < result[
        "share"
    ] < result["high"]
    nothing = Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), [])
    assert quality.unconfirmed(lambda rows: pixels[rows], nothing, 0.9)["share"] is None
