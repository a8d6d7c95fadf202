"""What an image file says of itself, read without decoding one pixel.

JPEG, PNG and WebP are walked here, piece by piece: that is fast, finds files that end too early or
whose checksums are wrong (OpenCV returns half an image for those, silently), and allocates nothing
for an image that declares 50,000 x 50,000 pixels. The rarer formats go through Pillow's lazy
headers.

Sources: JPEG ITU-T T.81 annex B; PNG third edition, section 5; WebP RFC 9649; Exif 2.32, tag
    0x0112.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.errors import DataError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


class UnreadableImage(DataError):
    """An image that cannot be used.

    Attributes:
        code: one word, the same for every image with this trouble: empty, not_an_image, truncated,
            damaged, too_large, unsupported, unreadable.
        sentence: what was found, without paths or clocks, so that equal files give equal reasons.
        header: what the file says of itself, when that much could be read.
    """

    def __init__(self, code: str, sentence: str, header: Header | None = None) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.header = header

    def __reduce__(self) -> tuple[object, ...]:
        return (UnreadableImage, (self.code, self.sentence, self.header))

    @property
    def reason(self) -> str:
        """The text for the column `reason`."""
        return f"{self.code}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Header:
    """An image's own description.

    Attributes:
        format: JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF or JPEG2000, by content and not by file
            name.
        width, height: pixels as displayed, after the Exif orientation.
        mode: Pillow's word for the stored pixels (L, RGB, RGBA, P, CMYK, I;16, ...); 'RGB;16' for
            16 bits a channel.
        frames: images in the file.
        orientation: Exif orientation still to be applied, 1 (upright) to 8.
        plain: 8-bit grey or RGB, no transparency, one frame: OpenCV reads it as it is meant.
    """

    format: str
    width: int
    height: int
    mode: str
    frames: int = 1
    orientation: int = 1
    plain: bool = False

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_PNM = re.compile(rb"P[1-6][\s#]")
MAGIC_BYTES = 32
# One file is read into memory whole; what is larger than this is no image.
MAX_FILE_BYTES = 1 << 30
# Largest width, height and number of frames that a row can state (int32 columns).
MAX_DECLARED = (1 << 31) - 1


def read_file(path: str | Path) -> bytes:
    """A file's bytes.

    Raises:
        UnreadableImage: unreadable, with the system's words and without the path, or too_large.
    """
    try:
        # Without a buffered file object: for small images that object costs more than the reading.
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise UnreadableImage(
                    "too_large",
                    f"the file has {size} bytes; no image is larger than {MAX_FILE_BYTES}",
                )
            return file.read()
    except OSError as error:
        raise UnreadableImage("unreadable", error.strerror or type(error).__name__) from error


def sniff(data: bytes) -> str | None:
    """The format that the first `MAGIC_BYTES` of a file announce, or None when it is no image."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            # Two letters are little to go by: a bitmap's reserved words are zero and its header is
            # one of few sizes.
            return (
                None
                if name == "BMP" and (data[6:10] != b"\0\0\0\0" or data[14:18] not in _BMP_HEADERS)
                else name
            )
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return "PPM" if _PNM.match(data) else None


_BMP_HEADERS = {struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124)}


def begins_like_an_image(path: str | Path) -> bool:
    """Whether a file's first bytes are those of an image; what cannot be read is none."""
    try:
        with open(path, "rb") as file:
            return sniff(file.read(MAGIC_BYTES)) is not None
    except OSError:
        return False


def probe(data: bytes) -> Header:
    """Reads an image's header and checks that the file is whole, decoding nothing.

    Args:
        data: the file's bytes.

    Raises:
        UnreadableImage: empty, not_an_image, truncated or damaged.
    """
    if not data:
        raise UnreadableImage("empty", "the file has no bytes")
    form = sniff(data[:MAGIC_BYTES])
    if form is None:
        raise UnreadableImage(
            "not_an_image",
            f"its content is of no image format known here (it begins with {data[:8]!r})",
        )
    try:
        header = _PARSERS.get(form, _other)(data)
    except (struct.error, IndexError) as error:
        raise UnreadableImage("truncated", f"the {form} file ends within its header") from error
    except UnreadableImage as error:
        if error.header is not None and max(_declared(error.header)) > MAX_DECLARED:
            raise UnreadableImage(error.code, error.sentence) from error
        raise
    if max(_declared(header)) > MAX_DECLARED:
        raise UnreadableImage(
            "damaged",
            f"the header declares {header.width} x {header.height} pixels and {header.frames} "
            f"frames; no {form} file holds more than {MAX_DECLARED:,} of either",
        )
    if header.width < 1 or header.height < 1:
        raise UnreadableImage(
            "damaged", f"the header declares {header.width} x {header.height} pixels", header
        )
    return header


