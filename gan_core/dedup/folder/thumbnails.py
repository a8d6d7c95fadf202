"""Thumbnails of many image files, made by several processes.

A small image is read and decoded in some 60 microseconds, many of them under Python's lock: on a
folder of them threads gain nothing and processes do. Each process takes blocks of files from a
pipe, writes into memory that all of them see, and says when a block is done; the blocks of one that
died are read again. Reads files; touches nothing else.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gan_core.dedup.hashing import SIDE
from gan_core.files import source_root
from gan_core.vision.decode import decode_noting
from gan_core.vision.geometry import resize
from gan_core.vision.image_files import MAGIC_BYTES, UnreadableImage, read_file, sniff

log = logging.getLogger(__name__)

# numbers kept of each image: width, height, bytes, 1 for an image with transparent parts, pixels
# without a plain border
FACTS = 5
# Below this starting a process (a third of a second) costs as much as it saves.
MANY = 4_000
BORDERED = 64  # pixels of the smaller side from which a plain border is left out
_PLAIN = 8  # grey levels that a plain border may vary, for the noise of JPEG
_RINGING = 4  # pixels next to a plain border that JPEG has mixed with it
# The numbers of all blocks are in the pipe before the first read: they must fit its smallest
# capacity, one page.
_BLOCKS = 1_000
_SMALLEST_BLOCK = 64


class File(NamedTuple):
    """A file to read.

    Attributes:
        path: where it lies.
        certain: False for one that counts only if its content turns out to be an image.
        problem: why it is not to be opened, or ''.
    """

    path: str
    certain: bool = True
    problem: str = ""


def thumbnail(
    data: bytes, max_megapixels: float
) -> tuple[npt.NDArray[np.uint8], tuple[int, int, int, int, int]]:
    """An image without its plain border, squashed to uint8 [32, 32, 3] RGB, and its facts (FACTS).

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    image, transparent = decode_noting(data, max_megapixels)
    content = trim_border(image)
    return resize(content, SIDE, SIDE), (
        image.shape[1],
        image.shape[0],
        len(data),
        int(transparent),
        content.shape[0] * content.shape[1],
    )


def trim_border(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """An image without the rows and columns of one colour at its edges (padding).

    As it is when its smaller side has less than `BORDERED` pixels, or when less than half of the
    width or height would remain: then the plain part is the image.
    """
    if min(image.shape[:2]) < BORDERED:
        return image
    ends = []
    for lines in (image, image.transpose(1, 0, 2)):
        for side in (lines, lines[::-1]):
            colour, plain = side[0, 0].astype(np.int16), 0
            while plain < len(side) // 2 and np.abs(side[plain] - colour).max() <= _PLAIN:
                plain += 1
            ends.append(plain + _RINGING * (plain > _RINGING))
    top, bottom, left, right = ends
    height, width = image.shape[:2]
    if 2 * (top + bottom) >= height or 2 * (left + right) >= width:
        return image
    return image[top : height - bottom, left : width - right]


def is_image(path: str | Path) -> bool:
    """Whether a file's first bytes are those of an image.

    Raises:
        UnreadableImage: unreadable, content unknown.
    """
    try:
        with open(path, "rb") as file:
            return sniff(file.read(MAGIC_BYTES)) is not None
    except OSError as error:
        raise UnreadableImage("unreadable", error.strerror or type(error).__name__) from error


class Shared:
    """An array in memory that several processes see.

    Attributes:
        array: zeros at first.
        descriptor: the open file behind it, to be handed to another process; closed by `close`, the
            array stays.
    """

    def __init__(self, descriptor: int, shape: tuple[int, ...], dtype: type[Any]) -> None:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.descriptor = descriptor
        self.array: npt.NDArray[Any] = np.frombuffer(
            mmap.mmap(descriptor, max(size, 1)), dtype, math.prod(shape)
        ).reshape(shape)

    @classmethod
    def make(cls, shape: tuple[int, ...], dtype: type[Any], folder: Path | None = None) -> Shared:
        """A new one, in memory or, with `folder`, in a nameless file there.

        Raises:
            OSError: no room for the file.
        """
        size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
        if folder is None and hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("discern-thumbnails")
            os.ftruncate(descriptor, size)
        else:
            with tempfile.TemporaryFile(dir=folder) as file:
                descriptor = os.dup(file.fileno())
            os.posix_fallocate(
                descriptor, 0, size
            )  # a full disk is answer now, not by a signal later
        return cls(descriptor, shape, dtype)

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self.descriptor)


def read_files(
    files: Sequence[File],
    readers: int,
    max_megapixels: float,
    scratch: Path,
    *,
    on_disk: bool = False,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str | None]]:
    """Reads every file into a thumbnail, with `readers` processes, this one among them.

    Args:
        scratch: a folder for the list of files, and with `on_disk` for the thumbnails.
        report: called with the number of files read so far.

    Returns:
        thumbnails uint8 [n, 32, 32, 3] and facts int64 [n, 5] (FACTS), zeros where nothing was
        read; for each file '', why it could not be read, or None when it never was an image.
    """
    thumbnails = Shared.make((len(files), SIDE, SIDE, 3), np.uint8, scratch if on_disk else None)
    facts = Shared.make((len(files), FACTS), np.int64)
    pool = _WorkerPool(files, thumbnails, facts, max_megapixels, scratch, report)
    try:
        pool.start(readers - 1)
        pool.work()
    finally:
        pool.end()
        thumbnails.close()
        facts.close()
    return thumbnails.array, facts.array, pool.problems


