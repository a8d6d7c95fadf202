"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) as torchvision keeps it."""

from __future__ import annotations

from pathlib import Path

from gan_core.config import SourceConfig
from gan_core.datasets._idx_files import idx_source
from gan_core.datasets.base import Source

ABOUT = "Fashion-MNIST: 60,000 training and 10,000 test images of clothing of 28 px, IDX files"
TITLE = "Fashion-MNIST"
VERSION = 1

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """Fashion-MNIST at a location with `FashionMNIST/raw`, or with the IDX files themselves."""
    return idx_source(config, location, "FashionMNIST", CLASSES)
