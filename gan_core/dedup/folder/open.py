"""What lies at a place that `discern dedup` was given: images, Parquet files with images, or tar
shards.

Reads names and Parquet schemas; reads no image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core import registry
from gan_core.config import SourceConfig
from gan_core.datasets import folder
from gan_core.datasets.folder import IMAGE_ENDINGS, UNREAD_ENDINGS, FolderSource
from gan_core.datasets.parquet import ParquetSource, holds_images, parquet_files
from gan_core.errors import DataError, DiscernError, RequestError, UnknownName

if TYPE_CHECKING:
    from gan_core.datasets.base import Source, Stamp


def open_place(location: Path, name: str, dataset: str | None = None) -> tuple[Source, list[Stamp]]:
    """The source at a place and its files.

    A folder is a Parquet set when there are no images in it or below it, and a Parquet file with a
    column of images is.

    Args:
        name: the source's, which is part of every id.
        dataset: kind of source; None: found out from the files.

    Raises:
        RequestError: nothing there, or another kind than `dataset`.
        DataError: no images there.
    """
    with _own_remedies():
        source = _guessed(location, name) if dataset is None else _source(location, name, dataset)
        stamps = source.stamps()
    if not isinstance(source, ParquetSource):
        return source, stamps
    files = dict(parquet_files(location)) if location.is_dir() else {location.name: location}
    without = {
        stamp.address
        for stamp in stamps
        if holds_images(files.get(stamp.address, location)) is False
    }
    if 0 < len(without) < len(stamps):
        # Our own tables and annotations are in the folder too; damaged files stay, as rows.
        source.ignored["Parquet files without a column of images"] = len(without)
        stamps = [stamp for stamp in stamps if stamp.address not in without]
    return source, stamps


def _source(location: Path, name: str, dataset: str) -> Source:
    source: Source = registry.load("datasets", dataset).open_source(
        SourceConfig(name=name, dataset=dataset), location
    )
    return source


def _guessed(location: Path, name: str) -> Source:
    if location.is_file():
        kinds = {".parquet": "parquet", ".pq": "parquet", ".tar": "tar"}
        return _source(location, name, kinds.get(location.suffix.lower(), "folder"))
    images = folder.open_source(SourceConfig(name=name), location)
    assert isinstance(images, FolderSource)
    tables = [path for _, path in parquet_files(location) if holds_images(path)]
    if not tables:
        return images
    try:
        endings = {os.path.splitext(stamp.address)[1].lower() for stamp in images.stamps()}
    except (DataError, RequestError):  # no images at all
        endings = set()
    if not endings & (IMAGE_ENDINGS | UNREAD_ENDINGS):
        return _source(location, name, "parquet")
    images.warnings.append(
        f"{len(tables):,} Parquet files with images lie next to the image files and are not read "
        "(--dataset parquet reads them alone)"
    )
    return images


@contextmanager
def _own_remedies() -> Iterator[None]:
    """Errors of sources name the options of recipes; here they name this command's."""
    try:
        yield
    except UnknownName:
        raise
    except (RequestError, DataError) as error:
        remedy = re.sub(r"--set \S+\.dataset=(\w+)( \(.*\))?", r"--dataset \1", error.remedy)
        expected = error.expected
        if any(word in remedy for word in ("--data ", "`dataset`", "--set")):
            remedy = "name another place, or its kind with --dataset (folder, parquet, tar, ...)"
            expected = "a folder of images, or Parquet files with images"
        kind = DataError if isinstance(error, DataError) else RequestError
        own: DiscernError = kind(error.message, expected=expected, remedy=remedy)
        raise own from error
