"""Batch-norm statistics against a plain two-pass numpy version of the authors' script."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from gan_core.baselines import random
from gan_core.errors import DataError
from gan_core.features import extract
from gan_core.features.external.network import ExternalNetwork
from gan_core.features.modes import LayerSize, Selection, select_layers
from gan_core.randomness import numpy_stream


def pixels(count: int) -> np.ndarray:
    levels = (load_digits().images[:count] * 15.9375).astype(np.uint8)
    return np.repeat(np.repeat(levels, 4, 1), 4, 2)[..., None].repeat(3, -1)


def test_statistics_are_those_of_the_authors_script() -> None:
    """Per batch of 128: mean, then the mean squared distance from it; averaged over batches, a last
    small batch counting equally.

    Layer 3 is measured with layer 2 normalised by its own batch's statistics.
    """
    count = 300  # 128 + 128 + 44
    images = pixels(count)
    network = random.network({"name": "dcgan32_svhn", "width": 0.25}, 5)
    used = extract.set_statistics(network, lambda rows: images[rows], count, 10_000, 3, "cpu")
    order = numpy_stream(3, "statistics").permutation(count)
    weights = [network.layer(name).operation.weight for name in ("conv1", "conv2", "conv3")]
    gains = {
        name: (network.layer(name).norm.weight.numpy(), network.layer(name).norm.bias.numpy())
        for name in ("conv2", "conv3")
    }
    sums: dict[str, list[np.ndarray]] = {
        "conv2.mean": [],
        "conv2.variance": [],
        "conv3.mean": [],
        "conv3.variance": [],
    }
    for start in range(0, count, 128):
        batch = (
            images[np.sort(order[start : start + 128])].astype(np.float64).transpose(0, 3, 1, 2)
            / 127.5
            - 1
        )
        x = F.leaky_relu(
            F.conv2d(torch.from_numpy(batch), weights[0].double(), stride=2, padding=2), 0.2
        )
        for name, weight in zip(("conv2", "conv3"), weights[1:], strict=True):
            maps = F.conv2d(x, weight.double(), stride=2, padding=2).numpy()
            mean = maps.mean((0, 2, 3))
            variance = ((maps - mean[:, None, None]) ** 2).mean((0, 2, 3))
            sums[f"{name}.mean"].append(mean)
            sums[f"{name}.variance"].append(variance)
            gain, bias = gains[name]
            normal = (maps - mean[:, None, None]) / np.sqrt(variance + 1e-8)[:, None, None]
            x = F.leaky_relu(
                torch.from_numpy(normal * gain[:, None, None] + bias[:, None, None]), 0.2
            )
    found = extract.statistics_of(network)
    assert used == count and set(found) == set(sums)
    for name, parts in sums.items():
        np.testing.assert_allclose(
            found[name].numpy(), np.mean(parts, axis=0), rtol=2e-4, atol=2e-6
        )


def test_a_last_batch_of_one_image_is_left_out() -> None:
    images = pixels(129)
    network = random.network({"name": "dcgan32_svhn", "width": 0.25}, 0)
    assert extract.set_statistics(network, lambda rows: images[rows], 129, 10_000, 0, "cpu") == 128
    with pytest.raises(DataError, match="there are 1"):
        extract.set_statistics(network, lambda rows: images[rows], 1, 10_000, 0, "cpu")


def test_statistics_come_back_as_they_were() -> None:
    images = pixels(64)
    network, other = (
        random.network({"name": "dcgan32_svhn", "width": 0.25}, 0),
        random.network({"name": "dcgan32_svhn", "width": 0.25}, 0),
    )
    extract.set_statistics(network, lambda rows: images[rows], 64, 10_000, 0, "cpu")
    before = extract.statistics_of(network)
    extract.restore_statistics(other, before)
    assert extract.digest_of(extract.statistics_of(other)) == extract.digest_of(before)
    assert not torch.equal(before["conv2.mean"], torch.zeros(32))


def test_taking_in_any_batches_gives_the_same_features() -> None:
    images = pixels(50)
    network = random.network({"name": "dcgan32_svhn", "width": 0.25}, 0)
    extract.set_statistics(network, lambda rows: images[rows], 50, 10_000, 0, "cpu")
    selection = select_layers(network)
    whole, _ = extract.extract_features(network.activations, images, selection, batch=50)
    for batch in (1, 7):
        pieces, _ = extract.extract_features(network.activations, images, selection, batch=batch)
        for name, values in whole.items():
            np.testing.assert_allclose(
                pieces[name].astype(np.float32), values.astype(np.float32), rtol=2e-3, atol=1e-3
            )


def test_random_weights_are_the_authors_initialisation_and_seeded() -> None:
    first, same, other = (
        random.network({"name": "dcgan32_svhn", "width": 1.0}, seed).layer("conv3").operation.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert abs(float(first.std()) - 0.02) < 1e-3 and abs(float(first.mean())) < 1e-3


class Watching(torch.nn.Module):
    """Notes what torch may do to float32 on a GPU while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.norm, self.seen = (
            torch.nn.Conv2d(3, 2, 3),
            torch.nn.BatchNorm2d(2),
            set[tuple[bool, bool]](),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return F.relu(self.norm(self.main(x)))


def test_float32_is_float32_while_features_are_taken_and_the_setting_is_put_back() -> None:
    module = Watching()
    images = pixels(3)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        network = ExternalNetwork(module, 32)
        module.seen.clear()
        extract.set_statistics(network, lambda rows: images[rows], 3, 3, 0, "cpu")
        extract.extract_features(
            network.activations, images, select_layers(network, layers=["main"])
        )
        assert module.seen == {(False, False)}
        assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_nan_is_refused_with_its_layer_and_images_and_infinity_is_counted() -> None:
    images = pixels(5)

    def network(x: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
        maps = x[:, :1].clone()
        maps[0, 0, 0, 0] = torch.inf  # the first of each batch
        worse = maps.clone()
        worse[-1, 0, 4, 4] = torch.nan  # the last of each batch
        return {"fine": maps, "bad": worse}

    sizes = [LayerSize(name, (1, 32, 32), (1, 4, 4)) for name in ("fine", "bad")]
    found, clipped = extract.extract_features(network, images, Selection(sizes[:1]), batch=3)
    assert clipped == 2 and found["fine"].max() == 65504
    with pytest.raises(DataError, match="1 activations of layer 'bad' .* in 1 of 3 images: c"):
        extract.extract_features(network, images, Selection(sizes), batch=3, names=list("abcde"))
