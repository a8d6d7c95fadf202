"""STL-10 (Coates, Lee, Ng 2011), the binary files, as torchvision keeps them."""

from __future__ import annotations

from pathlib import Path

from gan_core.config import Section, SourceConfig
from gan_core.datasets._array_files import ArrayFile, ArrayFiles, Content
from gan_core.datasets.base import Source
from gan_core.vision.image_files import UnreadableImage

ABOUT = "STL-10: 5,000 training, 8,000 test and 100,000 unlabelled images of 96 px, binary files"
TITLE = "STL-10"
VERSION = 1

_SIDE = 96
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


class Options(Section):
    """Whether the unlabelled images are training images too."""

    unlabelled: bool = True


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """STL-10 at a location that holds `stl10_binary`, or is that folder."""
    options = Options.model_validate(config.options)
    files = [
        ArrayFile("train_X.bin", "train", ("train_y.bin",)),
        ArrayFile("test_X.bin", "test", ("test_y.bin",)),
    ]
    if options.unlabelled:
        files.append(ArrayFile("unlabeled_X.bin", "train"))
    return ArrayFiles(config, location, ("stl10_binary", ""), files, _read)


def _read(folder: Path, file: ArrayFile) -> Content:
    """Images are stored column by column, and classes are counted from 1."""
    import numpy as np

    size = (folder / file.name).stat().st_size
    if not size or size % (3 * _SIDE * _SIDE):
        raise UnreadableImage("truncated", f"{file.name} holds {size} bytes, no whole images")
    raw = np.memmap(folder / file.name, np.uint8, "r").reshape(-1, 3, _SIDE, _SIDE)
    labels = None
    if file.companions:
        labels = (np.fromfile(folder / file.companions[0], np.uint8).astype(int) - 1).tolist()
        if len(labels) != len(raw):
            raise UnreadableImage(
                "damaged", f"{file.companions[0]} has {len(labels)} labels for {len(raw)} images"
            )
    return Content(raw.transpose(0, 3, 2, 1), labels, CLASSES)
