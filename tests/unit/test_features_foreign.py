"""Anybody's network: the PyTorch tutorial's discriminator as it stands, functional nonlinearities, weights from files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gan_core.errors import DataError, RequestError, UnknownName
from gan_core.features.foreign import ForeignNetwork, features
from gan_core.features.weights import build_module, load_weights

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


def test_the_tutorials_discriminator_gives_15360_and_they_are_its_activations(tutorial: nn.Module) -> None:
    pictures = digits(5, 64)
    matrix, sizes = features(tutorial, pictures, batch=2, device="cpu")
    assert matrix.shape == (5, 15_360) and matrix.dtype == np.float16
    assert [size.name for size in sizes] == ["main_0", "main_2", "main_5", "main_8"]
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    parts = []
    for place, module in enumerate(tutorial.main):
        x = module(x.clone())
        if place in (1, 4, 7, 10):  # the LeakyReLUs
            parts.append(F.max_pool2d(x, x.shape[2] // 4).flatten(1))
    np.testing.assert_allclose(matrix.astype(np.float32), torch.cat(parts, 1).numpy(), rtol=2e-3, atol=2e-3)


def test_layers_are_named_with_dots_or_as_columns(tutorial: nn.Module) -> None:
    pictures = digits(2, 64)
    both = [features(tutorial, pictures, [name], device="cpu")[0] for name in ("main.5", "main_5", "main.7")]
    assert both[0].shape == (2, 256 * 16)
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_array_equal(both[0], both[2])  # the convolution's activation is what its LeakyReLU gives
    with pytest.raises(UnknownName, match="main_5"):
        features(tutorial, pictures, ["main.55"], device="cpu")


def test_pictures_of_a_side_that_it_does_not_take_are_resized_and_it_is_said(
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


def test_channels_that_pictures_do_not_have_are_refused() -> None:
    with pytest.raises(RequestError, match="takes 13 channels"):
        ForeignNetwork(nn.Sequential(nn.Conv2d(13, 4, 3), nn.Conv2d(4, 1, 3)))


class Functional(nn.Module):
    """Nonlinearities and pooling as functions, which no hook on a module sees; one grey channel; a residual sum."""

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
    network = ForeignNetwork(module, 16)
    assert [info.name for info in network.layers() if info.maps] == ["first", "second", "third"]
    found = network.activations(torch.rand(3, 3, 16, 16), ["first", "second"])
    for name in ("first", "second"):
        assert torch.equal(found[name], module.kept[name])


def test_batch_norm_statistics_over_real_pictures() -> None:
    torch.manual_seed(2)
    module = Functional()
    before = module.norm.running_mean.clone()
    pictures = digits(40, 16)
    features(module, pictures, device="cpu")
    assert torch.equal(module.norm.running_mean, before), "running statistics were touched"
    features(module, pictures, device="cpu", statistics="real")
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    grey = (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    maps = module.second(F.relu(module.first(grey)))
    torch.testing.assert_close(module.norm.running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.norm.running_var, maps.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)
    assert not module.norm.training


def test_values_of_other_ranges() -> None:
    network = ForeignNetwork(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)), 8, "imagenet")
    white = network.prepare(torch.ones(1, 3, 8, 8))
    torch.testing.assert_close(white[0, :, 0, 0], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "wrapped", "parallel", "both"])
def test_weights_from_files(tutorial: nn.Module, tmp_path: Path, form: str) -> None:
    wanted = {
        name: torch.randn_like(value) if value.is_floating_point() else value for name, value in tutorial.state_dict().items()
    }
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(wanted, path)
    else:
        parallel = {f"module.{name}": value for name, value in wanted.items()}
        both = {f"discriminator.{name}": value for name, value in wanted.items()} | {"generator.main.0.weight": torch.ones(3)}
        forms = {"state_dict": wanted, "wrapped": {"netD": wanted, "epoch": 3}, "parallel": parallel, "both": both}
        torch.save(forms[form], path)
    load_weights(tutorial, path)
    assert torch.equal(tutorial.main[0].weight, wanted["main.0.weight"])


def test_weights_that_do_not_fit_are_named(tutorial: nn.Module, tmp_path: Path) -> None:
    weights = dict(tutorial.state_dict())
    weights["first.0.weight"] = weights.pop("main.0.weight")
    save_file(weights, tmp_path / "w.safetensors")
    told = r"missing in the file: main.0.weight; not in the network: first.0.weight; main.0.weight may be the file's first.0.weight"
    with pytest.raises(DataError, match=told):
        load_weights(tutorial, tmp_path / "w.safetensors")


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("/tmp/discern-was-here").touch, ())


def test_fresh_weights_are_the_same_tomorrow_and_leave_the_random_numbers_alone(tutorial: nn.Module) -> None:
    torch.manual_seed(5)
    after = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (
        build_module("tutorial_dcgan:Discriminator", {"ngpu": 1}, seed=seed, fresh=True) for seed in (3, 3, 4)
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
def test_names_of_networks_that_cannot_be_meant(tutorial: nn.Module, text: str, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        build_module(text)
