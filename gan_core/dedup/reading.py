"""The pictures of a folder or Parquet set as 32x32 thumbnails (whole frame, squashed to a square), each read once.

Memory is 3 kB a picture; above `IN_MEMORY` pictures the thumbnails lie in a temporary file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gan_core import registry, schemas
from gan_core.config import SourceConfig
from gan_core.datasets._reading import read_ordered
from gan_core.datasets.folder import FolderSource
from gan_core.dedup.autoencoder import SIDE
from gan_core.dedup.thumbnails import MANY, File, Shared, read_files, thumbnail
from gan_core.progress import Progress, Throttled, silent
from gan_core.vision.headers import UnreadableImage

if TYPE_CHECKING:
    from gan_core.datasets.base import Blob, Entry, Source

IN_MEMORY = 500_000


@dataclass
class Pictures:
    """The pictures of one place as thumbnails.

    Attributes:
        ids, addresses, members: of each picture.
        thumbnails: uint8 [n, 32, 32, 3]; zeros where reading failed.
        sizes: int32 [n, 2] width and height as displayed, 0 where reading failed.
        problems: '' or the reason for failing.
    """

    source: Source
    ids: list[str]
    addresses: list[str]
    members: list[str]
    thumbnails: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int32]
    problems: list[str]

    @property
    def usable(self) -> npt.NDArray[np.int64]:
        """Numbers of the pictures that could be read."""
        return np.flatnonzero([not problem for problem in self.problems])


def open_place(location: Path, name: str, dataset: str | None = None) -> Source:
    """The source at a place: Parquet when it is such a file or holds nothing but such files, else a folder of pictures."""
    if dataset is None:
        parquet = location.suffix.lower() in (".parquet", ".pq")
        if location.is_dir():
            from gan_core.datasets.parquet import parquet_files

            names = [item.suffix.lower() for item in location.iterdir() if item.is_file() and not item.name.startswith(".")]
            pictures = sum(ending in (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff") for ending in names)
            parquet = not pictures and bool(parquet_files(location))
        dataset = "parquet" if parquet else "folder"
    source: Source = registry.load("datasets", dataset).open_source(SourceConfig(name=name, dataset=dataset), location)
    return source


def read_pictures(
    location: Path,
    name: str,
    dataset: str | None,
    workers: int,
    max_megapixels: float,
    scratch: Path,
    progress: Progress = silent,
) -> Pictures:
    """Reads every picture of a place into a thumbnail."""
    source = open_place(location, name, dataset)
    entries = [entry for stamp in source.stamps() for entry in source.entries(stamp)]
    report = Throttled(progress)

    def told(done: int) -> None:
        report(done, len(entries), "pictures read")

    on_disk = len(entries) > IN_MEMORY
    if isinstance(source, FolderSource) and len(entries) >= MANY:
        blobs = source.read_many([(entry.address, entry.member) for entry in entries])
        files = [File(str(blob.path), entry.certain, entry.problem) for entry, blob in zip(entries, blobs, strict=True)]
        thumbnails, sizes, problems = read_files(files, workers, max_megapixels, scratch, on_disk=on_disk, report=told)
    else:
        thumbnails, sizes, problems = _by_threads(source, entries, workers, max_megapixels, scratch if on_disk else None, told)
    real = np.array([number for number, problem in enumerate(problems) if problem is not None], np.int64)
    chosen = [entries[number] for number in real.tolist()]
    return Pictures(
        source,
        [schemas.image_id(name, entry.address, entry.member) for entry in chosen],
        [entry.address for entry in chosen],
        [entry.member for entry in chosen],
        thumbnails if len(real) == len(entries) else thumbnails[real],
        sizes[real],
        [problem for problem in problems if problem is not None],
    )


def _by_threads(
    source: Source,
    entries: Sequence[Entry],
    workers: int,
    max_megapixels: float,
    scratch: Path | None,
    report: Callable[[int], None],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], list[str | None]]:
    """As `read_files`, for few files and for pictures that lie in containers."""
    thumbnails = Shared.make((len(entries), SIDE, SIDE, 3), np.uint8, scratch)
    thumbnails.close()
    sizes = np.zeros((len(entries), 2), np.int32)

    def work(number: int, blob: Blob) -> str | None:
        entry = entries[number]
        if entry.problem:
            return entry.problem
        try:
            if not entry.certain and not blob.is_picture():
                return None
            thumbnails.array[number], sizes[number] = thumbnail(blob.read(), max_megapixels)
        except UnreadableImage as error:
            return error.reason
        return ""

    problems: list[str | None] = []
    for problem in read_ordered(source, [(entry.address, entry.member) for entry in entries], work, workers):
        problems.append(problem)
        report(len(problems))
    return thumbnails.array, sizes, problems
