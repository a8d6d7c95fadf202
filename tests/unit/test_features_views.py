"""Read-outs over several views, against loops over single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gan_core.baselines import random
from gan_core.config import ExtractConfig
from gan_core.errors import RequestError
from gan_core.features import extract
from gan_core.features.modes import select_layers
from gan_core.features.views import Views
from gan_core.validation import explain


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def noise(side: int) -> torch.Tensor:
    return torch.rand(64, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def read(
    batch: np.ndarray, views: Views, pool: str = "max", grid: int = 4
) -> dict[str, np.ndarray]:
    network = random.network({"name": "resnet10", "width": 0.0625}, 0)
    network.calibrate([noise(32)])
    selection = select_layers(network, "dcgan", None, 4, pool, views)  # type: ignore[arg-type]
    found, _ = extract.extract_features(network.activations, batch, selection, batch=3)
    for size in selection.sizes:
        assert found[size.name].shape[1:] == size.pooled
    return {name: values.astype(np.float32) for name, values in found.items()}


def test_shifts_and_mirror_are_the_mean_over_eighteen_images() -> None:
    batch = images(4)
    found = read(batch, Views(shift=2, mirror=True))
    moved = []
    for down in (-2, 0, 2):
        for across in (-2, 0, 2):
            rows = np.clip(np.arange(32) + down, 0, 31)
            columns = np.clip(np.arange(32) + across, 0, 31)
            view = batch[:, rows][:, :, columns]
            moved += [view, view[:, :, ::-1]]
    assert len(moved) == Views(shift=2, mirror=True).count
    means = [read(np.ascontiguousarray(view), Views()) for view in moved]
    for name, values in found.items():
        expected = np.mean([mean[name] for mean in means], axis=0)
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=2e-3)


def test_crops_are_averaged_by_quadrant() -> None:
    batch = images(3)
    network = random.network({"name": "resnet10", "width": 0.0625}, 0)
    network.calibrate([noise(16)])
    views = Views(crop=16, crops=4)
    selection = select_layers(network, "dcgan", ["stage4_1"], 4, "average", views)
    found, _ = extract.extract_features(network.activations, batch, selection)
    places = [round(i * 16 / 3) for i in range(4)]
    for row in range(2):
        for column in range(2):
            parts = []
            for top in places[2 * row : 2 * row + 2]:
                for left in places[2 * column : 2 * column + 2]:
                    crop = torch.from_numpy(batch[:, top : top + 16, left : left + 16])
                    x = crop.permute(0, 3, 1, 2).float() / 127.5 - 1
                    with torch.no_grad():
                        maps = network.activations(x, ["stage4_1"])["stage4_1"]
                    parts.append(maps.mean((2, 3)).numpy())
            expected = np.mean(parts, axis=0)
            values = found["stage4_1"][:, :, row, column].astype(np.float32)
            np.testing.assert_allclose(values, expected, rtol=2e-3, atol=2e-3)


def test_both_joins_maxima_and_averages() -> None:
    batch = images(2)
    both = read(batch, Views(), "both")
    largest = read(batch, Views(), "max")
    average = read(batch, Views(), "average")
    for name, values in both.items():
        expected = np.concatenate([largest[name], average[name]], axis=1)
        np.testing.assert_array_equal(values, expected)


def test_crops_and_shifts_together_are_refused() -> None:
    with pytest.raises(ValueError, match="neither extract.shift nor mode bn_crelu") as caught:
        ExtractConfig(crop=16, shift=2)
    assert isinstance(explain(caught.value, ExtractConfig), RequestError)  # type: ignore[arg-type]
