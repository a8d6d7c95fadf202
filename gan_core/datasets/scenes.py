"""Rendered scenes of 32 px with exact classes: sky, grass, sun, house and tree.

The horizon, the objects and their sizes are random, with a little noise on every pixel. Each class
has one colour (PALETTE), so that the nearest colour of a pixel is its class: a segmenter that is
exact on these images. The masks hold the classes in the palette's order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gan_core.config import Section, SourceConfig
from gan_core.datasets.base import Blob, Entry, Source, Stamp, ppm

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ABOUT = "rendered scenes of 32 px: sky, grass, sun, house, tree; no data needed"
TITLE = "rendered scenes"
VERSION = 2
NEEDS_LOCATION = False  # it is rendered
SIZE = 32
ADDRESS = "scenes"
PALETTE = {
    "sky": [110, 170, 235],
    "grass": [70, 150, 60],
    "sun": [250, 225, 70],
    "house": [190, 70, 60],
    "tree": [30, 80, 40],
}
NOISE = 6.0  # levels


class Options(Section):
    """How many scenes there are."""

    count: int = Field(8000, ge=1)
    seed: int = Field(0, ge=0)


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """The scenes; `location` is not used. A scene's label is the number of its objects."""
    return ScenesSource(Options.model_validate(config.options))


class ScenesSource:
    """The scenes as one file; the member is the scene's number."""

    has_masks = True

    def __init__(self, options: Options) -> None:
        self._options = options
        self.ignored: dict[str, int] = {}
        self.warnings: list[str] = []

    def stamps(self) -> list[Stamp]:
        text = f"scenes {VERSION} {self._options.count} {self._options.seed}"
        return [Stamp(ADDRESS, self._options.count, 0, hashlib.sha256(text.encode()).hexdigest())]

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        for number in range(self._options.count):
            objects = len(present(number, self._options.seed))
            yield Entry(ADDRESS, str(number), objects, f"{objects} objects")

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        for address, member in requests:
            image, classes = render(int(member), self._options.seed)
            mask = b"P5\n%d %d\n255\n" % (SIZE, SIZE) + classes.tobytes()
            yield Blob(address, member, data=ppm(SIZE, SIZE, image.tobytes()), mask=mask)


def present(number: int, seed: int) -> list[str]:
    """The objects of a scene, in the order of painting."""
    import numpy as np

    random = np.random.default_rng([seed, number])
    drawn = random.random(3) < (0.6, 0.6, 0.6)
    return [name for name, there in zip(("sun", "house", "tree"), drawn, strict=True) if there]


def render(number: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A scene uint8 [32, 32, 3] and its classes uint8 [32, 32], numbers in the palette's order."""
    import numpy as np

    random = np.random.default_rng([seed, number])
    random.random(3)  # the objects
    names = list(PALETTE)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    horizon = int(random.integers(13, 21))
    classes = np.where(rows < horizon, names.index("sky"), names.index("grass")).astype(np.uint8)
    for name in present(number, seed):
        if name == "sun":
            y, x, r = (int(random.integers(*ends)) for ends in ((3, 9), (4, 28), (2, 4)))
            shape = (rows - y) ** 2 + (columns - x) ** 2 <= r * r
        elif name == "house":
            left, width, height = (
                int(random.integers(1, 22)),
                int(random.integers(6, 10)),
                int(random.integers(5, 9)),
            )
            bottom = min(SIZE - 2, horizon + int(random.integers(2, 7)))
            shape = (columns >= left) & (columns < left + width)
            shape &= (rows < bottom) & (rows >= bottom - height)
        else:
            x, width = int(random.integers(3, 29)), int(random.integers(3, 5))
            bottom = min(SIZE - 2, horizon + int(random.integers(2, 8)))
            height = int(random.integers(9, 14))
            inside = (rows <= bottom) & (rows > bottom - height)
            shape = inside & (np.abs(columns - x) <= width * (rows - bottom + height) / height)
        classes[shape] = names.index(name)
    colours: Any = np.array([PALETTE[name] for name in names], np.float64)
    image = colours[classes] + random.normal(0, NOISE, (SIZE, SIZE, 3))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), classes
