"""The dataset of the demo: what is drawn, and that no digit is in both splits."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from gan_core.config import SourceConfig
from gan_core.datasets.cluttered_digits import Cluttered, Options, draw, enlarged, open_source
from gan_core.datasets.digits import find_digits

PLAIN = {"copies": 2, "rotate": 0, "clutter": 0, "noise": 0}


def opened(**options: object) -> Cluttered:
    config = SourceConfig(name="digits", dataset="cluttered_digits", options=options)
    source = open_source(config, None)
    assert isinstance(source, Cluttered)
    return source


def pixels(source: Cluttered, members: list[str]) -> npt.NDArray[np.uint8]:
    (stamp,) = source.stamps()
    blobs = source.read_many([(stamp.address, member) for member in members])
    return np.stack([np.asarray(Image.open(io.BytesIO(blob.data or b""))) for blob in blobs])


def test_no_digit_is_in_both_splits() -> None:
    source = opened(copies=3)
    rows: dict[str, set[str]] = {"train": set(), "test": set()}
    for entry in source.entries(source.stamps()[0]):
        rows[entry.split].add(entry.member.split("-")[0])
    assert len(rows["train"]) == 1437 and len(rows["test"]) == 360
    assert not rows["train"] & rows["test"]


def test_without_clutter_an_image_holds_the_digit_at_its_place() -> None:
    """The digit of the row is found at one offset, and nothing is drawn elsewhere."""
    images = pixels(opened(**PLAIN), ["7-0", "7-1"])[..., 0].astype(int)
    digit = np.rint(enlarged(find_digits(), 20)[7]).astype(int)
    places = []
    for image in images:
        found = [
            (y, x)
            for y in range(13)
            for x in range(13)
            if np.abs(image[y : y + 20, x : x + 20] - digit).max() <= 1
        ]
        assert len(found) == 1
        assert abs(int(image.sum()) - int(digit.sum())) <= digit.size
        places += found
    assert places[0] != places[1]


def test_an_image_depends_on_its_number_and_the_options_alone() -> None:
    forwards = pixels(opened(), ["0-0", "1-0", "1-3"])
    backwards = pixels(opened(), ["1-3", "1-0", "0-0"])[::-1]
    np.testing.assert_array_equal(forwards, backwards)
    digits = enlarged(find_digits(), 20)
    assert (draw(digits, 0, 0, Options(seed=1)) != forwards[0][..., 0]).any()
    assert opened(noise=1).stamps() != opened().stamps()


def test_labels_are_those_of_scikit_learn() -> None:
    source = opened(copies=1)
    labels = [entry.label for entry in source.entries(source.stamps()[0])]
    assert labels == load_digits().target.tolist()
