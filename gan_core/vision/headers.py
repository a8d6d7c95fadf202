"""The header of an image file, and whether the file is complete, without decoding pixels.

Pillow reads size, mode, frames and orientation and verifies the checksums of a PNG. It does not
notice that a JPEG, a WebP or an uncompressed file ends too early (OpenCV then returns half an
image), so those checks are here.

Sources: JPEG ITU-T T.81 annex B; PNG third edition, section 5; WebP RFC 9649; Exif 2.32, tag
    0x0112.
"""

from __future__ import annotations

import re
import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from gan_core.vision.image_files import Header, UnreadableImage, sniff

# The classes are called directly: Image.open would try every plugin it has, some of which start
# other programs, and make another format of a JPEG file with several pictures.
_READERS: dict[str, type[ImageFile]] = {
    reader.format: reader
    for reader in (
        *(JpegImageFile, PngImageFile, WebPImageFile, GifImageFile, BmpImageFile, TiffImageFile),
        *(PpmImageFile, AvifImageFile, Jpeg2KImageFile),
    )
}
# What Pillow's plugins raise on broken files.
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, struct.error, EOFError, TypeError, OverflowError),
    *(LookupError, RuntimeError, zlib.error),
)
# The form that sources of raw pixels hand over: Pillow needs four times as long for it.
_PLAIN_PPM = re.compile(rb"P6[\n ]([1-9]\d{0,8})[\n ]([1-9]\d{0,8})[\n ]255\n")
# The form in which most programs write a PNG: 8-bit grey or RGB, not interlaced. Pillow needs three
# times as long for it, which is a quarter of the reading of a small image.
_PLAIN_PNG = re.compile(rb"\x89PNG\r\n\x1a\n\0\0\0\rIHDR(.{4})(.{4})\x08([\0\2])\0\0\0", re.DOTALL)
# Largest width, height and number of frames that a row can state (int32 columns).
MAX_DECLARED = (1 << 31) - 1


def probe(data: bytes) -> Header:
    """Reads an image's header and checks that the file is complete; decodes no pixels.

    A PNG, JPEG or WebP file that ends too early is found here, and so is an uncompressed BMP or
    TIFF file; the others are found when they are decoded.

    Args:
        data: the file's bytes.

    Raises:
        UnreadableImage: empty, not_an_image, truncated, damaged, too_large or unsupported.
    """
    if not data:
        raise UnreadableImage("empty", "the file has no bytes")
    form = sniff(data)
    if form is None:
        raise UnreadableImage(
            "not_an_image",
            f"its content is of no image format known here (it begins with {data[:8]!r})",
        )
    if form == "PPM" and (match := _PLAIN_PPM.match(data)):
        return _plain_ppm(data, match)
    if form == "PNG" and (plain := _plain_png(data)):
        return plain
    if form == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise UnreadableImage(
            "truncated", f"the WEBP file of {len(data)} bytes is shorter than it declares"
        )
    stream = BytesIO(data)
    try:
        image = open_lazily(stream, form)
        frames = int(getattr(image, "n_frames", 1))
        fault = _fault(image, stream, form, len(data))
        header = _header(image, form, frames)
    except Image.DecompressionBombError as error:  # WebP and GIF: Pillow's limit, not ours
        raise UnreadableImage(
            "too_large", f"the {form} file declares too many pixels ({words_of(error)})"
        ) from error
    except PILLOW_ERRORS as error:
        raise UnreadableImage(
            _code(error, stream, form), f"the {form} header cannot be read ({words_of(error)})"
        ) from error
    if max(header.width, header.height, header.frames) > MAX_DECLARED:
        raise UnreadableImage(
            "damaged",
            f"the header declares {header.width} x {header.height} pixels and {header.frames} "
            f"frames; no {form} file holds more than {MAX_DECLARED:,} of either",
        )
    if fault:
        raise UnreadableImage(*fault, header)
    return header


def open_lazily(stream: BytesIO, form: str) -> ImageFile:
    """Pillow's image of the given format, its pixels not yet read."""
    return _READERS[form](stream, "")


def words_of(error: BaseException) -> str:
    """An exception's text without what differs between runs (addresses of objects)."""
    text = re.sub(r"<[^>]*? object at 0x[0-9a-f]+>", "file", str(error))
    return text or type(error).__name__


