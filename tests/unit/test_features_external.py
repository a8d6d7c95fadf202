"""External networks: the PyTorch tutorial's discriminator unchanged, functional nonlinearities,
weights from files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gan_core.errors import DataError, RequestError, UnknownName
from gan_core.features.external.network import ExternalNetwork, features
from gan_core.features.external.weights import build_module, load_weights

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"  # the PyTorch tutorial's networks


@pytest.fixture
def tutorial(monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    torch.manual_seed(0)
    yield build_module("tutorial_dcgan:Discriminator(ngpu=1)")
    sys.modules.pop("tutorial_dcgan", None)


def digits(count: int, side: int) -> np.ndarray:
    levels = (load_digits().images[:count] * 15.9375).astype(np.uint8)
    return np.repeat(np.repeat(levels, side // 8, 1), side // 8, 2)[..., None].repeat(3, -1)


def test_the_tutorials_discriminator_gives_15360_and_they_are_its_activations(
    tutorial: nn.Module,
) -> None:
    pixels = digits(5, 64)
    matrix, sizes = features(tutorial, pixels, batch=2, device="cpu")
    assert matrix.shape == (5, 15_360) and matrix.dtype == np.float16
    assert [size.name for size in sizes] == ["main_0", "main_2", "main_5", "main_8"]
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    parts = []
    for place, module in enumerate(tutorial.eval().requires_grad_(False).main):
        x = module(x.clone())
        if place in (1, 4, 7, 10):  # the LeakyReLUs
            parts.append(F.max_pool2d(x, x.shape[2] // 4).flatten(1))
    np.testing.assert_allclose(
        matrix.astype(np.float32), torch.cat(parts, 1).numpy(), rtol=2e-3, atol=2e-3
    )


def test_layers_are_named_with_dots_or_as_columns(tutorial: nn.Module) -> None:
    pixels = digits(2, 64)
    both = [
        features(tutorial, pixels, [name], device="cpu")[0]
        for name in ("main.5", "main_5", "main.7")
    ]
    assert both[0].shape == (2, 256 * 16)
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_array_equal(
        both[0], both[2]
    )  # the convolution's activation is what its LeakyReLU gives
    with pytest.raises(UnknownName, match="main_5"):
        features(tutorial, pixels, ["main.55"], device="cpu")


def test_images_of_a_side_that_it_does_not_take_are_resized_and_it_is_said(
    tutorial: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    small = digits(2, 32)
    matrix, _ = features(tutorial, small, device="cpu")
    assert "32 x 32: they are resized" in caplog.text and "crop.size=64" in caplog.text
    x = torch.from_numpy(small).permute(0, 3, 1, 2).float()
    large = F.interpolate(x, (64, 64), mode="bilinear").round().to(torch.uint8).permute(0, 2, 3, 1)
    close, _ = features(tutorial, large, device="cpu")
    np.testing.assert_allclose(matrix.astype(np.float32), close.astype(np.float32), atol=0.02)
    with pytest.raises(RequestError, match="64 x 64"):
        features(tutorial, small, side=32, device="cpu")


def test_channels_that_images_do_not_have_are_refused() -> None:
    with pytest.raises(RequestError, match="takes 13 channels"):
        ExternalNetwork(nn.Sequential(nn.Conv2d(13, 4, 3), nn.Conv2d(4, 1, 3)))


class Functional(nn.Module):
    """Nonlinearities and pooling as functions, which no hook on a module sees; one grey channel; a
    residual sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 6, 3, 2, 1),
        )
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(6 * 4 * 4, 10)
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.first(x))
        two = F.leaky_relu(self.norm(self.second(one)) + one, 0.1)
        three = F.elu(self.third(two))
        self.kept = {"first": one, "second": two, "third": three}
        return F.log_softmax(self.head(F.adaptive_avg_pool2d(three, 4).flatten(1)), 1)


def test_activations_by_functions_are_found_where_the_next_layer_sees_them() -> None:
    torch.manual_seed(1)
    module = Functional().eval()
    network = ExternalNetwork(module, 16)
    assert [info.name for info in network.layers() if info.maps] == ["first", "second", "third"]
    found = network.activations(torch.rand(3, 3, 16, 16), ["first", "second"])
    for name in ("first", "second"):
        assert torch.equal(found[name], module.kept[name])


def test_batch_norm_statistics_over_real_images() -> None:
    torch.manual_seed(2)
    module = Functional()
    before = module.norm.running_mean.clone()
    pixels = digits(40, 16)
    features(module, pixels, device="cpu")
    assert torch.equal(module.norm.running_mean, before), "running statistics were touched"
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    ExternalNetwork(module, 16).calibrate([x])
    grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    maps = module.second(F.relu(module.first(grey)))
    torch.testing.assert_close(module.norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        module.norm.running_var, maps.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5
    )
    assert not module.norm.training
    torch.manual_seed(2)
    measured, _ = features(Functional(), pixels, device="cpu", statistics="real")
    np.testing.assert_array_equal(measured, features(module, pixels, device="cpu")[0])


