"""Pooling against a slow obvious version, and the lengths that people ask about."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gan_core import registry
from gan_core.features.modes import (
    LayerSize,
    pool_maps,
    pooled_shape,
    select_layers,
    to_half,
    uneven,
)


def slow(maps: np.ndarray, grid: int, pool: str) -> np.ndarray:
    """One window at a time, rows floor(i h / g) to ceil((i + 1) h / g)."""
    n, channels, height, width = maps.shape
    rows, columns = min(grid, height), min(grid, width)
    out = np.zeros((n, channels, rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, math.ceil((i + 1) * height / rows)
            left, right = j * width // columns, math.ceil((j + 1) * width / columns)
            window = maps[:, :, top:bottom, left:right]
            out[:, :, i, j] = window.max((2, 3)) if pool == "max" else window.mean((2, 3))
    return out


@pytest.mark.parametrize("pool", ["max", "average"])
@pytest.mark.parametrize(
    ("side", "grid"),
    [(32, 4), (16, 4), (8, 4), (4, 4), (7, 4), (10, 3), (8, 1), (2, 4), (1, 4), (6, 6)],
)
def test_pooling_is_the_obvious_one(side: int, grid: int, pool: str) -> None:
    maps = torch.from_numpy(
        np.random.default_rng(side).standard_normal((3, 5, side, side)).astype(np.float32)
    )
    found = pool_maps(maps, grid, pool)  # type: ignore[arg-type]
    assert tuple(found.shape[1:]) == pooled_shape(maps.shape[1:], grid)
    np.testing.assert_allclose(found.numpy(), slow(maps.numpy(), grid, pool), rtol=1e-5, atol=1e-6)


def test_flat_layers_become_one_by_one() -> None:
    assert tuple(pool_maps(torch.zeros(2, 7), 4).shape) == (2, 7, 1, 1)


@pytest.mark.parametrize(
    ("network", "width", "dims"),
    [
        ("dcgan32", 1.0, 28_672),
        ("dcgan32_svhn", 1.0, 7_168),
        ("dcgan64", 1.0, 30_720),
        ("dcgan64", 0.5, 15_360),
    ],
)
def test_the_lengths_people_ask_about(network: str, width: float, dims: int) -> None:
    with torch.device("meta"):
        made = registry.load("networks", network).discriminator(width)
    assert sum(size.dims for size in select_layers(made).sizes) == dims


def test_values_beyond_float16_are_clipped_and_counted() -> None:
    half, beyond = to_half(torch.tensor([1.0, 7e4, -1e6, 65504.0]))
    assert beyond == 2 and half.tolist() == [1.0, 65504.0, -65504.0, 65504.0]


def test_layers_whose_windows_overlap_are_named() -> None:
    sizes = [
        LayerSize("a", (8, 32, 32), (8, 4, 4)),
        LayerSize("b", (8, 30, 30), (8, 4, 4)),
        LayerSize("c", (8, 3, 3), (8, 3, 3)),
    ]
    assert uneven(sizes, 4) == ["b"]