@dataclass
class Blocks:
    """What one process needs to read its blocks.

    Attributes:
        pipe: descriptor that block numbers come out of, 4 bytes each.
        size: files of a block.
    """

    files: Sequence[File]
    thumbnails: npt.NDArray[np.uint8]
    facts: npt.NDArray[np.int64]
    max_megapixels: float
    pipe: int
    size: int

    def claim(self) -> int | None:
        """The number of a block that no other process has claimed, None when all are claimed."""
        token = os.read(self.pipe, 4)
        return int.from_bytes(token, "little") if token else None

    def range(self, block: int) -> range:
        """The numbers of its files."""
        return range(block * self.size, min((block + 1) * self.size, len(self.files)))

    def read(self, block: int) -> list[str | None]:
        """Reads a block; what `read_files` says of each of its files."""
        return [self._one(number) for number in self.range(block)]

    def _one(self, number: int) -> str | None:
        file = self.files[number]
        if file.problem:
            return file.problem
        try:
            if not file.certain and not is_image(file.path):
                return None
            small, facts = thumbnail(read_file(file.path), self.max_megapixels)
        except UnreadableImage as error:
            return error.reason
        self.thumbnails[number], self.facts[number] = small, facts
        return ""


class _WorkerPool:
    """This process and its helpers."""

    def __init__(
        self,
        files: Sequence[File],
        thumbnails: Shared,
        facts: Shared,
        max_megapixels: float,
        scratch: Path,
        report: Callable[[int], None],
    ) -> None:
        block = max(_SMALLEST_BLOCK, -(-len(files) // _BLOCKS))
        self.count = -(-len(files) // block)
        self.out, into = os.pipe()
        os.write(into, b"".join(number.to_bytes(4, "little") for number in range(self.count)))
        os.close(into)
        self.blocks = Blocks(files, thumbnails.array, facts.array, max_megapixels, self.out, block)
        self.shared = {
            "thumbnails": thumbnails.descriptor,
            "facts": facts.descriptor,
            "pipe": self.out,
        }
        self.scratch, self.report = scratch, report
        self.problems: list[str | None] = [None] * len(files)
        self.done: set[int] = set()
        self.helpers: list[tuple[subprocess.Popen[str], threading.Thread]] = []

    def start(self, helpers: int) -> None:
        """Starts so many helpers. One that cannot be started is done without."""
        helpers = min(helpers, self.count - 1)
        if helpers < 1:
            return
        descriptor, listed = tempfile.mkstemp(dir=self.scratch)
        with os.fdopen(descriptor, "w") as out:
            out.write(json.dumps(self.blocks.files))  # `dump` encodes in Python, much slower
        request = {
            **self.shared,
            "files": listed,
            "block": self.blocks.size,
            "max_megapixels": self.blocks.max_megapixels,
        }
        command = [
            sys.executable,
            "-m",
            "gan_core.dedup.folder._thumbnail_worker",
            json.dumps({**request, "parent": os.getpid()}),
        ]
        path = os.pathsep.join([source_root(), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        for _ in range(helpers):
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    text=True,
                    pass_fds=tuple(self.shared.values()),
                    env={**os.environ, "PYTHONPATH": path},
                )
            except OSError as error:
                log.warning(
                    "a process to read with could not be started (%s); reading goes on with fewer",
                    error,
                )
                return
            listener = threading.Thread(
                target=self._listen, args=(process.stdout or [],), daemon=True
            )
            listener.start()
            self.helpers.append((process, listener))

    def work(self) -> None:
        """Reads blocks until none is left, then those that a dead process had claimed."""
        while (block := self.blocks.claim()) is not None:
            self._record(block, self.blocks.read(block))
        for process, listener in self.helpers:
            listener.join()
            if process.wait():
                log.warning(
                    "a process that read images died (%d); its files are read again",
                    process.returncode,
                )
        for block in sorted(set(range(self.count)) - self.done):
            self._record(block, self.blocks.read(block))

    def end(self) -> None:
        """Closes the pipe and ends helpers that are still there."""
        for process, _ in self.helpers:
            process.kill()
            process.wait()
        os.close(self.out)

    def _listen(self, stream: IO[str] | list[str]) -> None:
        for line in stream:
            if line.endswith(
                "\n"
            ):  # the last words of a helper that was killed may be cut; its block is read again
                answer = json.loads(line)
                self._record(answer["block"], answer["problems"])

    def _record(self, block: int, problems: list[str | None]) -> None:
        numbers = self.blocks.range(block)
        self.problems[numbers.start : numbers.stop] = problems
        self.done.add(block)
        self.report(min(len(self.done) * self.blocks.size, len(self.problems)))
