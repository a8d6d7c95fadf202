"""The images of a folder or Parquet set as 32x32 thumbnails (whole frame, squashed to a square),
each read once.

Memory is 3 kB an image; above `IN_MEMORY` images the thumbnails lie in a temporary file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gan_core import schemas
from gan_core.datasets._reading import read_ordered
from gan_core.datasets.folder import FolderSource
from gan_core.dedup.folder.hardlinks import identities, same_file
from gan_core.dedup.folder.open import open_place
from gan_core.dedup.folder.thumbnails import (
    FACTS,
    MANY,
    File,
    Shared,
    is_image,
    read_files,
    thumbnail,
)
from gan_core.dedup.hashing import SIDE
from gan_core.errors import DataError
from gan_core.progress import Progress, Throttled, silent
from gan_core.vision.image_files import UnreadableImage

if TYPE_CHECKING:
    from gan_core.datasets.base import Blob, Source

IN_MEMORY = 500_000
# the source's name in every id: the same image of the same folder has one id, whatever was asked
NAME = "folder"

Rows = npt.NDArray[np.int64]


@dataclass
class Images:
    """The images of one place as thumbnails.

    Attributes:
        root: the folder that addresses start from.
        ids, addresses, members: of each image.
        thumbnails: uint8 [n, 32, 32, 3]; zeros where reading failed.
        facts: int64 [n, 5] (thumbnails.FACTS); zeros where reading failed.
        problems: '' or the reason for failing.
        ignored: what else lies there and is no image, by kind.
    """

    source: Source
    root: Path
    ids: list[str]
    addresses: list[str]
    members: list[str]
    thumbnails: npt.NDArray[np.uint8]
    facts: Rows
    problems: list[str]
    ignored: dict[str, int]

    @property
    def sizes(self) -> Rows:
        """int64 [n, 2], width and height as displayed."""
        return self.facts[:, :2]

    @property
    def usable(self) -> Rows:
        """Numbers of the images that could be read."""
        return np.flatnonzero([not problem for problem in self.problems])

    def name(self, number: int) -> str:
        """An image's address, for people: of a container '#' and the member follow."""
        member = self.members[number]
        return f"{self.addresses[number]}#{member}" if member else self.addresses[number]

    @cached_property
    def files(self) -> Rows:
        """int64 [n, 2], which file an image lies in (`links.identities`)."""
        return identities(self.paths(range(len(self.ids))))

    @cached_property
    def same(self) -> Rows:
        """int64 [n], for each image the one that represents its file: itself but for links."""
        if not isinstance(self.source, FolderSource):
            return np.arange(len(self.ids))
        return same_file(self.files, self.paths(range(len(self.ids))), self.root)

    def paths(self, numbers: Sequence[int]) -> list[str]:
        """The files that the images lie in."""
        if not isinstance(self.source, FolderSource):
            return [f"{self.root}/{self.addresses[number]}" for number in numbers]
        return [self.source.path(self.addresses[number]) for number in numbers]


def read_images(
    location: Path,
    dataset: str | None,
    workers: int,
    max_megapixels: float,
    scratch: Path,
    progress: Progress = silent,
) -> Images:
    """Reads every image of a place into a thumbnail.

    Raises:
        RequestError, DataError: as `open_place`; DataError: there is no image.
    """
    source, stamps = open_place(location, NAME, dataset)
    # Of what a Parquet file says of its rows only their place is kept: a million rows of attributes
    # would fill the memory.
    addresses, members, files = [], [], []
    for stamp in stamps:
        for entry in source.entries(stamp):
            addresses.append(entry.address)
            members.append(entry.member)
            path = source.path(entry.address) if isinstance(source, FolderSource) else ""
            files.append(File(path, entry.certain, entry.problem))
    report = Throttled(progress)

    def report_read(done: int) -> None:
        report(done, len(files), "images read")

    on_disk = len(files) > IN_MEMORY
    if isinstance(source, FolderSource) and len(files) >= MANY:
        thumbnails, facts, problems = read_files(
            files, workers, max_megapixels, scratch, on_disk=on_disk, report=report_read
        )
    else:
        where = scratch if on_disk else None
        requests = list(zip(addresses, members, strict=True))
        thumbnails, facts, problems = _by_threads(
            source, requests, files, workers, max_megapixels, where, report_read
        )
    real = np.array(
        [number for number, problem in enumerate(problems) if problem is not None], np.int64
    )
    ignored = dict(source.ignored)
    if len(real) < len(files):
        ignored["files of unknown kind that are no images"] = len(files) - len(real)
    if not len(real):
        seen = ", ".join(f"{count:,} {kind}" for kind, count in sorted(ignored.items()))
        raise DataError(
            f"There is no image in {str(location)!r} (found there: {seen or 'nothing'}).",
            expected="images (JPEG, PNG, WebP, GIF, BMP, TIFF, ...)",
            remedy="name another folder",
        )
    addresses, members = (
        [addresses[number] for number in real.tolist()],
        [members[number] for number in real.tolist()],
    )
    return Images(
        source,
        location if location.is_dir() else location.parent,
        [
            schemas.image_id(NAME, address, member)
            for address, member in zip(addresses, members, strict=True)
        ],
        addresses,
        members,
        _compacted(thumbnails, real),
        facts[real],
        [
            problem.replace("crop.max_megapixels", "--max-megapixels")
            for problem in problems
            if problem is not None
        ],
        ignored,
    )


def _compacted(
    thumbnails: npt.NDArray[np.uint8], rows: Rows, block: int = 4096
) -> npt.NDArray[np.uint8]:
    """The chosen rows (ascending), moved to the front where they are: they may be more than the
    memory holds.
    """
    if len(rows) < len(thumbnails):
        for start in range(0, len(rows), block):
            part = rows[start : start + block]
            thumbnails[start : start + len(part)] = thumbnails[part]
    return thumbnails[: len(rows)]


def _by_threads(
    source: Source,
    requests: Sequence[tuple[str, str]],
    files: Sequence[File],
    workers: int,
    max_megapixels: float,
    scratch: Path | None,
    report: Callable[[int], None],
) -> tuple[npt.NDArray[np.uint8], Rows, list[str | None]]:
    """As `read_files`, for few files and for images that lie in containers."""
    thumbnails = Shared.make((len(files), SIDE, SIDE, 3), np.uint8, scratch)
    thumbnails.close()
    facts = np.zeros((len(files), FACTS), np.int64)

    def work(number: int, blob: Blob) -> str | None:
        if files[number].problem:
            return files[number].problem
        try:
            if not files[number].certain and blob.path is not None and not is_image(blob.path):
                return None
            thumbnails.array[number], facts[number] = thumbnail(blob.read(), max_megapixels)
        except UnreadableImage as error:
            return error.reason
        return ""

    problems: list[str | None] = []
    for problem in read_ordered(source, requests, work, workers):
        problems.append(problem)
        report(len(problems))
    return thumbnails.array, facts, problems
