"""Contact sheets (many small images laid out as one), and image files of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Images = npt.NDArray[np.uint8]

_CAPTION_HEIGHT = 14
_INK = (60, 60, 60)


def sheet(
    images: Images,
    columns: int | None = None,
    gap: int = 2,
    captions: Sequence[str] | None = None,
    ground: int = 255,
) -> Images:
    """Lays images out row by row.

    Args:
        images: uint8 [n, h, w, 3] RGB.
        columns: images in a row; None: as square a sheet as there can be.
        gap: pixels between images and around them.
        captions: a line of text under each image, cut to its width; letters outside ASCII become
            '?' (OpenCV's font has no others).
        ground: grey level, 0 to 255, of gaps and of cells left empty.

    Returns:
        uint8 [height, width, 3] RGB.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise TypeError(f"expected uint8 [n, h, w, 3], got {images.dtype} {images.shape}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    count, height, width, _ = images.shape
    columns = max(1, min(columns or int(np.ceil(np.sqrt(count))), max(count, 1)))
    rows = max(1, -(-count // columns))
    cell = height + (_CAPTION_HEIGHT if captions is not None else 0)
    out = np.full((rows * (cell + gap) + gap, columns * (width + gap) + gap, 3), ground, np.uint8)
    for index in range(count):
        top, left = gap + index // columns * (cell + gap), gap + index % columns * (width + gap)
        out[top : top + height, left : left + width] = images[index]
        if captions is not None:
            strip = out[top + height : top + cell, left : left + width]
            strip[:] = _caption(captions[index], width, ground)
    return out


def _caption(text: str, width: int, ground: int) -> Images:
    """Text on a strip of [_CAPTION_HEIGHT, width, 3]."""
    strip = np.full((_CAPTION_HEIGHT, width, 3), ground, np.uint8)
    text = text.encode("ascii", "replace").decode()
    while text and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.32, 1)[0][0] > width:
        text = text[:-1]
    cv2.putText(strip, text, (0, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.32, _INK, 1, cv2.LINE_AA)
    return strip


def encode_png(image: Images, software: str | None = None) -> bytes:
    """PNG: lossless, the same bytes each time.

    Args:
        image: uint8 [h, w], [h, w, 3] RGB or [h, w, 4] RGBA.
        software: text of the file's `Software` entry.
    """
    text = PngInfo()
    if software is not None:
        text.add_text("Software", software)
    return _encode(image, "PNG", pnginfo=text)


def encode_jpeg(image: Images, quality: int = 90) -> bytes:
    """uint8 [h, w, 3] RGB (or [h, w] grey) as JPEG of quality 1 to 100."""
    return _encode(image, "JPEG", quality=quality)


def encode_webp(image: Images, quality: int = 90) -> bytes:
    """uint8 [h, w, 3] RGB or [h, w, 4] RGBA as WebP of quality 1 to 100; 101 is lossless."""
    return _encode(image, "WEBP", quality=min(quality, 100), lossless=quality > 100)


def _encode(image: Images, form: str, **options: object) -> bytes:
    if image.dtype != np.uint8:
        raise TypeError(f"images are uint8, not {image.dtype}")
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()
