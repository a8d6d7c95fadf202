"""The pixels themselves as features: one column 'pixels' [3, size, size], float16 in [-1, 1]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gan_core.config import Section
from gan_core.contract import ExtractRequest
from gan_core.features.extractor import Extractor
from gan_core.progress import Progress
from gan_core.shards import PixelShards

ABOUT = "raw pixels in [-1, 1], channel by channel"
TITLE = "raw pixels"
VERSION = 1
NEEDS = ()  # neither training images nor a network


def dims(options: Section, size: int, network: int) -> int:
    """How many features an image has. Args: size: side of a crop in pixels."""
    return 3 * size**2


def make(job: ExtractRequest, images: PixelShards, progress: Progress) -> Extractor:
    """The one column."""
    from gan_core.features.modes import LayerSize

    height, width, channels = images.shape
    size = LayerSize("pixels", (channels, height, width), (channels, height, width))
    lineage = {"layers": [size.as_json()]}
    return Extractor([size], lambda some, _: (extract(some), 0), lineage)


def extract(images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float16]]:
    """uint8 [n, height, width, 3] to {'pixels': float16 [n, 3, height, width]}, x / 127.5 - 1."""
    values = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return {"pixels": values.astype(np.float16)}