def _declared(header: Header) -> tuple[int, int, int]:
    return header.width, header.height, header.frames


def _upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation >= 5 else (width, height)


def exif_orientation(block: bytes) -> int:
    """The orientation, 1 to 8, in an Exif block (which begins with 'II' or 'MM'); 1 when there is
    none or it is broken.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, offset)
        for index in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, offset + 2 + 12 * index)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_JPEG_BARE = {0x00, 0x01, 0xD8, *range(0xD0, 0xD8)}


def _jpeg(data: bytes) -> Header:
    at, orientation = 2, 1
    frame: tuple[int, int, int, int] | None = None
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            raise UnreadableImage("truncated", "the JPEG file ends before its first pixel")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _JPEG_BARE:
            at += 2
            continue
        if marker == 0xD9:
            raise UnreadableImage(
                "damaged", "the JPEG file says that it ends before its first pixel"
            )
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _JPEG_FRAMES:
            frame = struct.unpack_from(">BHHB", data, at + 4)
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[at + 10 : at + 2 + length])
        at += 2 + max(length, 2)
        if marker == 0xDA:
            break
    if frame is None:
        raise UnreadableImage("damaged", "the JPEG file has pixels and no frame header")
    bits, height, width, channels = frame
    mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(channels, f"{channels} channels")
    header = Header(
        "JPEG",
        *_upright(width, height, orientation),
        mode,
        1,
        orientation,
        bits == 8 and channels in (1, 3),
    )
    # The end mark cannot stand within the pixels' own code (there 0xFF is followed by 0), and the
    # search begins after the
    # header because an Exif thumbnail has an end mark of its own.
    if data.rfind(b"\xff\xd9", at) < 0:
        raise UnreadableImage(
            "truncated", f"the JPEG file of {len(data)} bytes has no end mark", header
        )
    return header


def _png(data: bytes) -> Header:
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    at, orientation, frames, transparent, pixels = 8, 1, 1, False, False
    mode = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}.get(colour, f"colour type {colour}")
    if depth == 16:
        mode = "I;16" if colour == 0 else f"{mode};16"
    elif depth == 1 and colour == 0:
        mode = "1"
    view = memoryview(data)
    trouble: tuple[str, str] | None = None
    while True:
        if at + 12 > len(data):
            trouble = ("truncated", f"the PNG file of {len(data)} bytes has no end chunk")
            break
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            trouble = (
                "truncated",
                f"the PNG file ends within its {kind.decode('latin-1')!r} chunk",
            )
            break
        critical = not kind[0] & 0x20
        if (
            critical
            and zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]
        ):
            trouble = ("damaged", f"the checksum of a {kind.decode('latin-1')!r} chunk is wrong")
            break
        if kind == b"IDAT":
            pixels = True
        elif kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : end - 4])
        elif kind == b"tRNS":
            transparent = True
        elif kind == b"acTL":
            frames = max(1, struct.unpack_from(">I", data, at + 8)[0])
        elif kind == b"IEND":
            break
        at = end
    plain = depth == 8 and colour in (0, 2) and not transparent and frames == 1
    header = Header("PNG", *_upright(width, height, orientation), mode, frames, orientation, plain)
    if trouble is None and not pixels:
        trouble = ("damaged", "the PNG file has no pixel chunk")
    if trouble:
        raise UnreadableImage(*trouble, header)
    return header


# Where each of the seven passes of an interlaced PNG begins and how far apart its pixels are (PNG
# third edition, section 8).
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def png_is_full(data: bytes) -> bool:
    """Whether a PNG file that `probe` accepts holds all the rows it declares; unpacks them in
    blocks, keeping none.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _SAMPLES.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    wanted = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        wanted += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    unpacker = zlib.decompressobj()
    at, got = 8, 0
    try:
        while got < wanted and at + 12 <= len(data):
            (length,) = struct.unpack_from(">I", data, at)
            packed = data[at + 8 : at + 8 + length] if data[at + 4 : at + 8] == b"IDAT" else b""
            while packed and got < wanted:
                got += len(unpacker.decompress(packed, 1 << 20))
                packed = unpacker.unconsumed_tail
            at += 12 + length
        while got < wanted and (more := unpacker.decompress(unpacker.unconsumed_tail, 1 << 20)):
            got += len(more)
    except zlib.error:
        return False
    return got >= wanted


