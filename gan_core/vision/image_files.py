"""Image files before Pillow is needed: reading, recognising, and the error of an unusable one.

Listing a source imports this module and not Pillow.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import DataError


class UnreadableImage(DataError):
    """An image that cannot be used.

    Attributes:
        code: one word, the same for every image with this fault: empty, not_an_image, truncated,
            damaged, too_large, unsupported, unreadable.
        sentence: what was found, without paths or clocks, so that equal files give equal reasons.
        header: what the file declares, when that much could be read.
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
    """What an image file declares.

    Attributes:
        format: JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF or JPEG2000, by content and not by file
            name.
        width, height: pixels as displayed, after the Exif orientation.
        mode: Pillow's mode of the stored pixels (L, RGB, RGBA, P, CMYK, I;16, ...); 'RGB;16' for
            16 bits a channel.
        frames: images in the file.
        orientation: Exif orientation still to be applied, 1 (upright) to 8.
        plain: 8-bit grey or RGB, no transparency, one frame: OpenCV decodes it as Pillow would.
        offset: where the pixels of a plain PPM file begin, 0 in other formats.
    """

    format: str
    width: int
    height: int
    mode: str
    frames: int = 1
    orientation: int = 1
    plain: bool = False
    offset: int = 0

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


# Pillow's own signatures are weaker: "Python" would be a PPM file and "BM is a word" a bitmap.
_SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)"
    rb"|(?P<BMP>BM.{4}\0{4}.{4}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0{3})"
    rb"|(?P<TIFF>II[*+]\0|MM\0[*+])|(?P<WEBP>RIFF.{4}WEBP)|(?P<AVIF>.{4}ftypavi[fs])"
    rb"|(?P<JPEG2000>\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51)|(?P<PPM>P[1-6][\s#])",
    re.DOTALL,
)
MAGIC_BYTES = 32
# One file is read into memory whole; what is larger than this is no image.
MAX_FILE_BYTES = 1 << 30


def read_file(path: str | Path) -> bytes:
    """A file's bytes.

    Raises:
        UnreadableImage: unreadable, with the system's message and without the path, or too_large.
    """
    try:
        # Without a file object: for small images it costs more than the reading.
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size > MAX_FILE_BYTES:
                raise UnreadableImage(
                    "too_large",
                    f"the file has {size} bytes; no image is larger than {MAX_FILE_BYTES}",
                )
            return b"".join(iter(lambda: os.read(descriptor, size + 1), b""))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableImage("unreadable", error.strerror or type(error).__name__) from error


def sniff(data: bytes) -> str | None:
    """The format that the first `MAGIC_BYTES` of a file announce, or None when it is no image."""
    match = _SIGNATURE.match(data)
    return match and match.lastgroup


def begins_like_an_image(path: str | Path) -> bool:
    """Whether a file's first bytes are those of an image; False for what cannot be read."""
    try:
        with open(path, "rb") as file:
            return sniff(file.read(MAGIC_BYTES)) is not None
    except OSError:
        return False
