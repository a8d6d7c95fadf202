"""From a file's bytes to pixels: uint8 RGB, upright, whole, or a clear refusal.

OpenCV decodes the plain cases (8-bit grey or RGB, one frame), Pillow the odd ones. What is decided
here:
transparent images are laid on white; of an animation the first frame counts; of 16-bit samples the
upper 8 of the 8, 12 or 16 bits in use remain; grey becomes three equal channels; Exif orientation
is applied; colour profiles are not.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gan_core.vision.headers import PILLOW_ERRORS, open_lazily, probe, words_of
from gan_core.vision.image_files import Header, UnreadableImage

__all__ = [
    "Header",
    "UnreadableImage",
    "decode",
    "decode_mask",
    "decode_noting",
    "probe",
    "turn_upright",
]

Pixels = npt.NDArray[np.uint8]
_TROUBLE = (*PILLOW_ERRORS, Image.DecompressionBombError)


def decode(data: bytes, max_megapixels: float = 100.0, header: Header | None = None) -> Pixels:
    """Decodes an image.

    Args:
        data: the file's bytes.
        max_megapixels: images that declare more are refused before any pixel is allocated.
        header: what `probe` said of the same bytes, if that has been asked already.

    Returns:
        uint8 [height, width, 3], RGB, upright.

    Raises:
        UnreadableImage: empty, not_an_image, truncated, damaged, too_large or unsupported.
    """
    return decode_noting(data, max_megapixels, header)[0]


def decode_noting(
    data: bytes, max_megapixels: float = 100.0, header: Header | None = None
) -> tuple[Pixels, bool]:
    """As `decode`, and whether any of the image was transparent."""
    header = header or probe(data)
    _refuse_large(header, max_megapixels)
    pixels, transparent = (
        (_plain(data, header), False) if header.plain else _with_pillow(data, header)
    )
    return turn_upright(pixels, header.orientation), transparent


def decode_mask(data: bytes, max_megapixels: float = 100.0) -> Pixels:
    """Decodes a segmentation mask: the class numbers as stored, not colours.

    Args:
        data: bytes of an image with one channel: 8-bit grey, a palette (its indices count), black
            and white, or 16-bit grey with values below 256.

    Returns:
        uint8 [height, width].

    Raises:
        UnreadableImage: as `decode`, and unsupported for masks in colour or with numbers above 255.
    """
    header = probe(data)
    _refuse_large(header, max_megapixels)
    _refuse_short(data, header)
    try:
        image = open_lazily(BytesIO(data), header.format)
        image.load()
        values = np.asarray(image)
    except _TROUBLE as error:
        raise UnreadableImage(
            "damaged", f"the mask cannot be decoded ({words_of(error)})", header
        ) from error
    if values.ndim != 2:
        raise UnreadableImage(
            "unsupported", f"a mask holds one number a pixel, this one is {image.mode}", header
        )
    if values.size and (values.min() < 0 or values.max() > 255):
        raise UnreadableImage(
            "unsupported",
            f"the mask holds class numbers up to {values.max()}, more than 255",
            header,
        )
    return turn_upright(values.astype(np.uint8), header.orientation)


def turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Applies an Exif orientation (1 to 8) to [height, width, ...]. Source: Exif 2.32, tag
    0x0112.
    """
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _refuse_large(header: Header, max_megapixels: float) -> None:
    if header.megapixels > max_megapixels:
        raise UnreadableImage(
            "too_large",
            f"it declares {header.width} x {header.height} pixels, "
            f"{_above(header.megapixels, max_megapixels)} megapixels;"
            f" at most {max_megapixels:,.10g} are taken (crop.max_megapixels)",
            header,
        )


def _above(value: float, limit: float) -> str:
    """A value with as few decimals as show that it is above the limit: 0.273 is '0.3' above 0.01,
    2500.1 is '2,500' above 100.
    """
    digits = next((digits for digits in range(6) if round(value, digits) > limit), 6)
    return f"{value:,.{digits}f}"


def _plain(data: bytes, header: Header) -> Pixels:
    """Pixels as stored. OpenCV refuses what is cut within a checked frame; Pillow would fill the
    rest with black.
    """
    if header.offset:
        shape = (header.height, header.width, 3)
        return np.frombuffer(data, np.uint8, math.prod(shape), header.offset).reshape(shape)
    pixels = _by_opencv(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    stored = (
        (header.width, header.height) if header.orientation >= 5 else (header.height, header.width)
    )
    if pixels is None or pixels.shape != (*stored, 3) or pixels.dtype != np.uint8:
        raise UnreadableImage("damaged", f"the {header.format} file cannot be decoded", header)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), dtype=np.uint8)


def _by_opencv(data: bytes, flags: int) -> Any:
    """OpenCV's pixels, None when it refuses the file."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _refuse_short(data: bytes, header: Header) -> None:
    """Refuses a PNG with fewer rows than it declares: Pillow returns the missing ones black."""
    if header.format == "PNG" and _by_opencv(data, cv2.IMREAD_UNCHANGED) is None:
        raise UnreadableImage("truncated", "the PNG file holds fewer rows than it declares", header)


def _with_pillow(data: bytes, header: Header) -> tuple[Pixels, bool]:
    _refuse_short(data, header)
    try:
        image: Any = open_lazily(BytesIO(data), header.format)
        image.load()
        if image.mode.startswith("I"):
            return _from_integers(np.asarray(image), header), False
        if image.mode == "F":
            raise UnreadableImage(
                "unsupported", "its pixels are floating-point numbers of unknown range", header
            )
        transparent = False
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            transparent = image.getchannel("A").getextrema()[0] < 255
            ground = image.copy()
            ground.paste((255, 255, 255, 255), (0, 0, *image.size))
            ground.alpha_composite(image)
            image = ground
        return np.asarray(image.convert("RGB"), dtype=np.uint8), transparent
    except _TROUBLE as error:
        text = words_of(error)
        code = "truncated" if "truncated" in text or isinstance(error, EOFError) else "damaged"
        raise UnreadableImage(
            code, f"the {header.format} file cannot be decoded ({text})", header
        ) from error


def _from_integers(values: npt.NDArray[Any], header: Header) -> Pixels:
    """Grey of up to 16 bits as three equal channels of 8.

    The largest value tells how many bits are in use: 8 (a small range in a large container), 12 (as
    cameras and scanners deliver) or 16; the upper 8 of them remain.
    """
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise UnreadableImage("unsupported", "its pixels are integers of more than 16 bits", header)
    highest = int(values.max(initial=0))
    shift = next(bits - 8 for bits in (8, 12, 16) if highest < 1 << bits)
    grey = (values.astype(np.uint32) >> shift).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
