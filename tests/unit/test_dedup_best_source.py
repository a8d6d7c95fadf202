"""Which of a photograph and an altered copy of it counts as the source of the other."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from gan_core.dedup.folder import compression
from gan_core.dedup.folder.best_source import best_source, common_quality, examine, sharpness
from gan_core.dedup.folder.enlarged import is_enlarged
from gan_core.dedup.measure.injected_duplicates import ALTERATIONS

Image = np.ndarray


def saved(image: Image, quality: int | None) -> bytes:
    """A file of an RGB image: JPEG of a quality, or PNG."""
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".png" if quality is None else ".jpg", image[..., ::-1], options)[
        1
    ].tobytes()


def opened(data: bytes) -> Image:
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1])


def resized(factor: float, kind: int) -> Callable[[Image], Image]:
    return lambda image: cv2.resize(image, None, fx=factor, fy=factor, interpolation=kind)


@pytest.fixture(scope="module", params=["china", "flower"])
def photo(request: pytest.FixtureRequest) -> Image:
    return resized(0.75, cv2.INTER_AREA)(load_sample_image(f"{request.param}.jpg"))


def source_is_chosen(source: bytes, copy: bytes) -> bool:
    """Whether the first of a pair is chosen although the rank prefers the second."""
    files = [source, copy]
    evidence = np.array([examine(one, 100.0) for one in files])
    area = np.array([opened(one)[..., 0].size for one in files])
    quality = common_quality(evidence, area)
    sharp = np.array([sharpness(one, 100.0, quality) for one in files])
    maps = np.tile(np.eye(3), (2, 1, 1))
    return best_source(evidence, sharp, area, np.zeros(2, int), maps, np.array([1, 0])) == 0


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("noise of 8 levels", 75, 95),
        ("noise of 16 levels", None, 95),
        ("shift 1 px", 75, 95),
        ("gamma 1.5", None, None),
        ("contrast x 0.7", 75, 95),
        ("contrast x 0.7", None, None),
        ("grey", 75, 95),
        ("mirror", 75, 95),
        ("identical", 75, 95),
        ("identical", 75, None),
        ("identical", 90, 80),
        ("through 1/2 size", 75, 95),
        ("crop 90 %", None, 95),
    ],
)
def test_an_altered_copy_is_not_the_source(
    photo: Image, kind: str, first: int | None, second: int | None
) -> None:
    source = saved(photo, first)
    assert source_is_chosen(source, saved(ALTERATIONS[kind](opened(source)), second))


@pytest.mark.parametrize("kind", [cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4])
@pytest.mark.parametrize("quality", [75, 95, None])
def test_enlarging_is_told_from_reducing(photo: Image, kind: int, quality: int | None) -> None:
    def grey(image: Image) -> Image:
        return cv2.cvtColor(opened(saved(image, 95)), cv2.COLOR_RGB2GRAY)

    image = opened(saved(photo, quality))
    plain = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    for factor in (1.3, 1.5, 2.0):
        assert is_enlarged(grey(resized(factor, kind)(image)), plain)
        assert not is_enlarged(plain, grey(resized(1 / factor, kind)(image)))
        # Other images, and other parts of one, are no enlargement of one another.
        assert not is_enlarged(plain, grey(resized(1 / factor, kind)(image[::-1])))
        assert not is_enlarged(plain, grey(resized(1 / factor, kind)(image[20:, 30:])))


def test_traces_of_compression_as_the_obvious_version_finds_them(photo: Image) -> None:
    """A mean of cosines over all coefficients, one by one, against counts of them."""
    image = opened(saved(ALTERATIONS["mirror"](opened(saved(photo, 60))), 95))
    luma = np.asarray(image[:320, :320] @ np.array([0.299, 0.587, 0.114]) - 128, np.float32)
    found = compression._steps(luma)
    assert (found > 0).sum() > 4
    windows = np.lib.stride_tricks.sliding_window_view(luma, (8, 8))
    differ = 0
    for number, (row, column) in enumerate(compression._FREQUENCIES):
        wave = np.outer(compression._basis(row), compression._basis(column))
        for y in range(8):
            for x in range(8):
                places = windows[y : y + 305 : 8, x : x + 305 : 8]
                values = (places * wave).sum(axis=(2, 3)).ravel()
                expected = 0
                for step in compression._STEPS:
                    beyond = values[np.abs(values) > 0.75 * step]
                    if len(beyond) >= compression._FEWEST:
                        mean = np.cos(2 * np.pi * beyond / step).mean()
                        expected = step if mean > compression._PERIODIC else expected
                differ += found[number, y, x] != expected
    assert differ <= 2  # of 448: a mean at the bound falls to either side
