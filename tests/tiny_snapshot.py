"""A snapshot of a training of a few minibatches, for tests that need any trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gan_core.config import TrainConfig
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train


def train_tiny(pixels: np.ndarray, folder: Path, **settings: Any) -> Path:
    """A folder with the snapshot of two minibatches on images uint8 [n, 32, 32, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    network = {"name": "dcgan32_svhn", "width": 0.25}
    config = TrainConfig(network=network, batch=32, kimg=0.064, **settings)
    train(ArrayImages(pixels), Context(config, folder, 32))
    return folder / "products"
