"""Named modes of features on stand-ins for encoders, against the papers' words written out slowly
in numpy.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_core.errors import DataError, UnknownName
from gan_core.features.external.network import ExternalNetwork, features
from gan_core.features.modes import EPS, select_layers
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import BatchNorm, Layer, LayerInfo, conv, head


class Encoder(nn.Module):
    """A small convolutional encoder whose hidden activations and output are kept, as an author
    would look at them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.three, self.four = nn.Linear(6 * 16, 10), nn.Linear(10, 5)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        one = torch.relu(self.one(x))
        two = torch.relu(self.norm(self.two(one)))
        three = torch.tanh(self.three(two.flatten(1)))
        out = self.four(three)
        self.kept = [one, two, three, out]
        return out * 2  # the encoder's output is what it gives, not what its last layer gives


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = Encoder()
    made.norm.running_mean += 0.3
    return made


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)


def kept_of(encoder: Encoder, images: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        out = encoder.eval()(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return [*[maps.numpy() for maps in encoder.kept], out.numpy()]


def test_output_is_what_the_encoder_gives(encoder: Encoder, images: np.ndarray) -> None:
    matrix, sizes = features(encoder, images, mode="output", device="cpu")
    assert [(size.name, size.dims) for size in sizes] == [("output", 5)]
    np.testing.assert_allclose(matrix, kept_of(encoder, images)[4], rtol=1e-3, atol=1e-3)


def test_ali_is_the_last_three_hidden_layers_and_the_output_whole(
    encoder: Encoder, images: np.ndarray
) -> None:
    matrix, sizes = features(encoder, images, mode="ali", device="cpu")
    assert [size.name for size in sizes] == ["one", "two", "three", "output"]
    one, two, three, _, out = kept_of(encoder, images)
    rows = [
        [*one[row].ravel(), *two[row].ravel(), *three[row], *out[row]] for row in range(len(images))
    ]
    assert matrix.shape == (7, 4 * 64 + 6 * 16 + 10 + 5)
    np.testing.assert_allclose(matrix, np.array(rows), rtol=1e-3, atol=1e-3)


def test_avepool_averages_the_last_convolution(encoder: Encoder, images: np.ndarray) -> None:
    matrix, sizes = features(encoder, images, mode="avepool", device="cpu")
    assert [(size.name, size.dims) for size in sizes] == [("two", 6)]
    slow = [[maps.mean() for maps in image] for image in kept_of(encoder, images)[1]]
    np.testing.assert_allclose(matrix, np.array(slow), rtol=1e-3, atol=1e-3)


def test_bn_crelu_normalises_then_splits_by_sign(encoder: Encoder, images: np.ndarray) -> None:
    matrix, sizes = features(encoder, images, mode="bn_crelu", device="cpu", batch=3)
    assert sizes[0].dims == 12
    f = kept_of(encoder, images)[1].mean((2, 3)).astype(np.float64)
    a = (f - f.mean(0)) / np.sqrt(f.var(0) + EPS)
    np.testing.assert_allclose(
        matrix, np.concatenate([np.maximum(a, 0), np.maximum(-a, 0)], 1), rtol=2e-3, atol=2e-3
    )


def test_the_projects_own_networks_have_the_same_modes() -> None:
    flat = Layer(
        nn.Linear(8 * 16, 7),
        LayerInfo("code", (7, 1, 1), "linear"),
        norm=BatchNorm(7),
        activation=nn.LeakyReLU(0.2),
    )
    layers = [
        conv(f"conv{i}", 3 if i == 1 else 8, 8, 16 // 2**i, kernel=3, stride=2) for i in (1, 2)
    ]
    network = LayeredNetwork([*layers, flat, head("z", 7, 4)], (3, 16, 16))
    names = {
        mode: [size.name for size in select_layers(network, mode).sizes]
        for mode in ("dcgan", "output", "ali", "avepool")
    }
    assert names == {
        "dcgan": ["conv1", "conv2"],
        "output": ["z"],
        "ali": ["conv1", "conv2", "code", "z"],
        "avepool": ["conv2"],
    }
    assert [size.dims for size in select_layers(network, "ali").sizes] == [8 * 64, 8 * 16, 7, 4]
    assert select_layers(network, "bn_crelu", ["conv1"]).sizes[0].dims == 16, (
        "a named layer takes the place of the mode's choice"
    )


def test_a_network_without_such_layers_and_an_unknown_mode(encoder: Encoder) -> None:
    network = ExternalNetwork(encoder, 16)
    with pytest.raises(UnknownName, match="did you mean 'bn_crelu'"):
        select_layers(network, "bn_crel")
    only_head = LayeredNetwork([head("z", 3, 4)], (3, 1, 1))
    with pytest.raises(DataError, match="no convolutional layers"):
        select_layers(only_head, "avepool")