def _webp(data: bytes) -> Header:
    (declared,) = struct.unpack_from("<I", data, 4)
    kind, body = data[12:16], 20
    alpha, frames, orientation = False, 1, 1
    if kind == b"VP8 ":
        if data[body + 3 : body + 6] != b"\x9d\x01\x2a":
            raise UnreadableImage("damaged", "the WebP file does not begin with a key frame")
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, body + 6))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, body + 1)
        width, height, alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    elif kind == b"VP8X":
        flags, low_width, high_width, low_height, high_height = struct.unpack_from(
            "<B3xHBHB", data, body
        )
        width, height = (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1
        alpha = bool(flags & 0x10)
        frames, orientation = _webp_chunks(data, animated=bool(flags & 0x02))
    else:
        raise UnreadableImage("damaged", f"the WebP file begins with an unknown chunk {kind!r}")
    plain = not alpha and frames == 1
    header = Header(
        "WEBP",
        *_upright(width, height, orientation),
        "RGBA" if alpha else "RGB",
        frames,
        orientation,
        plain,
    )
    if declared + 8 > len(data):
        raise UnreadableImage(
            "truncated", f"the WebP file declares {declared + 8} bytes and has {len(data)}", header
        )
    return header


def _webp_chunks(data: bytes, *, animated: bool) -> tuple[int, int]:
    """Frames and orientation of an extended WebP file."""
    at, frames, orientation = 12, 0, 1
    while at + 8 <= len(data):
        kind, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        if kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            block = data[at + 8 : at + 8 + length]
            orientation = exif_orientation(block.removeprefix(b"Exif\0\0"))
        at += 8 + length + (length & 1)
    return (max(1, frames) if animated else 1), orientation


_PLAIN_PPM = re.compile(rb"P6[\n ](\d{1,9})[\n ](\d{1,9})[\n ]255\n")


def _ppm(data: bytes) -> Header:
    """The one form that this project writes itself for sources of raw pixels; everything else goes
    to Pillow.
    """
    match = _PLAIN_PPM.match(data)
    if match is None:
        return _other(data)
    width, height = int(match[1]), int(match[2])
    header = Header("PPM", width, height, "RGB", plain=True)
    if len(data) - match.end() < width * height * 3:
        raise UnreadableImage(
            "truncated",
            f"the PPM file has {len(data)} bytes, too few for {width} x {height} pixels",
            header,
        )
    return header


def ppm_pixels_at(data: bytes) -> int:
    """Where the pixels of a plain P6 file begin, or 0 when it is another form."""
    match = _PLAIN_PPM.match(data)
    return match.end() if match else 0


# What Pillow's plugins are seen to raise on broken files.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    EOFError,
    TypeError,
    OverflowError,
    LookupError,
    RuntimeError,
    zlib.error,
)


def open_lazily(data: bytes, form: str) -> ImageFile:
    """Pillow's image of the given format, pixels not yet read.

    The plugin is called directly: Image.open would try every plugin it knows, some of which start
    other programs, and its own size limit is a global of another library. The limit here is
    `max_megapixels`, tested before any pixel is allocated.
    """
    from PIL import Image

    if form not in Image.OPEN:
        Image.init()
    if form not in Image.OPEN:
        raise UnreadableImage("unsupported", f"this installation of Pillow reads no {form}")
    factory, _ = Image.OPEN[form]
    return factory(io.BytesIO(data), "")


def _other(data: bytes) -> Header:
    from PIL import Image

    form = sniff(data[:MAGIC_BYTES]) or ""
    try:
        image = open_lazily(data, form)
        width, height = image.size
        orientation = int(image.getexif().get(0x0112, 1)) if form == "AVIF" else 1
        frames = int(getattr(image, "n_frames", 1))
    except (
        Image.DecompressionBombError
    ) as error:  # GIF's plugin looks at a limit of its own when it opens a file
        raise UnreadableImage(
            "too_large", f"the {form} file declares too many pixels ({words_of(error)})"
        ) from error
    except PILLOW_ERRORS as error:
        raise UnreadableImage(
            "damaged", f"the {form} header cannot be read ({words_of(error)})"
        ) from error
    return Header(
        form,
        *_upright(width, height, orientation),
        image.mode,
        frames,
        orientation if 1 <= orientation <= 8 else 1,
    )


def words_of(error: BaseException) -> str:
    """An exception's text without what differs between runs (addresses of objects)."""
    text = re.sub(r"<[^>]*? object at 0x[0-9a-f]+>", "file", str(error))
    return text or type(error).__name__


_PARSERS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "PPM": _ppm,
}
