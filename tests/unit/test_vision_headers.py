"""Headers are read without pixels, and a file that is not whole is found out before anything is
decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from gan_core.vision import headers
from gan_core.vision.headers import exif_orientation, probe
from gan_core.vision.image_files import UnreadableImage, sniff
from tests.images import saved

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


CASES: dict[str, tuple[Callable[[], bytes], tuple[str, int, int, str, int, bool]]] = {
    "jpeg": (lambda: saved(IMAGE, "JPEG"), ("JPEG", 34, 21, "RGB", 1, True)),
    "progressive jpeg": (
        lambda: saved(IMAGE, "JPEG", progressive=True),
        ("JPEG", 34, 21, "RGB", 1, True),
    ),
    "grey jpeg": (lambda: saved(IMAGE.convert("L"), "JPEG"), ("JPEG", 34, 21, "L", 1, True)),
    "cmyk jpeg": (
        lambda: saved(IMAGE.convert("CMYK"), "JPEG"),
        ("JPEG", 34, 21, "CMYK", 1, False),
    ),
    "turned jpeg": (lambda: saved(IMAGE, "JPEG", exif=exif(6)), ("JPEG", 21, 34, "RGB", 1, True)),
    "png": (lambda: saved(IMAGE, "PNG"), ("PNG", 34, 21, "RGB", 1, True)),
    "grey png": (lambda: saved(IMAGE.convert("L"), "PNG"), ("PNG", 34, 21, "L", 1, True)),
    "alpha png": (lambda: saved(IMAGE.convert("RGBA"), "PNG"), ("PNG", 34, 21, "RGBA", 1, False)),
    "palette png": (lambda: saved(IMAGE.convert("P"), "PNG"), ("PNG", 34, 21, "P", 1, False)),
    "black and white png": (
        lambda: saved(IMAGE.convert("1"), "PNG"),
        ("PNG", 34, 21, "1", 1, False),
    ),
    "turned png": (lambda: saved(IMAGE, "PNG", exif=exif(8)), ("PNG", 21, 34, "RGB", 1, True)),
    "16-bit png": (
        lambda: saved(Image.fromarray(np.arange(714, dtype=np.uint16).reshape(21, 34)), "PNG"),
        ("PNG", 34, 21, "I;16", 1, False),
    ),
    "animated png": (
        lambda: saved(IMAGE, "PNG", save_all=True, append_images=[IMAGE.rotate(90)]),
        ("PNG", 34, 21, "RGB", 2, False),
    ),
    "webp": (lambda: saved(IMAGE, "WEBP"), ("WEBP", 34, 21, "RGB", 1, True)),
    "lossless webp": (
        lambda: saved(IMAGE, "WEBP", lossless=True),
        ("WEBP", 34, 21, "RGB", 1, True),
    ),
    "alpha webp": (lambda: saved(half_transparent(), "WEBP"), ("WEBP", 34, 21, "RGBA", 1, False)),
    "turned webp": (lambda: saved(IMAGE, "WEBP", exif=exif(5)), ("WEBP", 21, 34, "RGB", 1, True)),
    "animated webp": (
        lambda: saved(IMAGE, "WEBP", save_all=True, append_images=[IMAGE.rotate(90)]),
        ("WEBP", 34, 21, "RGB", 2, False),
    ),
    "gif": (lambda: saved(IMAGE, "GIF"), ("GIF", 34, 21, "P", 1, False)),
    "animated gif": (
        lambda: saved(IMAGE, "GIF", save_all=True, append_images=[IMAGE.rotate(90)]),
        ("GIF", 34, 21, "P", 2, False),
    ),
    "bmp": (lambda: saved(IMAGE, "BMP"), ("BMP", 34, 21, "RGB", 1, False)),
    "tiff": (lambda: saved(IMAGE, "TIFF"), ("TIFF", 34, 21, "RGB", 1, False)),
    "ppm": (lambda: saved(IMAGE, "PPM"), ("PPM", 34, 21, "RGB", 1, True)),
    "pgm": (lambda: saved(IMAGE.convert("L"), "PPM"), ("PPM", 34, 21, "L", 1, False)),
}


def half_transparent() -> Image.Image:
    image = IMAGE.convert("RGBA")
    image.putalpha(128)
    return image


@pytest.mark.parametrize("name", CASES)
def test_a_header_says_what_was_saved(name: str) -> None:
    make, (form, width, height, mode, frames, plain) = CASES[name]
    header = probe(make())
    assert (header.format, header.width, header.height, header.frames, header.plain) == (
        form,
        width,
        height,
        frames,
        plain,
    )
    if name != "animated webp":  # an animation's canvas is RGBA whatever its frames are
        assert header.mode == mode


def test_a_plain_png_has_the_header_that_pillow_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [make() for make, result in CASES.values() if result[0] == "PNG"]
    ours = [probe(file) for file in files]
    assert [headers._plain_png(file) is not None for file in files].count(True) == 2  # RGB, grey
    monkeypatch.setattr(headers, "_plain_png", lambda data: None)
    assert ours == [probe(file) for file in files]


@pytest.mark.parametrize(
    "name", [name for name, (_, result) in CASES.items() if result[0] in ("JPEG", "PNG", "WEBP")]
)
def test_every_cut_is_found_in_the_common_formats(name: str) -> None:
    data = CASES[name][0]()
    for length in range(len(data)):
        with pytest.raises(UnreadableImage) as caught:
            probe(data[:length])
        assert caught.value.code in ("empty", "not_an_image", "truncated", "damaged"), (
            length,
            caught.value,
        )


def test_the_end_mark_of_a_thumbnail_is_not_the_images() -> None:
    """A cut JPEG with an Exif thumbnail holds an end mark all the same."""
    thumbnail = saved(IMAGE.resize((8, 8)), "JPEG")
    whole = saved(IMAGE, "JPEG")
    segment = b"Exif\0\0" + thumbnail
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]
    assert probe(data).width == 34
    assert b"\xff\xd9" in data[:-100]
    with pytest.raises(UnreadableImage, match="truncated"):
        probe(data[:-100])


def test_what_follows_the_end_mark_does_no_harm() -> None:
    assert probe(saved(IMAGE, "JPEG") + b"a film that a telephone appended" * 10).width == 34
    assert probe(saved(IMAGE, "PNG") + b"more").width == 34


def test_a_wrong_checksum_is_found() -> None:
    data = bytearray(saved(IMAGE, "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(UnreadableImage, match="damaged: .*checksum in b'IDAT'"):
        probe(bytes(data))


def test_a_wrong_checksum_of_a_comment_is_found_as_pillow_finds_it() -> None:
    data = saved(IMAGE, "PNG")
    end = data.index(b"IEND") - 4
    comment = bytearray(chunk(b"tEXt", b"key\0value"))
    comment[-1] ^= 1
    with pytest.raises(UnreadableImage, match="damaged: .*checksum in b'tEXt'"):
        probe(data[:end] + bytes(comment) + data[end:])


def test_an_exif_block_after_the_pixels_counts() -> None:
    data = saved(IMAGE, "PNG")
    end = data.index(b"IEND") - 4
    header = probe(data[:end] + chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0")) + data[end:])
    assert (header.width, header.height, header.orientation) == (21, 34, 6)


def test_a_jpeg_file_with_several_pictures_is_a_jpeg_file() -> None:
    """Pillow's Image.open makes the format MPO of it, with two frames."""
    data = saved(IMAGE, "MPO", save_all=True, append_images=[IMAGE.rotate(90)])
    assert (probe(data).format, probe(data).frames, probe(data).plain) == ("JPEG", 1, True)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>not found</html>", "not_an_image"),
        (b"BM is how this sentence begins, and it is no bitmap.", "not_an_image"),
        (b"P5 is a name", "damaged"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\xff\xd8\xff\xd9", "truncated"),
        (b"\xff\xd8\xff\xe0\0\2\xff\xd9\0\0", "truncated"),
        (b"RIFF\x04\0\0\0WEBP", "damaged"),
        (b"GIF89a", "damaged"),
        (b"II*\0", "damaged"),
        (b"%PDF-1.7", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    ],
)
def test_what_is_no_image_is_called_so(data: bytes, code: str) -> None:
    with pytest.raises(UnreadableImage) as caught:
        probe(data)
    assert caught.value.code == code


