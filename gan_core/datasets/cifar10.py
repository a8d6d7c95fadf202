"""CIFAR-10 (Krizhevsky 2009) in any of the forms it is found in: Parquet, the pickled "python
version", the binary version.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.config import SourceConfig
from gan_core.datasets._array_files import ArrayFile, ArrayFiles, Content
from gan_core.datasets._cifar_batches import BINARY, LAYOUTS, PYTHON, read_batch
from gan_core.datasets.base import Source, existing, nothing_found
from gan_core.datasets.parquet import ParquetSource, parquet_files
from gan_core.errors import RequestError, TransientError
from gan_core.progress import Progress, silent

if TYPE_CHECKING:
    import pyarrow as pa

ABOUT = (
    "CIFAR-10: 50,000 training and 10,000 test images of 10 classes, as Parquet, python or "
    "binary version, or downloaded"
)
TITLE = "CIFAR-10"
VERSION = 1

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar10"  # under a cache folder, for `fetch`


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """CIFAR-10 at a location: Parquet files, cifar-10-batches-py or cifar-10-batches-bin, or a
    folder that holds one of these.

    Raises:
        RequestError: no location, nothing there, a packed archive, or none of the three forms.
    """
    place = existing(config, location)
    if place.is_file() and not place.name.lower().endswith((".parquet", ".pq")):
        raise RequestError(
            f"{str(place)!r} is a packed or unknown file.",
            expected=(
                "a folder with CIFAR-10 as Parquet, cifar-10-batches-py or cifar-10-batches-bin"
            ),
            remedy=f"unpack {place.name} if it is an archive, and name the folder that comes out",
        )
    if place.is_file() or parquet_files(place):
        return ParquetSource(config, place, CLASSES)
    for layout, files in LAYOUTS.items():
        for folder in ("", layout):
            if any((place / folder / file.name).is_file() for file in files):
                return ArrayFiles(config, place, (folder,), files, _read)
    raise nothing_found(
        config,
        place,
        "CIFAR-10 files",
        {},
        f"expected Parquet files, {PYTHON} or {BINARY} there",
    )


def _read(folder: Path, file: ArrayFile) -> Content:
    return Content(*read_batch(folder / file.name), CLASSES)


def fetch(
    target: Path, progress: Progress = silent, *, url: str | None = None, md5: str | None = None
) -> Path:
    """Downloads CIFAR-10 through torchvision's downloader (checked by MD5) and keeps it as Parquet
    with lossless PNG.

    The archive's pickles are read by a reader that builds arrays and nothing else
    (`_cifar_batches.read_batch`). Complete files of an earlier call are kept; a copy that was cut
    short is made again.

    Args:
        target: folder to write the Parquet files into.
        url, md5: a mirror of the archive and its checksum; None: torchvision's.

    Returns:
        `target`, for `open_source`.

    Raises:
        TransientError: the download failed.
    """
    import pyarrow as pa

    from gan_core.files import write_table

    files = {
        "train-00000-of-00001.parquet": [f"data_batch_{number}" for number in range(1, 6)],
        "test-00000-of-00001.parquet": ["test_batch"],
    }
    if all((target / name).is_file() for name in files):
        return target
    target.mkdir(parents=True, exist_ok=True)
    unpacked = target / ".download"
    _download(unpacked, url, md5)
    done = 0
    for name, batches in files.items():
        tables: list[pa.Table] = []
        for batch in batches:
            tables.append(
                _table(unpacked / PYTHON / batch, sum(table.num_rows for table in tables))
            )
            done += tables[-1].num_rows
            progress(done, 60_000, "images")
        write_table(pa.concat_tables(tables), target / name, row_group_size=1000)
    shutil.rmtree(unpacked, ignore_errors=True)
    return target


def _download(folder: Path, url: str | None, md5: str | None) -> None:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    url, md5 = url or CIFAR10.url, md5 or CIFAR10.tgz_md5
    try:
        download_and_extract_archive(
            url, str(folder), filename=CIFAR10.filename, md5=md5, remove_finished=True
        )
    except (OSError, RuntimeError) as error:
        raise TransientError(
            f"CIFAR-10 could not be downloaded from {url}: {error}.",
            expected="a connection to it",
            remedy="try again, or fetch it elsewhere and give its folder with --data PATH",
        ) from error


def _table(batch: Path, first: int) -> pa.Table:
    import pyarrow as pa

    from gan_core.vision.sheets import encode_png

    pixels, labels = read_batch(batch)
    images = [{"bytes": encode_png(image), "path": None} for image in pixels]
    schema = pa.schema(
        [
            ("img", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
            ("index", pa.int64()),
        ]
    )
    return pa.table(
        {"img": images, "label": labels, "index": list(range(first, first + len(labels)))},
        schema=schema,
    )
