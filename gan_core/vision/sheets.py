"""Contact sheets: many small pictures laid out as one."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]

_CAPTION_HEIGHT = 14
_INK = (60, 60, 60)


def sheet(
    pictures: Pictures, columns: int | None = None, gap: int = 2, captions: Sequence[str] | None = None, ground: int = 255
) -> Pictures:
    """Lays pictures out row by row.

    Args:
        pictures: uint8 [n, h, w, 3] RGB.
        columns: pictures in a row; None: as square a sheet as there can be.
        gap: pixels between pictures and around them.
        captions: a line of text under each picture, cut to its width; letters outside ASCII become '?' (OpenCV's font
            has no others).
        ground: grey level, 0 to 255, of gaps and of cells left empty.

    Returns:
        uint8 [height, width, 3] RGB.
    """
    if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != np.uint8:
        raise TypeError(f"expected uint8 [n, h, w, 3], got {pictures.dtype} {pictures.shape}")
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"{len(captions)} captions for {len(pictures)} pictures")
    count, height, width, _ = pictures.shape
    columns = max(1, min(columns or int(np.ceil(np.sqrt(count))), max(count, 1)))
    rows = max(1, -(-count // columns))
    cell = height + (_CAPTION_HEIGHT if captions is not None else 0)
    out = np.full((rows * (cell + gap) + gap, columns * (width + gap) + gap, 3), ground, np.uint8)
    for index in range(count):
        top, left = gap + index // columns * (cell + gap), gap + index % columns * (width + gap)
        out[top : top + height, left : left + width] = pictures[index]
        if captions is not None:
            strip = out[top + height : top + cell, left : left + width]
            strip[:] = _caption(captions[index], width, ground)
    return out


def _caption(text: str, width: int, ground: int) -> Pictures:
    """Text on a strip of [_CAPTION_HEIGHT, width, 3]."""
    strip = np.full((_CAPTION_HEIGHT, width, 3), ground, np.uint8)
    text = text.encode("ascii", "replace").decode()
    while text and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.32, 1)[0][0] > width:
        text = text[:-1]
    cv2.putText(strip, text, (0, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.32, _INK, 1, cv2.LINE_AA)
    return strip


def encode_png(picture: Pictures) -> bytes:
    """uint8 [h, w, 3] RGB (or [h, w] grey) as PNG: lossless, the same bytes each time."""
    return _encode(picture, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 6])


def encode_jpeg(picture: Pictures, quality: int = 90) -> bytes:
    """uint8 [h, w, 3] RGB (or [h, w] grey) as JPEG of quality 1 to 100."""
    return _encode(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_webp(picture: Pictures, quality: int = 90) -> bytes:
    """uint8 [h, w, 3] RGB as WebP of quality 1 to 100; 101 is lossless."""
    return _encode(picture, ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality])


def _encode(picture: Pictures, suffix: str, options: list[int]) -> bytes:
    if picture.dtype != np.uint8:
        raise TypeError(f"pictures are uint8, not {picture.dtype}")
    ordered = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    done, data = cv2.imencode(suffix, ordered, options)
    if not done:
        raise ValueError(f"OpenCV could not encode {picture.shape} as {suffix}")
    return data.tobytes()
