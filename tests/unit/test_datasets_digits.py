"""The digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gan_core.config import SourceConfig
from gan_core.datasets import digits
from gan_core.datasets.base import fingerprint
from gan_core.vision.decode import decode


def test_they_are_scikit_learns_digits_enlarged() -> None:
    source = digits.open_source(SourceConfig(name="digits", dataset="digits"), None)
    (stamp,) = source.stamps()
    assert stamp.mtime_ns == 0 and len(stamp.tag) == 64
    entries = list(source.entries(stamp))
    truth = load_digits()
    assert [entry.label for entry in entries] == truth.target.tolist()
    pixels = np.stack(
        [decode(blob.read()) for blob in source.read_many([(e.address, e.member) for e in entries])]
    )
    assert pixels.shape == (1797, 32, 32, 3)
    assert (pixels[..., :1] == pixels).all(), "grey"
    back = pixels[..., 0].reshape(1797, 8, 4, 8, 4).mean(axis=(2, 4)) * 16 / 255
    assert np.corrcoef(back.ravel(), truth.images.ravel())[0, 1] > 0.97
    assert pixels.max() == 255 and pixels.min() == 0


def test_rotation_is_an_option_and_turns() -> None:
    def read(degrees: float) -> np.ndarray:
        source = digits.open_source(
            SourceConfig(name="digits", dataset="digits", options={"rotate": degrees}), None
        )
        (blob,) = source.read_many([(digits.FILE, "5")])
        return decode(blob.read())[..., 0].astype(int)

    assert np.abs(read(90) - np.rot90(read(0))).max() <= 2, "anticlockwise"
    assert np.abs(read(20) - read(0)).mean() > 5


def test_the_fingerprint_is_that_of_the_content() -> None:
    prints = {
        fingerprint(digits.open_source(SourceConfig(name=name, dataset="digits"), None).stamps())
        for name in ("a", "b")
    }
    assert len(prints) == 1


def test_an_unknown_option_is_reported() -> None:
    with pytest.raises(Exception, match="did you mean 'rotate'"):
        digits.open_source(
            SourceConfig(name="digits", dataset="digits", options={"rotat": 3}), None
        )
