"""Pixels come out upright, RGB, 8-bit and whole, or not at all."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from gan_core.vision.decode import UnreadableImage, decode, decode_mask, turn_upright
from gan_core.vision.headers import probe
from tests.images import saved

ROOT = Path(__file__).resolve().parents[2]


def smooth(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def tiny_png(
    width: int, height: int, rows: bytes = b"\0" * 100, depth: int = 8, colour: int = 2
) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossless_formats_come_back_exactly(form: str, mode: str) -> None:
    image = smooth().convert(mode)
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(decode(saved(image, form, **options)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}, {"restart_marker_rows": 1}],
)
def test_jpeg_is_as_pillow_reads_it(options: dict[str, object]) -> None:
    data = saved(smooth(), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)
    assert np.abs(decode(data).astype(int) - expected).max() <= 2


def test_transparency_is_laid_on_white() -> None:
    image = smooth().convert("RGBA")
    alpha = np.zeros((30, 40), np.uint8)
    alpha[:, 10:20] = 128
    alpha[:, 20:] = 255
    image.putalpha(Image.fromarray(alpha))
    colours = np.asarray(image, dtype=float)
    expected = colours[..., :3] * colours[..., 3:] / 255 + 255 * (1 - colours[..., 3:] / 255)
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        got = decode(saved(image, form, **options))
        assert np.abs(got - expected).max() <= 1, form
        assert (got[:, :10] == 255).all()


def test_a_transparent_palette_and_a_transparent_colour_are_laid_on_white() -> None:
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    got = decode(saved(palette, "PNG", transparency=0))
    assert got.tolist() == [[[255, 255, 255], [200, 100, 50]], [[200, 100, 50], [255, 255, 255]]]
    marked = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    assert decode(saved(marked, "PNG", transparency=(1, 2, 3))).tolist() == [
        [[255, 255, 255], [9, 9, 9]]
    ]


def test_sixteen_bits_keep_their_high_byte() -> None:
    levels = np.arange(0, 65536, 37, dtype=np.uint16)[: 40 * 44].reshape(40, 44)
    for data in (saved(Image.fromarray(levels), "PNG"), saved(Image.fromarray(levels), "TIFF")):
        assert np.array_equal(
            decode(data), np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, 2)
        )
    colour = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    done, data = cv2.imencode(".png", colour[..., ::-1])
    assert done and np.array_equal(decode(data.tobytes()), (colour >> 8).astype(np.uint8))


def test_cmyk_is_near_the_colours_it_was_made_of() -> None:
    image = smooth()
    got = decode(saved(image.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(got.astype(int) - np.asarray(image).astype(int)).mean() < 4


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_counts(form: str) -> None:
    first, second = (
        Image.new("RGB", (12, 9), (200, 30, 40)),
        Image.new("RGB", (12, 9), (10, 220, 30)),
    )
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(first, form, save_all=True, append_images=[second], **options)
    assert probe(data).frames == 2
    assert np.abs(decode(data).astype(int) - np.array([200, 30, 40])).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "JPEG" else {}
    data = saved(smooth(), form, exif=exif.tobytes(), **options)
    expected = np.asarray(
        ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"), dtype=int
    )
    got = decode(data)
    assert got.shape == expected.shape and got.flags["C_CONTIGUOUS"]
    assert np.abs(got - expected).max() <= (2 if form == "JPEG" else 0)
    header = probe(data)
    assert (header.height, header.width) == got.shape[:2]


def test_turning_back_and_forth_changes_nothing() -> None:
    pixels = np.asarray(smooth())
    for there, back in ((2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (7, 7), (8, 6)):
        assert np.array_equal(turn_upright(turn_upright(pixels, there), back), pixels)


def bombs() -> dict[str, bytes]:
    vp8x = b"VP8X" + struct.pack("<IBBHHBHB", 10, 0, 0, 0, 0x3FFF, 0, 0x3FFF, 0)
    vp8x = (
        b"VP8X" + struct.pack("<I", 10) + bytes([0, 0, 0, 0]) + (49_999).to_bytes(3, "little") * 2
    )
    body = b"WEBP" + vp8x + b"VP8L" + struct.pack("<I", 5) + b"\x2f\0\0\0\0\0"
    return {
        "png": tiny_png(50_000, 50_000),
        "png of the largest size": tiny_png(2**31 - 1, 2**31 - 1),
        "webp": b"RIFF" + struct.pack("<I", len(body)) + body,
        "gif": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0,
        0) + b"," + bytes(4) + b"\xff" * 4 + b"\0\2\1\0\0;",
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0,
        0, 0, 0, 0) + b"\0" * 8,
        "ppm": b"P6\n50000 50000\n255\n" + b"\0" * 100,
        "pgm": b"P5\n50000 50000\n255\n" + b"\0" * 100,
        "jpeg": b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 50_000, 50_000, 1) + b"\1\x11\0"
        + b"\xff\xda" + struct.pack(">H", 8) + b"\1\1\0\0\x3f\0" + b"\0" * 40 + b"\xff\xd9",
    }  # fmt: skip


def test_a_huge_declared_image_is_refused_in_little_memory() -> None:
    """In a process that may not have more than a little: 50,000 x 50,000 pixels would need
    7.5 GB.
    """
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.unit.test_vision_decode import bombs, decode, UnreadableImage\n"
        "import PIL.Image; PIL.Image.init()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for name, data in bombs().items():\n"
        "    try: decode(data)\n"
        "    except UnreadableImage as error: print(name, error.reason, sep='|')\n"
        "    else: print(name, 'decoded', sep='|')\n"
        "print('grown', (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "
        "sep='|')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    result = dict(line.split("|") for line in done.stdout.strip().splitlines())
    assert int(result.pop("grown")) < 50
    assert set(result) == set(bombs())
    for name, reason in result.items():
        assert reason.startswith("truncated: " if name in ("ppm", "bmp") else "too_large: "), (
            name,
            reason,
        )
    assert (
        "50000 x 50000" in result["png"]
        and "2,500 megapixels" in result["png"]
        and "max_megapixels" in result["png"]
    )


def test_the_limit_is_a_setting() -> None:
    data = saved(smooth(200, 100), "PNG")
    assert decode(data, max_megapixels=0.02).shape == (100, 200, 3)
    with pytest.raises(UnreadableImage, match="too_large"):
        decode(data, max_megapixels=0.0199)


@pytest.mark.parametrize(
    ("size", "limit", "message"),
    [
        ((640, 427), 0.01, "0.3 megapixels; at most 0.01 are"),
        ((200, 100), 0.0199, "0.02 megapixels; at most 0.0199 are"),
    ],
)
def test_small_limits_are_reported_in_useful_figures(
    size: tuple[int, int], limit: float, message: str
) -> None:
    with pytest.raises(UnreadableImage, match=message):
        decode(tiny_png(*size), max_megapixels=limit)


def test_an_image_hardly_above_the_limit_is_reported_as_above_it() -> None:
    with pytest.raises(UnreadableImage, match=r"100\.01 megapixels; at most 100 are"):
        decode(tiny_png(10_001, 10_000))


@pytest.mark.parametrize(
    ("depth", "colour", "row"),
    [(8, 2, 193), (8, 0, 65), (8, 6, 257), (16, 0, 129), (1, 0, 9), (4, 0, 33)],
)
def test_fewer_rows_than_declared_are_no_image(depth: int, colour: int, row: int) -> None:
    """Right checksums and too few pixels: Pillow would return the rest black."""
    assert decode(tiny_png(64, 64, b"\0" * (row * 64), depth, colour)).shape == (64, 64, 3)
    for missing in (1, row * 40):
        with pytest.raises(UnreadableImage):
            decode(tiny_png(64, 64, b"\0" * (row * 64 - missing), depth, colour))


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (5, 4), (13, 8), (33, 17)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_an_odd_png_of_any_size_is_complete(size: tuple[int, int], mode: str) -> None:
    data = saved(smooth(*size).convert(mode), "PNG")
    assert decode(data).shape == (size[1], size[0], 3)


def test_an_interlaced_png_is_complete() -> None:
    """Seven passes of a 3 x 3 RGBA image by hand: 1, 0, 0, 1+1, 1, 1x2... rows as the standard's
    section 8 counts them.
    """
    passes = [(1, 1), (0, 0), (0, 0), (1, 1), (2, 1), (1, 2), (3, 1)]
    rows = b"".join((b"\0" + b"\x80\x40\x20\xff" * columns) * lines for columns, lines in passes)
    data = bytearray(tiny_png(3, 3, rows, 8, 6))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert (decode(bytes(data)) == np.array([0x80, 0x40, 0x20])).all()
    short = bytearray(tiny_png(3, 3, rows[:-1], 8, 6))
    short[28] = 1
    short[29:33] = struct.pack(">I", zlib.crc32(short[12:29]))
    with pytest.raises(UnreadableImage):
        decode(bytes(short))


def test_masks_keep_their_numbers() -> None:
    numbers = np.random.default_rng(0).integers(0, 12, (9, 7), dtype=np.uint8)
    grey = Image.fromarray(numbers)
    coloured = Image.fromarray(numbers, "P")
    coloured.putpalette(list(range(256)) * 3)
    assert np.array_equal(decode_mask(saved(grey, "PNG")), numbers)
    assert np.array_equal(decode_mask(saved(coloured, "PNG")), numbers)
    assert np.array_equal(
        decode_mask(saved(Image.fromarray(numbers.astype(np.uint16)), "PNG")), numbers
    )
    with pytest.raises(UnreadableImage, match="one number a pixel"):
        decode_mask(saved(smooth(), "PNG"))
    with pytest.raises(UnreadableImage, match="more than 255"):
        decode_mask(saved(Image.fromarray(np.full((3, 3), 300, np.uint16)), "PNG"))


@pytest.mark.parametrize(("highest", "shift"), [(255, 0), (4095, 4), (65535, 8)])
def test_16_bit_grey_keeps_the_bits_in_use(highest: int, shift: int) -> None:
    values = np.linspace(0, highest, 64).astype(np.uint16).reshape(8, 8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    pixels = decode(buffer.getvalue())
    assert np.array_equal(pixels[:, :, 0], values >> shift)
    assert len(np.unique(pixels)) == 64