def test_values_of_other_ranges() -> None:
    network = ExternalNetwork(
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)), 8, "imagenet"
    )
    white = network.prepare(torch.ones(1, 3, 8, 8))
    torch.testing.assert_close(
        white[0, :, 0, 0],
        torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]),
    )


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "wrapped", "parallel", "both"])
def test_weights_from_files(tutorial: nn.Module, tmp_path: Path, form: str) -> None:
    wanted = {
        name: torch.randn_like(value) if value.is_floating_point() else value
        for name, value in tutorial.state_dict().items()
    }
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(wanted, path)
    else:
        parallel = {f"module.{name}": value for name, value in wanted.items()}
        both = {f"discriminator.{name}": value for name, value in wanted.items()} | {
            "generator.main.0.weight": torch.ones(3)
        }
        forms = {
            "state_dict": wanted,
            "wrapped": {"netD": wanted, "epoch": 3},
            "parallel": parallel,
            "both": both,
        }
        torch.save(forms[form], path)
    load_weights(tutorial, path)
    assert torch.equal(tutorial.main[0].weight, wanted["main.0.weight"])


def test_weights_that_do_not_fit_are_named(tutorial: nn.Module, tmp_path: Path) -> None:
    weights = dict(tutorial.state_dict())
    weights["first.0.weight"] = weights.pop("main.0.weight")
    save_file(weights, tmp_path / "w.safetensors")
    message = (
        r"missing in the file: main.0.weight; not in the network: first.0.weight; "
        r"main.0.weight may be the file's first.0.weight"
    )
    with pytest.raises(DataError, match=message):
        load_weights(tutorial, tmp_path / "w.safetensors")


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("/tmp/discern-was-here").touch, ())


def test_fresh_weights_are_the_same_tomorrow_and_leave_the_random_numbers_alone(
    tutorial: nn.Module,
) -> None:
    torch.manual_seed(5)
    after = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (
        build_module("tutorial_dcgan:Discriminator", {"ngpu": 1}, seed=seed, fresh=True)
        for seed in (3, 3, 4)
    )
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(first.main[0].weight, again.main[0].weight)
    assert not torch.equal(first.main[0].weight, other.main[0].weight)


def test_a_pickle_is_not_run(tutorial: nn.Module, tmp_path: Path) -> None:
    torch.save({"netD": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(DataError, match="plain weights"):
        load_weights(tutorial, tmp_path / "evil.pth")
    assert not Path("/tmp/discern-was-here").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tutorial_dcgan:Discriminator", "missing a required argument: 'ngpu'"),
        ("tutorial_dcgan:Discriminater(1)", "did you mean 'Discriminator'"),
        ("tutorial_dcgan:Discriminator(print(1))", "cannot be read"),
        ("tutorial_dcgan", "does not name a network"),
        ("no_such_module:D", "cannot be imported"),
        ("tutorial_dcgan:nc", "cannot be made|not callable|gives a int"),
    ],
)
def test_names_of_networks_that_cannot_be_meant(
    tutorial: nn.Module, text: str, sentence: str
) -> None:
    with pytest.raises(RequestError, match=sentence):
        build_module(text)


