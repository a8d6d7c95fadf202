"""Whatever is done to an image file, reading it gives the whole image or a refusal: never half of
one, never a crash.
"""

from __future__ import annotations

import io
import struct
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_core.contract import StageRequest
from gan_core.progress import silent
from gan_core.stages import ingest
from gan_core.vision.decode import UnreadableImage, decode, probe
from tests.faults.hostile import mutated_header, png_that_declares, png_with_frames

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
    "avif": _saved("AVIF", "RGB"),
    "jpeg 2000": _saved("JPEG2000", "RGB"),
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


def _ingested(files: dict[str, bytes]) -> dict[str, dict[str, object]]:
    """The rows that ingest writes for a folder of these files, by address."""
    with tempfile.TemporaryDirectory() as place:
        for name, data in {"whole.png": FILES["png"], **files}.items():
            (Path(place) / name).write_bytes(data)
        work = Path(place) / ".work"
        work.mkdir()
        request = StageRequest(
            stage="ingest",
            node="ingest:mine",
            key="0" * 32,
            part={"source": {"name": "mine", "dataset": "folder"}, "fingerprint": "f"},
            context={"location": place, "workers": 1},
            work=work,
        )
        ingest.run(request, silent)
        rows = pq.read_table(work / "images.parquet").to_pylist()
    return {row["address"]: row for row in rows}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 32))
def test_any_header_value_ends_as_a_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    files = {f"{number}.png": mutated_header(FILES[name], rng) for number, name in enumerate(FILES)}
    rows = _ingested(files)
    assert set(rows) == {"whole.png", *files}
    assert rows["whole.png"]["status"] == "ok"


def test_headers_beyond_the_columns_are_rows_with_a_reason() -> None:
    bmp = bytearray(FILES["bmp"])
    bmp[18:26] = struct.pack("<iI", 1 << 30, 0x80000000)
    files = {
        "width.png": png_that_declares(0xFFFFFFFF, 4),
        "both.png": png_that_declares(0xFFFFFFFF, 0xFFFFFFFF),
        "cut.png": png_that_declares(0xFFFFFFFF, 4)[:-5],
        "height.bmp": bytes(bmp),
    }
    frames = {"frames.png": png_with_frames((1 << 31) + 1), "many.png": png_with_frames(1 << 31)}
    rows = _ingested({**files, **frames})
    # Above 2^31 frames Pillow reads the default image of an APNG.
    assert (rows["frames.png"]["status"], rows["frames.png"]["frames"]) == ("ok", 1)
    assert rows["many.png"]["status"] == "failed" and rows["many.png"]["frames"] is None
    assert {name: rows[name]["status"] for name in files} == dict.fromkeys(files, "failed")
    assert all(rows[name]["reason"] and rows[name]["width"] is None for name in files)
