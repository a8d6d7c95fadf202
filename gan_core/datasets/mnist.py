"""MNIST (LeCun, Cortes, Burges 1998) as torchvision keeps it."""

from __future__ import annotations

from pathlib import Path

from gan_core.config import SourceConfig
from gan_core.datasets._idx_files import idx_source
from gan_core.datasets.base import Source

ABOUT = "MNIST: 60,000 training and 10,000 test digits of 28 px, IDX files, packed or not"
TITLE = "MNIST"
VERSION = 1


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """MNIST at a location with `MNIST/raw`, or with the IDX files themselves."""
    return idx_source(config, location, "MNIST", "0123456789")
