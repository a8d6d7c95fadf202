"""What every file in gan_core/baselines must do, found by name, on 60 digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gan_core import registry
from gan_core.contract import ExtractRequest
from gan_core.features.extractor import Extractor
from gan_core.progress import silent
from gan_core.shards import PixelShards
from gan_core.stages.extract import make_extractor
from tests.stages.digits_artifacts import digits_crops, extract_request, given
from tests.tiny_snapshot import train_tiny

NAMES = registry.names("baselines")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of 60 digits, and a snapshot of a training on them."""
    folder = tmp_path_factory.mktemp("baselines")
    crops = digits_crops(folder / "crops", 60)
    train_tiny(PixelShards([crops]).pixels(slice(None)), folder / "train")
    return folder


def example(name: str) -> dict[str, Any]:
    """The first options that a file gives for tests."""
    examples: Sequence[dict[str, Any]] = registry.literal("baselines", name, "EXAMPLES", ({},))
    return examples[0]


def make(folder: Path, name: str, images: PixelShards) -> Extractor:
    """The extractor of a baseline or of a role of the snapshot, with the first example options."""
    options = example(name) if name in NAMES else {}
    inputs = {"snapshot": [given("train", folder / "train" / "products")]}
    work = folder / name
    request = extract_request(folder / "crops", work, name, options=options, inputs=inputs)
    return make_extractor(ExtractRequest.of(request), images, silent)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_what_the_file_says(folder: Path, name: str) -> None:
    images = PixelShards([folder / "crops"])
    found = make(folder, name, images)
    pixels, ids = images.pixels(slice(7)), images.table["image_id"].to_pylist()[:7]
    features, clipped = found.extract(pixels, ids)
    assert list(features) == [size.name for size in found.sizes] and clipped == 0
    for size in found.sizes:
        column = features[size.name]
        assert column.dtype == np.float16 and column.shape == (7, *size.pooled)
        assert np.isfinite(column).all() and np.ptp(column, axis=0).max() > 0
    own = sum(size.dims for size in make(folder, "discriminator", images).sizes)
    module = registry.load("baselines", name)
    options = registry.options("baselines", name, example(name))
    assert module.dims(options, 32, own) == sum(size.dims for size in found.sizes)
    again, _ = make(folder, name, images).extract(pixels, ids)
    alone, _ = found.extract(pixels[2:4], ids[2:4])
    for layer, values in features.items():
        np.testing.assert_array_equal(again[layer], values)
        np.testing.assert_allclose(alone[layer], values[2:4], rtol=2e-2, atol=2e-3)
