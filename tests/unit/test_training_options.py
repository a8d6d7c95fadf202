"""Options of modern mode and what is measured during training: augmentation, R1, spectral norm,
probe, memorisation, conditional nets.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_core.config import NetworkConfig, TrainConfig
from gan_core.errors import RequestError
from gan_core.inspection.memorisation import draw
from gan_core.methods.augment import augment
from gan_core.methods.base import Base
from gan_core.methods.losses import gradient_penalty
from gan_core.networks.layers import calibrate_batchnorm
from gan_core.networks.snapshot import last_snapshot, load_snapshot
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train
from gan_core.training.probe import Probe
from gan_core.training.trainer_state import build, plain_copies
from gan_core.vision.tensors import to_float

BASE: dict[str, Any] = {"network": {"width": 0.125}, "batch": 16, "kimg": 0.16, "log_kimg": 0.05}


def noise(count: int = 64, size: int = 32) -> ArrayImages:
    return ArrayImages(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))


@pytest.mark.parametrize("kind", ["color", "translation", "cutout"])
def test_augmentation_changes_each_image_its_own_way_and_passes_the_gradient(kind: str) -> None:
    x = (
        torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ).requires_grad_(True)
    out = augment(x, [kind], torch.Generator().manual_seed(1))
    assert out.shape == x.shape and not torch.equal(out, x)
    assert torch.equal(out, augment(x, [kind], torch.Generator().manual_seed(1)))
    out.sum().backward()
    assert x.grad is not None and (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_translation_is_a_shift_by_whole_pixels_with_zeros_outside() -> None:
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 0.1
    out = augment(x, ["translation"], torch.Generator().manual_seed(1))
    seen = set()
    for before, after in zip(x, out, strict=True):
        shifts = []
        for down in range(-2, 3):
            for across in range(-2, 3):
                moved = torch.zeros_like(before)
                ys, xs = (
                    slice(max(0, down), 16 + min(0, down)),
                    slice(max(0, across), 16 + min(0, across)),
                )
                yt, xt = (
                    slice(max(0, -down), 16 + min(0, -down)),
                    slice(max(0, -across), 16 + min(0, -across)),
                )
                moved[:, ys, xs] = before[:, yt, xt]
                if torch.equal(moved, after):
                    shifts.append((down, across))
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) > 12


@pytest.mark.parametrize("side", [32, 64, 29, 30])
def test_cutout_is_that_of_its_authors_image_by_image(side: int) -> None:
    """mit-han-lab/data-efficient-gans, rand_cutout: size int(side / 2 + 0.5), placed by a number
    below side + (1 - size % 2).
    """
    size = int(side * 0.5 + 0.5)
    out = augment(torch.ones(200, 1, side, side), ["cutout"], torch.Generator().manual_seed(0))
    places = torch.randint(
        0, side + (1 - size % 2), (2, 200), generator=torch.Generator().manual_seed(0)
    ).tolist()
    for image, down, across in zip(out, *places, strict=True):
        mask = torch.ones(side, side)
        for i in range(size):
            for j in range(size):
                mask[
                    min(max(down + i - size // 2, 0), side - 1),
                    min(max(across + j - size // 2, 0), side - 1),
                ] = 0
        assert torch.equal(image[0], mask)
    assert int((out == 0).sum((1, 2, 3)).max()) == size * size and len(set(places[0])) > side * 0.9


@pytest.mark.parametrize("kind", ["color", "translation", "cutout"])
def test_shares_of_a_batch_are_augmented_as_the_whole(kind: str) -> None:
    x = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = augment(x, [kind], torch.Generator().manual_seed(1))
    for rank in range(3):
        part = augment(x[rank::3], [kind], torch.Generator().manual_seed(1), (rank, 3))
        assert torch.allclose(part, whole[rank::3], atol=1e-6)


def test_the_gradient_penalty_is_the_squared_slope_of_the_score() -> None:
    class Quadratic(torch.nn.Module):
        def forward(self, x: torch.Tensor, labels: object = None) -> torch.Tensor:
            return (x.square() / 2).sum((1, 2, 3))[:, None]

    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(gradient_penalty(Quadratic(), x)) == pytest.approx(
        float(x.square().sum((1, 2, 3)).mean()), rel=1e-5
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_options_train_and_resume_and_leave_ordinary_snapshots(
    tmp_path: Path, precision: str
) -> None:
    settings = TrainConfig(
        **BASE,
        options={"augment": ["color", "translation", "cutout"], "r1": 1.0, "spectral_norm": True},
        flip=True,
    )
    whole = train(noise(), Context(settings, tmp_path / "a", 32, precision=precision))
    assert all("r1" in line for line in whole.stats) and whole.complete
    while not train(
        noise(), Context(settings, tmp_path / "b", 32, precision=precision, max_seconds=0.05)
    ).complete:
        pass
    a, b = (last_snapshot(tmp_path / name / "products") for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    snapshot = load_snapshot(a)  # refuses tensors that an ordinary network does not have
    x = torch.rand(4, 3, 32, 32)
    trained = plain_copies(whole.state)[1]["discriminator"]
    real = to_float(torch.from_numpy(noise().pixels()))
    calibrate_batchnorm(
        trained, [real[i : i + 16] for i in range(0, 64, 16)]
    )  # of all its training images, in batches
    assert torch.allclose(snapshot.discriminator(x), trained.eval()(x), atol=1e-4)


def test_spectral_norm_holds_the_largest_singular_value_at_one() -> None:
    state = build(
        TrainConfig(**BASE, options={"spectral_norm": True}), seed=0, device="cpu", image_size=32
    )
    discriminator = state.networks["discriminator"].train()
    for _ in range(30):
        discriminator(torch.rand(4, 3, 32, 32))
    for info in discriminator.layers():
        weight = discriminator.layer(info.name).operation.weight.detach().flatten(1)
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1.0, abs=0.02)


def test_paper_mode_refuses_what_the_authors_did_not_do() -> None:
    with pytest.raises(RequestError, match="augment, r1 belong to mode 'modern'"):
        TrainConfig(options={"mode": "paper", "augment": ["color"], "r1": 1.0})


def test_the_conditional_network_trains_on_labels(tmp_path: Path) -> None:
    settings = TrainConfig(
        **{**BASE, "network": {"name": "dcgan28_mnist", "width": 0.125}},
        options={"mode": "paper"},
    )
    trained = train(noise(size=28), Context(settings, tmp_path, 28), labels=np.arange(64) % 10)
    assert trained.complete
    snapshot = load_snapshot(last_snapshot(tmp_path / "products"))
    assert snapshot.prior.classes == 10
    assert draw(snapshot, 12, seed=0)[0].shape == (12, 28, 28, 3)


def coloured(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images whose class is their colour, in noise."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, count)
    pixels = random.integers(0, 120, (count, 32, 32, 3))
    pixels[np.arange(count), :, :, labels] += 100
    return pixels.astype(np.uint8), labels


def test_the_probe_reads_off_what_is_there_and_nothing_else() -> None:
    pixels, labels = coloured(300)
    state = build(TrainConfig(**BASE), seed=0, device="cpu", image_size=32)
    discriminator = state.networks["discriminator"]
    assert Probe(ArrayImages(pixels), labels, seed=0).accuracy(discriminator) > 0.95
    shuffled = np.random.default_rng(1).permutation(labels)
    assert Probe(ArrayImages(pixels), shuffled, seed=0).accuracy(discriminator) < 0.6
    assert not Probe(ArrayImages(pixels), np.zeros(300, np.int64), seed=0).useful
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.zero_()
    dead = Probe(ArrayImages(pixels), labels, seed=0).accuracy(discriminator)
    assert dead < 0.6, (
        "a discriminator that has died gives chance, and no error before a person looks for "
        "divergence"
    )


def test_width_and_latents_are_settings() -> None:
    settings = TrainConfig(network=NetworkConfig(width=0.25, latent_dim=16))
    state = build(settings, seed=0, device="cpu", image_size=32)
    assert state.grid_latents.shape == (64, 16) and state.spec["width"] == 0.25


def test_clusters_are_matched_to_labels_as_the_best_permutation_does() -> None:
    """Four clusters, three labels: against every assignment; held-out images are scored."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    truth = np.array([2, 0, 1])[labels]  # the cluster of a label, wrong for every fourth image
    clusters = np.where(random.random(200) < 0.25, random.integers(0, 4, 200), truth)
    pixels = np.zeros((200, 4, 4, 3), np.uint8)
    pixels[..., 0] = clusters[:, None, None]
    probe = Probe(ArrayImages(pixels), labels, seed=0)

    class Clustering(Base):
        def clusters(self, images: torch.Tensor) -> torch.Tensor:
            number = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
            return torch.nn.functional.one_hot(number, 4).float()

    held, fit = (part[:, 0, 0, 0] for part in probe._pixels)
    held_labels, fit_labels = (part.numpy() for part in probe._labels)
    best = max(
        itertools.permutations(range(4), 3),
        key=lambda found: sum(
            ((fit == found[label]) & (fit_labels == label)).sum() for label in range(3)
        ),
    )
    expected = np.mean(
        [cluster == best[label] for cluster, label in zip(held, held_labels, strict=True)]
    )
    assert probe.cluster_accuracy(Clustering()) == pytest.approx(expected)
    assert expected > 0.7
