"""scikit-learn's digits made harder: turned, placed at random and among clutter, with noise.

Every digit is drawn several times, each time at another place and angle, over pieces of other
digits. All drawings of one digit are in one split: the test split holds digits that the training
split never shows. There are no files: an image depends on its number and the options alone.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gan_core.config import Section, SourceConfig
from gan_core.datasets.base import Blob, Entry, Source, Stamp, ppm
from gan_core.datasets.digits import find_digits, load_digits

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ABOUT = (
    "scikit-learn's digits turned, placed at random and among clutter, 32x32, with a test split; "
    "no data needed"
)
TITLE = "cluttered digits"
VERSION = 1
NEEDS_LOCATION = False  # it is rendered from a file that comes with a package
SIZE = 32
ADDRESS = "cluttered_digits"
TEST_SHARE = 5  # every fifth digit is a test digit


class Options(Section):
    """How hard the digits are."""

    copies: int = Field(4, ge=1, description="drawings of each digit")
    digit: int = Field(20, ge=8, le=SIZE, description="height of a digit in pixels")
    rotate: float = Field(25.0, ge=0, le=180, description="largest angle in degrees")
    clutter: int = Field(3, ge=0, description="pieces of other digits in an image")
    noise: float = Field(12.0, ge=0, description="standard deviation of noise, grey levels")
    seed: int = Field(0, ge=0)


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """The drawings; `location` is not used.

    Raises:
        RequestError: scikit-learn is not installed.
    """
    return Cluttered(Options.model_validate(config.options))


class Cluttered:
    """The drawings as one file; the member is the digit's row and the number of the drawing."""

    has_masks = False

    def __init__(self, options: Options) -> None:
        self._options = options
        self._file = find_digits()
        self.ignored: dict[str, int] = {}
        self.warnings: list[str] = []

    def stamps(self) -> list[Stamp]:
        data = self._file.read_bytes()
        tag = hashlib.sha256(self._options.model_dump_json().encode() + data).hexdigest()
        return [Stamp(ADDRESS, len(data), 0, tag)]

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        for row, label in enumerate(load_digits(self._file)[1]):
            split = "test" if row % TEST_SHARE == 0 else "train"
            for copy in range(self._options.copies):
                yield Entry(ADDRESS, f"{row}-{copy}", int(label), str(int(label)), split)

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        digits = enlarged(self._file, self._options.digit)
        for address, member in requests:
            row, copy = map(int, member.split("-"))
            grey = draw(digits, row, copy, self._options)
            colour = grey[:, :, None].repeat(3, axis=2)
            yield Blob(address, member, data=ppm(SIZE, SIZE, colour.tobytes()))


@functools.lru_cache(maxsize=2)
def enlarged(file: Path, height: int) -> npt.NDArray[np.float32]:
    """All digits float32 [1797, height, height], 0 to 255, by cubic interpolation."""
    import cv2
    import numpy as np

    images, _ = load_digits(file)
    size = (height, height)
    large = [cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in images]
    return np.clip(np.stack(large) * (255 / 16), 0, 255)


def draw(
    digits: npt.NDArray[np.float32], row: int, copy: int, options: Options
) -> npt.NDArray[np.uint8]:
    """One drawing uint8 [32, 32]: clutter, the digit over it, noise. The same at every call."""
    import cv2
    import numpy as np

    random = np.random.default_rng([options.seed, row, copy])
    height = options.digit
    image = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(options.clutter):
        other = digits[random.integers(len(digits))]
        top, left = random.integers(0, height - height // 3 + 1, 2)
        piece = other[top : top + height // 3, left : left + height // 3]
        y, x = random.integers(0, SIZE - height // 3 + 1, 2)
        part = image[y : y + height // 3, x : x + height // 3]
        np.maximum(part, piece, out=part)
    turn: Any = cv2.getRotationMatrix2D(
        ((height - 1) / 2, (height - 1) / 2), random.uniform(-options.rotate, options.rotate), 1.0
    )
    turn[:, 2] += random.integers(0, SIZE - height + 1, 2)
    placed = cv2.warpAffine(digits[row], turn, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
    image = np.maximum(image, placed) + random.normal(0, options.noise, image.shape)
    levels: npt.NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return levels
