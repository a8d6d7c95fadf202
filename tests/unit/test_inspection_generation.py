"""Distances of samples to training images, with samples that are known to be right or wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from gan_core.errors import RequestError
from gan_core.inspection import generation
from gan_core.inspection.base import Context, as_float
from gan_core.metrics.generation import SUBSETS, Products, kernel_distance
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, Snapshot, build_networks
from gan_core.vision.tensors import to_float
from tests.packs import write_pack

COUNT = 400


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """COUNT digits for training and COUNT others: uint8 [2 COUNT, 32, 32, 3], and labels."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[: 2 * COUNT]  # of all writers
    pixels = np.clip(data.images[order] * 16, 0, 255).astype(np.uint8)
    images = np.stack([cv2.resize(image, (32, 32)) for image in pixels])
    return images[..., None].repeat(3, axis=3), data.target[order]


@pytest.fixture(scope="module")
def context(
    digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Context:
    """An untrained snapshot, and a training set with labels."""
    folder = tmp_path_factory.mktemp("pack")
    images, labels = digits
    write_pack(folder, images[:COUNT], label=labels[:COUNT].tolist())
    networks = build_networks({"name": "dcgan32_svhn", "width": 0.125})
    for number, network in enumerate(networks.values()):
        initialise(network, torch.Generator().manual_seed(number))
    networks["generator"].calibrate([torch.rand(64, 100) * 2 - 1])
    networks["discriminator"].calibrate([torch.rand(64, 3, 32, 32) * 2 - 1])
    return Context(Snapshot(networks, Prior(classes=10)), packs=[folder])


def test_real_samples_score_as_the_floor_and_bad_ones_do_not(
    context: Context, digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = as_float(digits[0][COUNT:])
    monkeypatch.setattr(Context, "samples", lambda self, count, stream: good[:count])
    numbers = generation.inspect(context, generation.Options()).numbers
    assert numbers["power"] and numbers["images"] == COUNT // 2
    metrics = numbers["metrics"]
    floor, samples = metrics["other training images"], metrics["samples"]
    worst = min(metrics[f"those {how}"]["frechet"] for how in ("blurred", "with noise"))
    assert floor["frechet"] < worst and samples["frechet"] < worst
    assert samples["precision"] > 0.7 and samples["recall"] > 0.7
    low = as_float(digits[0][COUNT:]) * 0.4 - 0.6  # contrast alone is wrong
    monkeypatch.setattr(Context, "samples", lambda self, count, stream: low[:count])
    metrics = generation.inspect(context, generation.Options()).numbers["metrics"]
    assert metrics["samples"]["frechet"] > worst
    assert metrics["samples with the contrast of training images"]["frechet"] < worst


def test_labelled_samples_are_judged_by_the_labels_they_were_asked_for(
    context: Context, digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = as_float(digits[0][COUNT:]), digits[1][COUNT:]

    def drawn(shift: int) -> object:
        def generate(snapshot: Snapshot, latents: Tensor, labels_: Tensor) -> Tensor:
            random = np.random.default_rng(0)
            rows = [random.choice(np.flatnonzero(labels == (y + shift) % 10)) for y in labels_]
            return images[rows]

        return lambda snapshot, latents, *, labels: generate(snapshot, latents, labels)

    errors = []
    for shift in (0, 1):
        monkeypatch.setattr(generation, "generate", drawn(shift))
        found = generation.inspect(context, generation.Options()).numbers["labelled_1nn"]
        errors.append(found["labelled_samples"]["error"])
        assert found["real_images"]["error"] < 0.2
    assert errors[0] < 0.2 and errors[1] > 0.9


def test_kernel_distance_of_equal_distributions_is_around_zero() -> None:
    random = np.random.default_rng(0)
    same, moved = random.normal(size=(2, 400, 8)), random.normal(0.3, 1, (400, 8))
    mean, deviation = kernel_distance(Products.of(*same), SUBSETS, 100)
    assert abs(mean) < deviation
    assert kernel_distance(Products.of(moved, same[0]), SUBSETS, 100)[0] > 3 * deviation


class RunsCode:
    """A fault: a file of weights that would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path("ran").touch, ())  # type: ignore[return-value]


def test_weights_that_are_none_are_refused(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as refused:
        generation.inspect(context, generation.Options(weights="not/there.pth"))
    assert "weights-inception-2015-12-05" in refused.value.explain()
    pytest.importorskip("torch_fidelity")
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(RequestError, match="does not hold"):
        generation.inspect(context, generation.Options(weights="bad.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_with_inception_weights_the_figures_are_torch_fidelitys(
    digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Inception with random weights, since the real ones have to be downloaded."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with monkeypatch.context() as patched:
        patched.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    images, real = (
        torch.from_numpy(digits[0][start : start + 12]).permute(0, 3, 1, 2) for start in (0, COUNT)
    )
    extractor = generation._inception(str(path), "cpu")
    assert extractor.names == ("FID", "KID") and "torch-fidelity" in extractor.library
    features, _ = extractor.read(to_float(real.permute(0, 2, 3, 1)))
    one = generation._measured(extractor, to_float(images.permute(0, 2, 3, 1)), features)

    class Set(torch.utils.data.Dataset[Tensor]):
        def __init__(self, tensors: Tensor) -> None:
            self.tensors = tensors

        def __len__(self) -> int:
            return len(self.tensors)

        def __getitem__(self, row: int) -> Tensor:
            return self.tensors[row]

    expected = torch_fidelity.calculate_metrics(
        input1=Set(images),
        input2=Set(real),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=6,
        feature_extractor="inception-v3-compat",  # its own choice for precision is VGG16
        feature_extractor_weights_path=str(path),
        cuda=False,
        cache=False,
        verbose=False,
    )
    for name, theirs, tolerance in (
        ("frechet", "frechet_inception_distance", 1e-3),
        ("kernel", "kernel_inception_distance_mean", 1e-3),
        ("score_mean", "inception_score_mean", 1e-4),
        ("precision", "precision", 1e-6),
        ("recall", "recall", 1e-6),
    ):
        assert one[name] == pytest.approx(expected[theirs], rel=tolerance, abs=1e-5), name
