"""Crops are cut as the DCGAN authors cut them, and their boxes say where the pixels came from."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_core.vision.geometry import (
    LONGEST,
    Box,
    centre_crop,
    crop_box,
    min_resize,
    resize,
    round_half_up,
    square_around,
)


def python2_round(value: Fraction) -> int:
    return int(
        (Decimal(value.numerator) / Decimal(value.denominator)).quantize(Decimal(1), ROUND_HALF_UP)
    )


def coordinates(width: int, height: int) -> np.ndarray:
    """An image whose red is the column and whose green is the row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


@given(st.integers(0, 4000), st.integers(1, 64))
def test_halves_go_up_as_in_python_2(numerator: int, denominator: int) -> None:
    assert round_half_up(numerator / denominator) == python2_round(Fraction(numerator, denominator))


@given(st.integers(8, 700), st.integers(8, 700), st.integers(8, 64))
@settings(max_examples=60, deadline=None)
def test_the_shorter_side_becomes_the_size(width: int, height: int, size: int) -> None:
    got = min_resize(np.zeros((height, width, 3), np.uint8), size)
    short, long = min(width, height), max(width, height)
    assert min(got.shape[:2]) == size
    assert max(got.shape[:2]) == python2_round(Fraction(long * size, short))
    assert (got.shape[0] >= got.shape[1]) == (height >= width) or got.shape[0] == got.shape[1]


@pytest.mark.parametrize(("width", "height", "size", "left", "top"), [
    (33, 32, 32, 1, 0), (35, 32, 32, 2, 0), (32, 37, 32, 0, 3), (40, 32, 32, 4, 0), (32, 32, 32, 0,
    0),
])  # fmt: skip
def test_the_centre_is_where_the_authors_cut(
    width: int, height: int, size: int, left: int, top: int
) -> None:
    """lib/data_utils.py: j = int(round((h - ph) / 2.)); 0.5 goes to 1, 1.5 to 2 and 2.5 to 3 under
    Python 2.
    """
    image = coordinates(width, height)
    square, box = centre_crop(image, size)
    assert np.array_equal(square, image[top : top + size, left : left + size])
    assert box == Box(left, top, left + size, top + size)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(250, 200, 32), (97, 203, 32), (20, 26, 32), (255, 64, 64), (64, 64, 32)],
)
def test_a_box_says_where_the_pixels_came_from(width: int, height: int, size: int) -> None:
    """Each pixel of the crop holds the coordinates of its source: they must lie where the box puts
    them.
    """
    square, box = centre_crop(coordinates(width, height), size)
    step_x, step_y = (box.x1 - box.x0) / size, (box.y1 - box.y0) / size
    assert step_x == pytest.approx(step_y, rel=0.05)
    expected_x = box.x0 + (np.arange(size) + 0.5) * step_x - 0.5
    expected_y = box.y0 + (np.arange(size) + 0.5) * step_y - 0.5
    inner = slice(2, -2)
    assert np.abs(square[size // 2, inner, 0] - expected_x[inner]).max() < 1.01
    assert np.abs(square[inner, size // 2, 1] - expected_y[inner]).max() < 1.01
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width + 1e-6 and box.y1 <= height + 1e-6


def test_shrinking_averages_and_growing_interpolates() -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255
    grey = resize(np.repeat(board[..., None], 3, 2).astype(np.uint8), 16, 16)
    assert np.abs(grey.astype(int) - 127).max() <= 1, (
        "linear interpolation would alias a checkerboard"
    )
    step = np.repeat(np.array([[0, 255]], np.uint8)[..., None], 3, 2)
    assert len(np.unique(resize(np.repeat(step, 2, 0), 16, 16))) > 4


def test_masks_are_picked_never_mixed() -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 7, 200], np.uint8), (90, 130))
    for size in (32, 90, 128):
        square, _ = centre_crop(mask, size, nearest=True)
        assert square.shape == (size, size) and set(np.unique(square)) <= {0, 7, 200}
    blocks = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4), np.ones((10, 10), np.uint8))
    assert np.array_equal(centre_crop(blocks, 4, nearest=True)[0], np.arange(16).reshape(4, 4))


def test_a_very_long_image_stays_small_on_its_way() -> None:
    """1 x 200,000 pixels would become 32 x 6,400,000 before its centre is cut out."""
    strip = np.zeros((1, 200_000, 3), np.uint8)
    strip[0, 99_996:100_004] = 255
    square, box = centre_crop(strip, 32)
    assert square.shape == (32, 32, 3) and (square == 255).all()
    assert abs((box.x0 + box.x1) / 2 - 100_000) < 1 and box.y1 == 1
    assert LONGEST == 8


def test_cutting_the_ends_first_moves_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 400, 3), dtype=np.uint8)
    square, box = centre_crop(image, 20)
    assert np.array_equal(square, image[:, 190:210]) and box == Box(190, 0, 210, 20)


@given(
    st.integers(20, 300), st.integers(20, 300), st.floats(0, 1), st.floats(0, 1), st.integers(10,
    200), st.integers(10, 200),
    st.floats(1, 3),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_face_square_lies_inside_and_around(
    width: int, height: int, x: float, y: float, w: int, h: int, margin: float
) -> None:
    w, h = min(w, width), min(h, height)
    left, top = int(x * (width - w)), int(y * (height - h))
    box = square_around(left, top, w, h, margin, width, height)
    side = box.x1 - box.x0
    assert (
        side
        == box.y1 - box.y0
        == min(python2_round(Fraction(max(w, h)) * Fraction(margin)), width, height)
    )
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    if side >= max(w, h):  # moved inside, it still holds the detection
        assert box.x0 <= left and box.y0 <= top and box.x1 >= left + w and box.y1 >= top + h
    got = crop_box(coordinates(min(width, 256), min(height, 256)), Box(0, 0, 10, 10), 8)
    assert got.shape == (8, 8, 3)


def test_a_crop_of_a_box_is_that_part() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    assert np.array_equal(crop_box(image, Box(10, 20, 26, 36), 16), image[20:36, 10:26])
    expected = cv2.resize(image[0:48, 0:48], (16, 16), interpolation=cv2.INTER_AREA)
    assert np.array_equal(crop_box(image, Box(0, 0, 48, 48), 16), expected)
