"""CIFAR-100 (Krizhevsky 2009) as torchvision keeps it: the pickled "python version", read without
running anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gan_core.config import Section, SourceConfig
from gan_core.datasets._array_files import ArrayFile, ArrayFiles, Content
from gan_core.datasets._cifar_batches import read_pickle
from gan_core.datasets.base import Source
from gan_core.vision.image_files import UnreadableImage

ABOUT = "CIFAR-100: 50,000 training and 10,000 test images of 100 classes, python version"
TITLE = "CIFAR-100"
VERSION = 1

FOLDERS = ("cifar-100-python", "")
FILES = (ArrayFile("train", "train", ("meta",)), ArrayFile("test", "test", ("meta",)))


class Options(Section):
    """Which of the two sets of labels is used."""

    coarse: bool = False


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """CIFAR-100 at a location that holds `cifar-100-python`, or is that folder."""
    options = Options.model_validate(config.options)
    kind = "coarse" if options.coarse else "fine"

    def read(folder: Path, file: ArrayFile) -> Content:
        batch = _by_text(read_pickle(folder / file.name))
        flat, labels = batch["data"], [int(label) for label in batch[f"{kind}_labels"]]
        if flat.dtype != "uint8" or flat.shape != (len(labels), 3072):
            raise UnreadableImage("damaged", "the file does not hold rows of 3,072 bytes")
        names = []
        if (folder / "meta").is_file():
            found = _by_text(read_pickle(folder / "meta"))[f"{kind}_label_names"]
            names = [_text(name) for name in found]
        return Content(flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, names)

    return ArrayFiles(config, location, FOLDERS, FILES, read)


def _by_text(content: Any) -> dict[str, Any]:
    """Keys are bytes in the publisher's files, which Python 2 wrote, and text in later ones."""
    return {_text(key): value for key, value in content.items()}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
