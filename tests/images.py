"""Small images for tests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """A file of an image in a format of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(seed: int) -> bytes:
    """A PNG file of 6 x 6 random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels), "PNG")


def digits(count: int) -> np.ndarray:
    """The first `count` digits: uint8 [count, 32, 32, 3]."""
    small = np.repeat(np.repeat(load_digits().images[:count], 4, axis=1), 4, axis=2)
    return np.repeat((small * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)