class Branches(nn.Module):
    """A sum in place, in blocks whose columns share a name; its norm is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential()
        self.a.add_module("b", nn.Conv2d(3, 4, 3, padding=1))
        self.a_b, self.norm, self.head = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 1, 8),
        )
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.a(x))
        self.kept = [first.clone()]
        second = self.a_b(first)
        first += second  # what the second convolution was given changes after it was caught
        third = F.relu(self.norm(first))
        self.kept.append(second.clone())
        return self.head(third)


def test_a_sum_in_place_does_not_reach_what_was_caught_and_no_layer_is_dropped() -> None:
    torch.manual_seed(3)
    module = Branches().eval()
    network = ExternalNetwork(module, 8)
    assert [info.name for info in network.layers() if info.maps] == ["a_b", "a_b_2"]
    assert "that of 'a_b' is called 'a_b_2'" in network.assumed[-1]
    assert network.columns(["a.b", "a_b", "a_b_2"]) == ["a_b", "a_b_2", "a_b_2"]
    found = network.activations(torch.rand(2, 3, 8, 8), ["a_b"])
    assert torch.equal(found["a_b"], module.kept[0])


def norms(kind: str, module: nn.Module) -> nn.Module:
    """The module with every convolution's weight normalised in one of torch's ways."""
    make = {
        "spectral, by hook": lambda part: nn.utils.spectral_norm(part),
        "spectral, parametrised": lambda part: nn.utils.parametrizations.spectral_norm(part),
        "weight, parametrised": lambda part: nn.utils.parametrizations.weight_norm(part),
    }[kind]
    for part in module.modules():
        if type(part) is nn.Conv2d:
            make(part)
    return module


@pytest.mark.parametrize(
    "kind", ["spectral, by hook", "spectral, parametrised", "weight, parametrised"]
)
def test_normalised_weights_are_no_layers_and_hide_none(kind: str) -> None:
    torch.manual_seed(4)
    parts = [
        nn.Conv2d(3, 4, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 6, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(6, 1, 4),
    ]
    module = norms(kind, nn.Sequential(*parts)).eval()
    pixels = digits(3, 16)
    matrix, sizes = features(module, pixels, device="cpu")
    assert [(size.name, size.pooled) for size in sizes] == [("0", (4, 4, 4)), ("2", (6, 4, 4))]
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        maps = [F.max_pool2d(module[:2](x), 2), module[:4](x)]
    expected = torch.cat([one.flatten(1) for one in maps], 1).numpy()
    np.testing.assert_allclose(matrix.astype(np.float32), expected, rtol=2e-3, atol=2e-3)


def state(module: nn.Module) -> dict[str, Any]:
    """All that a caller can see of a module."""
    parameters = {
        name: (id(p), p.data.clone(), p.dtype, p.requires_grad, p.grad)
        for name, p in module.named_parameters()
    }
    buffers = {name: (id(b), b.clone()) for name, b in module.named_buffers()}
    return {
        "modes": [part.training for part in module.modules()],
        "parameters": parameters,
        "buffers": buffers,
    }


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_callers_network_is_as_it_was(ends: str) -> None:
    torch.manual_seed(5)
    parts = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 1, 6),
    ]
    module = nn.Sequential(*parts).half().train()
    module[0].weight.requires_grad_(False)
    module[1].eval()
    module[4].weight.grad = torch.ones_like(module[4].weight)
    before = state(module)
    if ends == "well":
        features(module, digits(6, 8), device="cpu", statistics="real", mode="bn_crelu")
    else:
        with pytest.raises(UnknownName):
            features(module, digits(6, 8), ["nothing"], device="cpu")
    after = state(module)
    assert after["modes"] == before["modes"] and after["buffers"].keys() == before["buffers"].keys()
    for name, (identity, data, kind, wanted, gradient) in before["parameters"].items():
        now = after["parameters"][name]
        assert (
            now[0] == identity
            and torch.equal(now[1], data)
            and now[2:4] == (kind, wanted)
            and now[4] is gradient
        )
    for name, (identity, values) in before["buffers"].items():
        assert after["buffers"][name][0] == identity and torch.equal(
            after["buffers"][name][1], values
        )
    assert (
        module[3].running_mean is None
        and not module[3].track_running_stats
        and module[3].momentum == 0.1
    )
    module.float()(torch.rand(2, 3, 8, 8)).sum().backward()  # and it still trains
    assert module[1].weight.grad is not None


def test_half_precision_is_run_in_float32_and_said(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(6)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 6)).half()
    matrix, _ = features(module, digits(2, 8), device="cpu")
    assert "float16: it is run in float32" in caplog.text
    same, _ = features(module.float(), digits(2, 8), device="cpu")
    np.testing.assert_array_equal(matrix, same)


class GreyInside(nn.Module):
    """Colour images; its first convolution in the order of its making sees one channel of them."""

    def __init__(self) -> None:
        super().__init__()
        self.light, self.colour = nn.Conv2d(1, 4, 3), nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 1, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.colour(x)) + F.relu(self.light(x[:, :1])))


def test_channels_are_found_by_running() -> None:
    assert ExternalNetwork(GreyInside(), given=8).input_shape == (3, 8, 8)
    assert ExternalNetwork(Functional(), given=16).input_shape == (1, 16, 16)


def test_an_encoder_of_convolutions_alone_keeps_its_last_layer() -> None:
    """A nonlinearity makes features of its last maps; without one they are taken for scores, and it
    is said.
    """
    torch.manual_seed(0)
    shaped = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()
    )
    matrix, sizes = features(shaped, digits(3, 16), mode="avepool", device="cpu")
    assert matrix.shape == (3, 8) and [size.name for size in sizes] == ["2"]
    assert features(shaped, digits(3, 16), device="cpu")[0].shape == (3, 12 * 16)
    for scoring in (shaped[:3], nn.Sequential(*shaped[:3], nn.Sigmoid())):
        network = ExternalNetwork(scoring)
        assert [info.kind for info in network.layers() if info.name == "2"] == ["head"]
        assert "2 with 8 maps" in network.assumed[-1] and "--layers 2" in network.assumed[-1]
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 14), nn.Sigmoid())
    assert len(ExternalNetwork(one, side=16).assumed) == 1


def test_what_cannot_be_run_is_said_before() -> None:
    with pytest.raises(RequestError, match="lazy layers"):
        features(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2)),
            digits(2, 16),
            device="cpu",
        )
    with pytest.raises(DataError, match="No image"):
        features(nn.Conv2d(3, 4, 3), digits(2, 16)[:0], device="cpu")
