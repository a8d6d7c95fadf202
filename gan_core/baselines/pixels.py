"""The pixels themselves as features: one column 'pixels' [3, size, size], float16 in [-1, 1]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gan_core.config import Section
from gan_core.features.modes import LayerSize

ABOUT = "raw pixels in [-1, 1], channel by channel"

TITLE = "raw pixels"
NEEDS = ()  # neither training images nor a network


class Options(Section):
    """None."""


def dims(options: Options, size: int, network: int) -> int:
    """How many features an image has. Args: size: side of a crop in pixels."""
    return 3 * size**2


def sizes(shape: tuple[int, int, int]) -> list[LayerSize]:
    """The one column. Args: shape: (height, width, 3) of the images."""
    height, width, channels = shape
    return [LayerSize("pixels", (channels, height, width), (channels, height, width))]


def extract(images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float16]]:
    """uint8 [n, height, width, 3] to {'pixels': float16 [n, 3, height, width]}, x / 127.5 - 1."""
    values = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return {"pixels": values.astype(np.float16)}
