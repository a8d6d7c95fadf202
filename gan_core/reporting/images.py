"""Images inside a page: data URIs of WebP files whose gaps are transparent, so that one image suits
a light and a dark page.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from gan_core.vision.sheets import encode_webp

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Image:
    """An image for an <img>: its data URI, its size in pixels, its caption."""

    uri: str
    width: int
    height: int
    caption: str = ""
    alt: str = ""


def read_image(path: Path) -> Pixels:
    """A PNG file as uint8 [h, w, 3] RGB.

    Raises:
        OSError: it is not there or cannot be read.
    """
    found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if found is None:
        raise OSError(f"{path.name} is no image")
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB).astype(np.uint8)


def data_uri(data: bytes, kind: str) -> str:
    """`data:` address of an image file's bytes. Args: kind: 'png', 'webp', 'svg+xml'."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def tiles_of(sheet: Pixels, size: int, gap: int = 2) -> Pixels | None:
    """The images of a contact sheet, uint8 [rows, columns, size, size, 3]; None when the sheet is
    not laid out so.
    """
    height, width, _ = sheet.shape
    pitch = size + gap
    if (height - gap) % pitch or (width - gap) % pitch or height <= gap or width <= gap:
        return None
    inner = sheet[gap:, gap:]
    rows, columns = (height - gap) // pitch, (width - gap) // pitch
    return inner.reshape(rows, pitch, columns, pitch, 3)[:, :size, :, :size].transpose(
        0, 2, 1, 3, 4
    )


def lay_out(tiles: Pixels, gap: int = 2, scale: int = 1) -> Pixels:
    """Images [rows, columns, h, w, 3] as one RGBA sheet with transparent gaps; `scale` repeats
    pixels.
    """
    if scale > 1:
        tiles = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    opaque = np.concatenate([tiles, np.full_like(tiles[..., :1], 255)], axis=-1)
    padded = np.pad(opaque, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)))
    rows, columns, height, width, _ = padded.shape
    joined = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 4)
    return joined[: rows * height - gap, : columns * width - gap]


def as_image(pixels: Pixels, caption: str = "", alt: str = "", quality: int = 88) -> Image:
    """An image for the page from uint8 [h, w, 3 or 4], as WebP; quality 101 is lossless."""
    height, width = pixels.shape[:2]
    return Image(data_uri(encode_webp(pixels, quality), "webp"), width, height, caption, alt)


def sheet_image(
    path: Path, size: int | None, caption: str = "", alt: str = "", columns: int | None = None
) -> Image | None:
    """A contact sheet from a file, with transparent gaps where its layout is recognised; None when
    it cannot be read.

    Args: columns: images in a row of a new layout, if that leaves no row unfilled.
    """
    try:
        sheet = read_image(path)
    except OSError:
        return None
    tiles = tiles_of(sheet, size) if size else None
    if tiles is not None:
        rows, across = tiles.shape[:2]
        if columns and rows * across % columns == 0:
            tiles = tiles.reshape(-1, columns, *tiles.shape[2:])
        sheet = lay_out(tiles)
    return as_image(sheet, caption, alt)


def strip(images: Sequence[Pixels], gap: int = 2, scale: int = 1) -> Pixels:
    """Images of one size in a row, RGBA with transparent gaps."""
    return lay_out(np.stack(images)[None], gap, scale)