def exif_orientation(block: bytes) -> int:
    """The orientation, 1 to 8, in an Exif block; 1 when it has none or is broken."""
    exif = Image.Exif()
    try:
        exif.load(block)
        orientation = exif.get(0x0112)
    except PILLOW_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _header(image: ImageFile, form: str, frames: int) -> Header:
    width, height = image.size
    # Pillow turns a TIFF upright by itself.
    block = image.info.get("exif") if form != "TIFF" else None
    orientation = exif_orientation(block) if block else 1
    if orientation >= 5:
        width, height = height, width
    tile = image.tile[0] if image.tile else None
    args = tile.args if tile else image.mode
    stored = str(args if isinstance(args, str) else args[0] if args else "")
    plain = stored in ("L", "RGB") and frames == 1 and "transparency" not in image.info
    return Header(
        form,
        width,
        height,
        f"{image.mode};16" if stored in ("RGB;16B", "RGBA;16B", "LA;16B") else image.mode,
        frames,
        orientation,
        plain and form in ("JPEG", "PNG", "WEBP"),
    )


def _fault(image: ImageFile, stream: BytesIO, form: str, size: int) -> tuple[str, str] | None:
    """Why a file whose header could be read is not complete: a code and a sentence."""
    if isinstance(image, PngImageFile):
        return _png_fault(image, stream, size)
    if form == "JPEG":
        # 0xFF is followed by 0 within the pixels' code. The search begins after the header because
        # an Exif thumbnail has an end marker of its own.
        if stream.getvalue().rfind(b"\xff\xd9", stream.tell()) < 0:
            return "truncated", f"the JPEG file of {size} bytes has no end marker"
    elif form in ("BMP", "TIFF"):
        needed = max((_raw_bytes(*tile) for tile in image.tile), default=0)
        if needed > size:
            return "truncated", f"the {form} file has {size} bytes, its pixels need {needed}"
    return None


def _png_fault(image: PngImageFile, stream: BytesIO, size: int) -> tuple[str, str] | None:
    """Verifies the chunks up to the end, and keeps an Exif block that follows the pixels."""
    if not image.tile or image.png is None:
        return "damaged", "the PNG file has no pixel chunk"
    start = image.tile[0].offset - 8
    stream.seek(start)
    try:
        kinds = image.png.verify()
    except PILLOW_ERRORS as error:
        return _code(error, stream, "PNG"), f"the PNG file is not complete ({words_of(error)})"
    if stream.tell() + 4 > size:
        return "truncated", f"the PNG file of {size} bytes ends within its last chunk"
    if b"eXIf" in kinds:
        data = stream.getvalue()
        image.info["exif"] = data[data.rfind(b"eXIf", start) + 4 :]
    return None


def _raw_bytes(codec: str, box: tuple[int, int, int, int] | None, offset: int, args: Any) -> int:
    """Bytes up to the last row of an uncompressed tile; 0 for another codec."""
    # The last row may lack its padding.
    return int(offset + (box[3] - box[1] - 1) * args[1] + 1) if codec == "raw" and box else 0


def _plain_ppm(data: bytes, match: re.Match[bytes]) -> Header:
    width, height = int(match[1]), int(match[2])
    header = Header("PPM", width, height, "RGB", plain=True, offset=match.end())
    if match.end() + width * height * 3 > len(data):
        raise UnreadableImage(
            "truncated",
            f"the PPM file has {len(data)} bytes, too few for {width} x {height} pixels",
            header,
        )
    return header


def _plain_png(data: bytes) -> Header | None:
    """The header of a whole PNG file of `_PLAIN_PNG` that has no chunks but IHDR, IDAT and IEND.

    None for every other file, faulty ones among them: Pillow reads those.
    """
    match = _PLAIN_PNG.match(data)
    if match is None:
        return None
    width, height = int.from_bytes(match[1]), int.from_bytes(match[2])
    kinds, at = [], 8
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        chunk = data[at + 4 : end]
        if zlib.crc32(chunk) != int.from_bytes(data[end : end + 4]):
            return None
        at = end + 4
        kinds.append(chunk[:4])
        if kinds[-1] == b"IEND":
            break
    if kinds[-1] != b"IEND" or set(kinds[1:-1]) != {b"IDAT"}:
        return None
    if not 0 < min(width, height) <= max(width, height) <= MAX_DECLARED:
        return None
    return Header("PNG", width, height, "RGB" if match[3] == b"\2" else "L", plain=True)


def _code(error: BaseException, stream: BytesIO, form: str) -> str:
    text = str(error).lower()
    if "truncat" in text or (
        form in ("JPEG", "PNG", "BMP") and stream.tell() >= len(stream.getbuffer())
    ):
        return "truncated"
    return "unsupported" if "not installed" in text or "cannot handle" in text else "damaged"
