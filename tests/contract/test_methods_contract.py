"""Checks over every method: its updates move the right weights, it trains, resumes bit for bit, and
its snapshot gives samples and features.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_core import registry
from gan_core.config import NetworkConfig, TrainConfig
from gan_core.errors import RequestError
from gan_core.methods.base import Batch
from gan_core.networks.snapshot import generate, last_snapshot, load_snapshot, sample_latents
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train
from gan_core.training.trainer_state import TrainerState, build

NAMES = registry.names("methods")
CLASSES, BATCH, SIDE = 4, 8, 32
WIDTH = 0.0625
LABELS = np.arange(64) % CLASSES


@functools.cache
def fitting(name: str) -> str:
    """The first network for 32 px whose roles the method can be built of."""
    for network in registry.names("networks"):
        try:
            if registry.load("networks", network).IMAGE_SIZE == SIDE:
                state_of(name, network)
                return network
        except RequestError:
            continue
    raise AssertionError(f"no network for {SIDE} px fits {name}")


def settings_of(name: str, network: str, **changed: Any) -> TrainConfig:
    return TrainConfig(
        method=name,
        network=NetworkConfig(name=network, width=WIDTH),
        batch=BATCH,
        **{"kimg": 0.064, "log_kimg": 0.032, **changed},
    )


def state_of(name: str, network: str) -> TrainerState:
    settings = settings_of(name, network)
    return build(settings, seed=0, device="cpu", image_size=SIDE, classes=CLASSES)


def batch_of(state: TrainerState, index: int) -> Batch:
    random = torch.Generator().manual_seed(index)
    images = torch.rand(BATCH, 3, SIDE, SIDE, generator=random) * 2 - 1

    def latents() -> torch.Tensor:
        return torch.rand(BATCH, state.prior.dim, generator=random) * 2 - 1

    labels = torch.arange(BATCH) % CLASSES
    return Batch(index, images, labels, latents, random, (0, 1), CLASSES)


def pixels() -> ArrayImages:
    coarse = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    return ArrayImages(coarse.repeat(4, axis=1).repeat(4, axis=2))


def trained(name: str, folder: Path, **changed: Any) -> TrainerState:
    settings = settings_of(name, fitting(name), **changed)
    context = Context(settings, folder, SIDE, seed=1, classes=CLASSES)
    return train(pixels(), context, labels=LABELS).state


def weights(state: TrainerState) -> list[torch.Tensor]:
    return [p for role in sorted(state.networks) for p in state.networks[role].parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_every_update_moves_its_own_weights_and_no_others(name: str) -> None:
    state = state_of(name, fitting(name))
    assert set(state.optimisers) == set(state.method.optimised)
    named = {role for rule in state.method.optimised.values() for role in rule.roles}
    assert named <= set(state.networks)
    shown, seen = 0, set()
    for index in range(max(1, state.method.period) * 2):
        for given in state.method.updates(batch_of(state, index)):
            group = given if isinstance(given, list) else [given]
            before = {
                role: [p.detach().clone() for p in net.parameters()]
                for role, net in state.networks.items()
            }
            for update in group:
                assert update.loss.dtype == torch.float32 and update.loss.dim() == 0
                assert torch.isfinite(update.loss)
                assert all(not v.requires_grad and v.dim() == 0 for v in update.figures.values())
                update.loss.backward()
                shown += update.real
            for update in group:
                state.optimisers[update.name].step()
                seen.add(update.name)
            moved = {r for u in group for r in state.method.optimised[u.name].roles}
            for role, net in state.networks.items():
                same = all(
                    torch.equal(p, q) for p, q in zip(before[role], net.parameters(), strict=True)
                )
                assert same or role in moved, f"{name}: an update of {sorted(moved)} moved {role}"
    assert seen and shown > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_stops_and_continues_ends_in_the_same_weights(
    name: str, tmp_path: Path
) -> None:
    whole = trained(name, tmp_path / "whole")
    trained(name, tmp_path / "parts", kimg=0.032)
    continued = trained(name, tmp_path / "parts")
    assert continued.position.images >= 64
    for a, b in zip(weights(whole), weights(continued), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_its_snapshot_gives_samples_features_and_grids(name: str, tmp_path: Path) -> None:
    state = trained(name, tmp_path)
    snapshot = load_snapshot(last_snapshot(tmp_path / "products"))
    images = generate(snapshot, sample_latents(snapshot.prior, 4, torch.Generator().manual_seed(0)))
    assert images.shape == (4, 3, SIDE, SIDE) and float(images.abs().max()) <= 1
    assert not set(state.method.scratch) & set(snapshot.networks)
    for role in registry.literal("methods", name, "FEATURES"):
        network = snapshot.network(role)
        x, labels, latents = snapshot.method.feature_inputs(role, images)
        maps = network.activations(x, labels=labels, latents=latents)
        assert all(torch.isfinite(value).all() for value in maps.values())
    score = snapshot.method.realness(images)
    assert score is None or score.shape == (4,)
    for grid in snapshot.method.grids(images, images).values():
        assert grid.shape[1:] == images.shape[1:]


def test_a_method_without_a_fitting_network_is_refused_with_those_that_fit() -> None:
    with pytest.raises(RequestError) as caught:
        build(settings_of("acgan", "dcgan64"), seed=0, device="cpu", image_size=64, classes=CLASSES)
    assert "resnet64" in caught.value.expected
