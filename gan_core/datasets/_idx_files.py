"""The IDX files of MNIST and Fashion-MNIST, packed by gzip or not.

Source: LeCun, Cortes, Burges, "The MNIST database": a magic number, the sizes, then the bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gan_core.config import SourceConfig
from gan_core.datasets._array_files import ArrayFile, ArrayFiles, Content
from gan_core.datasets.base import Source
from gan_core.vision.image_files import UnreadableImage

_PARTS = (("train", "train"), ("t10k", "test"))


def idx_source(
    config: SourceConfig, location: Path | None, folder: str, classes: Sequence[str]
) -> Source:
    """A set of IDX files at a location, or in `<folder>/raw` below it (torchvision's place)."""

    def read(place: Path, file: ArrayFile) -> Content:
        images, labels = read_idx(place / file.name), read_idx(place / file.companions[0])
        if images.ndim != 3 or labels.shape != (len(images),):
            raise UnreadableImage("damaged", f"{file.companions[0]} does not fit {file.name}")
        return Content(images, labels.tolist(), classes)

    files = [
        ArrayFile(
            f"{name}-images-idx3-ubyte{packed}", split, (f"{name}-labels-idx1-ubyte{packed}",)
        )
        for packed in ("", ".gz")
        for name, split in _PARTS
    ]
    if location is not None and location.is_dir():  # one form of each file, the unpacked one first
        there = {path.name for path in location.rglob("*-ubyte*")}
        files = [
            file
            for file in files
            if not file.name.endswith(".gz") or file.name.removesuffix(".gz") not in there
        ]
    return ArrayFiles(config, location, (f"{folder}/raw", "raw", "", folder), files, read)


def read_idx(path: Path) -> Any:
    """The array of an IDX file of bytes: uint8, of one to three dimensions.

    Raises: UnreadableImage: another kind of file, or one that was cut short.
    """
    import numpy as np

    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 4 or data[:3] != b"\0\0\x08" or data[3] not in (1, 2, 3):
        raise UnreadableImage("damaged", f"{path.name} is no IDX file of bytes")
    start = 4 + 4 * data[3]
    shape = np.frombuffer(data[4:start], ">u4").astype(int)
    if len(data) - start != int(np.prod(shape, dtype=object)):
        raise UnreadableImage("truncated", f"{path.name} has not as many bytes as its head says")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