def test_a_failed_file_still_tells_its_size() -> None:
    with pytest.raises(UnreadableImage) as caught:
        probe(saved(IMAGE, "JPEG")[:-2])
    assert caught.value.header is not None and (
        caught.value.header.width,
        caught.value.header.height,
    ) == (34, 21)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_in_both_byte_orders(orientation: int, order: str) -> None:
    mark = b"II" if order == "<" else b"MM"
    entries = [(0x010F, 2, 4, 0), (0x0112, 3, 1, orientation)]
    block = mark + struct.pack(order + "HIH", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        block += struct.pack(order + "HHIHH", tag, kind, count, value, 0)
    assert exif_orientation(block) == orientation


def test_a_broken_exif_block_is_upright() -> None:
    assert (
        exif_orientation(b"")
        == exif_orientation(b"II*\0\xff\xff\xff\xff")
        == exif_orientation(b"XX*\0")
        == 1
    )
    assert exif_orientation(exif(6)[6:][:12]) == 1


def test_reasons_are_the_same_each_time() -> None:
    """Reasons are content: an object's address in one would change the digest of equal data."""
    for data in (b"GIF89a" + b"\0" * 4, saved(IMAGE, "TIFF")[:40], saved(IMAGE, "BMP")[:20]):
        texts = set()
        for _ in range(3):
            with pytest.raises(UnreadableImage) as caught:
                probe(bytes(bytearray(data)))
            texts.add(caught.value.reason)
        assert len(texts) == 1 and "0x" not in texts.pop()


def test_sniffing_needs_few_bytes() -> None:
    for name, (make, result) in CASES.items():
        assert sniff(make()[:32]) == result[0], name
