"""What a source of images can do, and what the kinds of sources share.

A module in this folder offers `ABOUT` (a sentence), `open_source(config, location) -> Source`, and,
where its data can be downloaded, `fetch(target, progress)`. Optional: `TITLE`, `VERSION`,
`class Options(Section)` (`options` of a source, in `config.options`), and `NEEDS_LOCATION = False`
where the data come with a package. The planner opens a source and lists its stamps on every
command, so importing these modules and listing must stay cheap: no numpy, pyarrow, OpenCV or torch
before contents are read.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gan_core.config import SourceConfig
from gan_core.errors import RequestError, nearest
from gan_core.vision.image_files import (
    MAGIC_BYTES,
    UnreadableImage,
    begins_like_an_image,
    read_file,
    sniff,
)

# Lists longer than this do not travel as attributes (a landmark list does, an embedding does not).
MAX_ATTRIBUTE_VALUES = 64
MAX_ATTRIBUTE_TEXT = 1000

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


class Stamp(NamedTuple):
    """What tells whether a file has changed, without reading it.

    Attributes:
        address: POSIX path relative to the source's root.
        bytes: its size.
        mtime_ns: its modification time in nanoseconds; 0 for what comes with an installed package.
        tag: what stands in for the time where there is none (a hash of the content, an ETag).
    """

    address: str
    bytes: int
    mtime_ns: int
    tag: str = ""


class Entry(NamedTuple):
    """One image of a source, as far as is known without reading it.

    Attributes:
        address: the file it lies in.
        member: '' when the file is the image; else its row number or its name within the file.
        label: class number, None when there is none.
        label_name: class name; a name without a number is numbered later, by sorted names.
        split: train, validation, test, or '' when the publisher names none.
        attributes: whatever else the source says of it: JSON values.
        certain: False for a file that is a row only if its content turns out to be an image.
        problem: why it can never be read ('unreadable: ...'), or ''.
    """

    address: str
    member: str = ""
    label: int | None = None
    label_name: str = ""
    split: str = ""
    attributes: Mapping[str, Any] = {}
    certain: bool = True
    problem: str = ""


@dataclass(slots=True)
class Blob:
    """The bytes of one image, in memory or still to be read from a file of their own."""

    address: str
    member: str = ""
    data: bytes | None = None
    path: str | Path | None = None
    mask: bytes | None = None
    mask_path: str | Path | None = None
    problem: str = ""

    def read(self) -> bytes:
        """The image's bytes.

        Raises:
            UnreadableImage: unreadable.
        """
        if self.problem:
            code, _, sentence = self.problem.partition(": ")
            raise UnreadableImage(code, sentence)
        if self.data is not None:
            return self.data
        if self.path is None:
            raise UnreadableImage("unreadable", "the source has no bytes for this row")
        return read_file(self.path)

    def is_image(self) -> bool:
        """Whether the bytes begin like an image; what cannot be read is none."""
        if self.data is not None or self.path is None:
            return self.data is not None and sniff(self.data[:MAGIC_BYTES]) is not None
        return begins_like_an_image(self.path)

    def read_mask(self) -> bytes | None:
        """The mask's bytes, None when this image has none.

        Raises:
            UnreadableImage: unreadable.
        """
        if self.mask is None and self.mask_path is not None:
            return read_file(self.mask_path)
        return self.mask


class Source(Protocol):
    """A set of images at one address.

    Attributes:
        ignored: files at the address that are none of the source's, by reason; filled by `stamps`.
        warnings: sentences that a person should read; filled by `stamps` and `entries`.
    """

    ignored: dict[str, int]
    warnings: list[str]

    @property
    def has_masks(self) -> bool:
        """Whether images come with segmentation masks."""

    def stamps(self) -> list[Stamp]:
        """The source's files in order of address, without reading their contents."""

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        """The images of one file in order, without their bytes. A file that cannot be read is one
        entry with a problem.
        """

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        """The bytes of (address, member) pairs, in the order asked.

        Requests should stand in the order of `stamps` and `entries`: then every file is opened once
        and read forwards.
        """


def fingerprint(stamps: Iterable[Stamp]) -> str:
    """64 hex digits that change when a file of the source is added, removed, resized or touched."""
    sha = hashlib.sha256()
    for stamp in sorted(stamps, key=lambda stamp: stamp.address):
        sha.update(f"{stamp.address}\0{stamp.bytes}\0{stamp.mtime_ns}\0{stamp.tag}\n".encode())
    return sha.hexdigest()


def split_of(word: str) -> str:
    """train, validation or test for the words that publishers use ('val', 'dev', 'Testing', ...),
    '' for any other.
    """
    return _SPLIT_WORDS.get(word.strip().lower(), "")


def safe_text(name: str) -> str:
    """A file name as text that can be written anywhere: bytes that are no UTF-8 become \\xNN."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def existing(config: SourceConfig, location: Path | None) -> Path:
    """The location, which must be there.

    Raises:
        RequestError: none was given, or nothing is there; the nearest name in its folder is
        suggested.
    """
    if location is None:
        raise RequestError(
            f"The source {config.name!r} (dataset {config.dataset!r}) needs the place of its data.",
            expected=config.layout or "a path",
            remedy="add --data PATH",
        )
    if not os.path.lexists(location):
        raise RequestError(
            f"There is nothing at {str(location)!r}, where the source {config.name!r} was looked "
            "for" + did_you_mean(location),
            expected=config.layout or f"the data of a {config.dataset!r} source",
            remedy="correct --data (or sources.*.folder below it)",
        )
    return location


def did_you_mean(wanted: Path) -> str:
    """The end of a sentence about a path that does not exist: the one that is most like it."""
    parent = wanted.absolute()
    while not parent.exists() and parent != parent.parent:
        wanted, parent = parent, parent.parent
    try:
        near = nearest(
            wanted.name, [name for name in os.listdir(parent) if not name.startswith(".")]
        )
    except OSError:
        near = None
    return f"; did you mean {str(parent / near)!r}?" if near else "."


def nothing_found(
    config: SourceConfig, location: Path, what: str, ignored: Mapping[str, int], remedy: str = ""
) -> RequestError:
    """The error for a location that holds nothing of the source's kind."""
    seen = ", ".join(f"{count} {reason}" for reason, count in sorted(ignored.items()))
    return RequestError(
        f"There are no {what} in {str(location)!r}"
        + (f" (found there: {seen})." if seen else "; it is empty."),
        expected=config.layout
        or f"{what} for the source {config.name!r} (dataset {config.dataset!r})",
        remedy=remedy
        or "correct --data, or name another kind of source as `dataset` (`discern list datasets`)",
    )


def json_value(value: Any) -> Any:
    """A value as JSON can hold it, or `...` (Ellipsis) for what does not travel: bytes, long texts,
    long lists.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return value if len(value) <= MAX_ATTRIBUTE_TEXT else ...
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)) and len(value) <= MAX_ATTRIBUTE_VALUES:
        items = [json_value(item) for item in value]
        return ... if ... in items else items
    if isinstance(value, Mapping):
        pairs = {str(key): json_value(item) for key, item in value.items()}
        return ... if ... in pairs.values() else pairs
    return value.isoformat() if hasattr(value, "isoformat") else ...


def ppm(width: int, height: int, rgb: bytes) -> bytes:
    """Raw pixels as a P6 file: how sources of bare arrays hand over an image, lossless and equal on
    every machine.

    Args:
        rgb: width * height * 3 bytes, row by row.
    """
    return b"P6\n%d %d\n255\n" % (width, height) + rgb
