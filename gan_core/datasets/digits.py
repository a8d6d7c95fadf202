"""The 1,797 handwritten digits that come with scikit-learn (UCI Optical Recognition of Handwritten
Digits, Alpaydin and Kaynak).

8x8 values from 0 to 16, enlarged to 32x32. There is no published split here: rows are divided by
content.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gan_core.config import Section, SourceConfig
from gan_core.datasets.base import Blob, Entry, Source, Stamp, ppm
from gan_core.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ABOUT = (
    "the 1,797 real handwritten digits that come with scikit-learn, enlarged to 32x32; no "
    "data needed"
)
TITLE = "scikit-learn's digits"
VERSION = 1
NEEDS_LOCATION = False  # it comes with a package
NEEDS_LOCATION = False
SIZE = 32
FILE = "digits.csv.gz"


class Options(Section):
    """How the digits are drawn."""

    rotate: float = Field(0.0, description="degrees, anticlockwise: the same digits askew")


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """The digits; `location` is not used.

    Raises:
        RequestError: scikit-learn is not installed.
    """
    return DigitsSource(config)


class DigitsSource:
    """The digits as one file of 1,797 rows; the member is the row number."""

    has_masks = False

    def __init__(self, config: SourceConfig) -> None:
        self._rotate = Options.model_validate(config.options).rotate
        self._file = find_digits()
        self.ignored: dict[str, int] = {}
        self.warnings: list[str] = []

    def stamps(self) -> list[Stamp]:
        data = self._file.read_bytes()
        # Installing scikit-learn again gives the file another time and the same content.
        return [Stamp(FILE, len(data), 0, hashlib.sha256(data).hexdigest())]

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        for row, label in enumerate(load_digits(self._file)[1]):
            yield Entry(FILE, str(row), int(label), str(int(label)))

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        images, _ = load_digits(self._file)
        for address, member in requests:
            yield Blob(address, member, data=_enlarged(images[int(member)], self._rotate))


def find_digits() -> Path:
    """The file within scikit-learn, found without importing it (which takes seconds)."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "datasets" / "data" / FILE
        if file.is_file():
            return file
    raise RequestError(
        "The digits come with scikit-learn, and scikit-learn (or its datasets/data/digits.csv.gz) "
        "is not installed.",
        expected="scikit-learn 1.5 or later",
        remedy="pip install scikit-learn",
    )


@functools.lru_cache(maxsize=1)
def load_digits(file: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Images float32 [1797, 8, 8] in 0..16 and labels int64 [1797]."""
    import numpy as np

    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(io.StringIO(lines.read()), delimiter=",")
    return table[:, :64].reshape(-1, 8, 8).astype(np.float32), table[:, 64].astype(np.int64)


def _enlarged(image: npt.NDArray[np.float32], rotate: float) -> bytes:
    """8x8 values in 0..16 to a 32x32 grey image as P6 bytes: cubic interpolation, 16 becomes
    255.
    """
    import cv2
    import numpy as np

    large: Any = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    if rotate:
        turn = cv2.getRotationMatrix2D(((SIZE - 1) / 2, (SIZE - 1) / 2), rotate, 1.0)
        large = cv2.warpAffine(large, turn, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
    grey = np.clip(np.rint(large * (255 / 16)), 0, 255).astype(np.uint8)
    return ppm(SIZE, SIZE, np.repeat(grey[:, :, None], 3, axis=2).tobytes())
