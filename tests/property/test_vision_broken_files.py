"""Whatever is done to an image file, reading it gives the whole image or a refusal: never half of
one, never a crash.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_core.vision.decode import UnreadableImage, decode, probe

CODES = {"empty", "not_an_image", "truncated", "damaged", "too_large", "unsupported"}


def _saved(form: str, mode: str, **options: object) -> bytes:
    coarse = np.random.default_rng(1).integers(0, 256, (7, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((52, 47), Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


FILES = {
    "jpeg": _saved("JPEG", "RGB"),
    "progressive": _saved("JPEG", "RGB", progressive=True),
    "cmyk": _saved("JPEG", "CMYK"),
    "png": _saved("PNG", "RGB"),
    "palette": _saved("PNG", "P"),
    "alpha": _saved("PNG", "RGBA"),
    "webp": _saved("WEBP", "RGB"),
    "lossless": _saved("WEBP", "RGBA", lossless=True),
    "gif": _saved("GIF", "P"),
    "bmp": _saved("BMP", "RGB"),
    "tiff": _saved("TIFF", "RGB"),
    "tiff lzw": _saved("TIFF", "RGB", compression="tiff_lzw"),
    "tiff deflate": _saved("TIFF", "RGB", compression="tiff_adobe_deflate"),
    "ppm": _saved("PPM", "RGB"),
    "pgm": _saved("PPM", "L"),
}
WHOLE = {name: decode(data) for name, data in FILES.items()}
# What OpenCV's and Pillow's plugins say on standard error is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RELAXED = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@RELAXED
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1, exclude_max=True))
def test_a_cut_file_gives_the_whole_image_or_none(name: str, share: float) -> None:
    data = FILES[name][: int(len(FILES[name]) * share)]
    try:
        pixels = decode(data)
    except UnreadableImage as error:
        assert error.code in CODES and error.reason.isprintable()
    else:
        assert np.array_equal(pixels, WHOLE[name])


@RELAXED
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
    ),
)
def test_a_damaged_file_gives_its_declared_size_or_none(
    name: str, damage: list[tuple[float, int]]
) -> None:
    data = bytearray(FILES[name])
    for place, value in damage:
        data[int(place * len(data))] = value
    try:
        header = probe(bytes(data))
        pixels = decode(bytes(data), max_megapixels=4)
    except UnreadableImage as error:
        assert error.code in CODES and error.reason.isprintable()
    else:
        assert pixels.shape == (header.height, header.width, 3) and pixels.dtype == np.uint8


@RELAXED
@given(
    st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\0\0\0\0WEBP",
            b"GIF89a",
            b"II*\0",
            b"P6\n",
        ]
    ),
    st.binary(max_size=200),
)
@example(
    b"GIF89a", b"\0\0\0\0\0\0\0,\0\0\0\0\0\r\0\xd3"
)  # a frame of 3328 x 54016: more than Pillow's plugin opens
def test_any_bytes_are_refused_or_read(start: bytes, rest: bytes) -> None:
    try:
        pixels = decode(start + rest, max_megapixels=4)
    except UnreadableImage as error:
        assert error.code in CODES
    else:
        assert pixels.ndim == 3 and pixels.shape[2] == 3
