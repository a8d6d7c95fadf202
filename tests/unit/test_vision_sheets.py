"""Sheets hold every image at its place; encoded files come back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gan_core.vision.decode import decode
from gan_core.vision.sheets import encode_jpeg, encode_png, encode_webp, sheet

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 10, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize(("columns", "gap"), [(3, 2), (1, 0), (7, 5), (20, 1), (None, 2)])
def test_every_image_is_at_its_place(columns: int | None, gap: int) -> None:
    got = sheet(IMAGES, columns, gap)
    across = min(columns or 3, 7)
    down = -(-7 // across)
    assert got.shape == (down * (10 + gap) + gap, across * (12 + gap) + gap, 3)
    for index, image in enumerate(IMAGES):
        top, left = gap + index // across * (10 + gap), gap + index % across * (12 + gap)
        assert np.array_equal(got[top : top + 10, left : left + 12], image)
    covered = 7 * 10 * 12
    assert (got == 255).all(axis=2).sum() >= got.shape[0] * got.shape[1] - covered


def test_captions_stand_below_and_are_cut_to_the_width() -> None:
    large = np.zeros((2, 40, 40, 3), np.uint8)
    got = sheet(large, 2, 2, captions=["a", "a very long caption, çut off"])
    assert got.shape == (2 + 40 + 14 + 2, 2 * 42 + 2, 3)
    assert (got[2:42, 2:42] == 0).all() and (got[2:42, 44:84] == 0).all()
    assert (got[42:56, 2:42] < 255).any() and (got[42:56, 44:84] < 255).any()
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        sheet(large, captions=["a"])


def test_an_empty_sheet_is_a_sheet() -> None:
    assert sheet(IMAGES[:0]).ndim == 3
    with pytest.raises(TypeError, match="expected uint8"):
        sheet(IMAGES.astype(np.float32))


def test_encoded_images_come_back() -> None:
    smooth = np.kron(IMAGES[0][:3, :3], np.ones((12, 12, 1), np.uint8))
    assert np.array_equal(decode(encode_png(smooth)), smooth)
    assert np.array_equal(decode(encode_webp(smooth, 101)), smooth)
    assert np.abs(decode(encode_jpeg(smooth, 95)).astype(int) - smooth).mean() < 10
    assert encode_png(smooth) == encode_png(smooth.copy())
    grey = smooth[..., 0]
    assert np.array_equal(decode(encode_png(grey))[..., 1], grey)


def test_an_encoded_image_keeps_its_alpha_channel_and_its_text() -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    for data in (encode_png(rgba, "discern sample"), encode_webp(rgba, 101)):
        image = Image.open(io.BytesIO(data))
        assert np.array_equal(np.asarray(image.convert("RGBA")), rgba)
    assert Image.open(io.BytesIO(encode_png(rgba, "a program"))).info["Software"] == "a program"
    assert encode_png(rgba) != encode_png(rgba, "a program")
