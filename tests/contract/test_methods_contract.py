"""What every method file must hold to, on the first network that fits it: its updates move the
right weights and carry finite figures, its training resumes bit for bit, its snapshots hold
calibrated networks that give features.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_core import registry
from gan_core.baselines import random
from gan_core.config import TrainConfig
from gan_core.errors import RequestError
from gan_core.methods.base import Batch, Update
from gan_core.networks.make import Make
from gan_core.networks.snapshot import generate, last_snapshot, load_snapshot, sample_latents
from gan_core.training import step_cost as step_cost_module
from gan_core.training.context import Context, Trained
from gan_core.training.cuda_graphs import CapturedSteps
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train
from gan_core.training.step import step
from gan_core.training.step_cost import step_cost
from gan_core.training.trainer_state import TrainerState, build

SIZE, CLASSES, COUNT, WIDTH = 32, 4, 8, 0.0625
NETWORKS = ("dcgan32_svhn", "dcgan32", *registry.names("networks"))  # the quickest first
CASES = [
    pytest.param(name, options, id=f"{name}-{'-'.join(map(str, options.values())) or 'default'}")
    for name in registry.names("methods")
    for options in registry.literal("methods", name, "EXAMPLES", ({},))
]
each_method = pytest.mark.parametrize(("name", "options"), CASES)


@cache
def network_for(name: str) -> str:
    """The first network of 32 px that has all roles of a method."""
    for network in dict.fromkeys(NETWORKS):
        if registry.load("networks", network).IMAGE_SIZE != SIZE:
            continue
        try:
            build(
                TrainConfig(method=name, network={"name": network, "width": WIDTH}),
                seed=0,
                device="cpu",
                image_size=SIZE,
                classes=CLASSES,
            )
        except RequestError:
            continue
        return network
    raise AssertionError(f"no network of {SIZE} px fits the method {name}")


def settings_for(name: str, options: dict[str, Any], **given: Any) -> TrainConfig:
    return TrainConfig(
        method=name,
        options=options,
        network={"name": network_for(name), "width": WIDTH},
        **{"batch": COUNT, "learning_rate": 1e-3, "ema_kimg": 0.1, **given},
    )


def made(name: str, options: dict[str, Any], **given: Any) -> TrainerState:
    settings = settings_for(name, options, **given)
    return build(settings, seed=0, device="cpu", image_size=SIZE, classes=CLASSES)


def batch_of(state: TrainerState, index: int) -> Batch:
    stream = torch.Generator().manual_seed(index)
    return Batch(
        index,
        torch.rand(COUNT, 3, SIZE, SIZE, generator=stream) * 2 - 1,
        torch.arange(COUNT) % CLASSES,
        lambda: torch.rand(COUNT, state.prior.dim, generator=stream) * 2 - 1,
        stream,
        classes=CLASSES,
    )


def minibatches(state: TrainerState) -> range:
    return range(2 * max(1, state.method.period))


def as_list(given: Update | list[Update]) -> list[Update]:
    return [given] if isinstance(given, Update) else given


@each_method
def test_every_update_moves_its_own_weights_and_no_others(
    name: str, options: dict[str, Any]
) -> None:
    state = made(name, options)
    assert set(state.optimisers) == set(state.method.optimised)
    seen, shown = set(), 0
    start = {
        role: [p.detach().clone() for p in n.parameters()] for role, n in state.networks.items()
    }
    for index in minibatches(state):
        for given in state.method.updates(batch_of(state, index)):
            updates = as_list(given)
            own = {id(p) for update in updates for p in state.parameters(update.name)}
            before = {
                role: [p.detach().clone() for p in net.parameters()]
                for role, net in state.networks.items()
            }
            for update in updates:
                assert update.loss.dtype == torch.float32 and update.loss.dim() == 0
                assert torch.isfinite(update.loss), update.name
                for key, value in update.figures.items():
                    assert not value.requires_grad and value.dim() == 0, key
                update.loss.backward()
                shown += update.real
            for network in state.networks.values():
                assert all(p.grad is None for p in network.parameters() if id(p) not in own)
            for update in updates:
                state.optimisers[update.name].step()
                seen.add(update.name)
            roles = {role for u in updates for role in state.method.optimised[u.name].roles}
            for role, network in state.networks.items():
                pairs = zip(before[role], network.parameters(), strict=True)
                moved = any(not torch.equal(a, b) for a, b in pairs)
                assert moved == (role in roles), (updates, role)
    assert seen <= set(state.optimisers)
    for role, network in state.networks.items():  # a population's parent moves without an update
        trained = {r for rule in state.method.optimised.values() for r in rule.roles}
        same = all(
            torch.equal(a, b) for a, b in zip(start[role], network.parameters(), strict=True)
        )
        assert same != (role in trained), role
    assert shown >= COUNT, "kimg counts the real images that are shown"


def trained(name: str, options: dict[str, Any], folder: Path, kimg: float = 0.064) -> Trained:
    coarse = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    images = ArrayImages(coarse.repeat(4, axis=1).repeat(4, axis=2))
    settings = settings_for(name, options, kimg=kimg, log_kimg=0.032, on_divergence="warn")
    context = Context(settings, folder, SIZE, seed=1)
    return train(images, context, labels=np.arange(64) % CLASSES)


@each_method
def test_training_resumes_bit_for_bit_and_leaves_a_calibrated_snapshot(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    whole = trained(name, options, tmp_path / "whole")
    assert whole.complete and all(line["contrast"] > 0 for line in whole.stats)
    method, products = whole.state.method, [path.name for path in whole.products]
    for chart in method.charts:
        assert any(key.startswith(chart.prefix) for line in whole.stats for key in line), chart
    for kind in method.captions:
        assert any(product.startswith(f"{kind}-") for product in products), kind
    trained(name, options, tmp_path / "parts", kimg=0.032)
    trained(name, options, tmp_path / "parts")
    a, b = (last_snapshot(tmp_path / f / "products") for f in ("whole", "parts"))
    assert a.read_bytes() == b.read_bytes()
    snapshot = load_snapshot(a)
    scratch = set(snapshot.method.scratch)
    assert {role.removesuffix("_ema") for role in snapshot.networks} == (
        set(whole.state.networks) - scratch
    )
    for role, network in snapshot.networks.items():
        for norm_name, norm in network.norms().items():
            assert norm.running_mean.abs().sum() > 0, f"{role}: {norm_name} was not calibrated"
    latents = sample_latents(snapshot.prior, 4, torch.Generator().manual_seed(0))
    images = generate(snapshot, latents)
    assert images.shape == (4, 3, SIZE, SIZE) and float(images.abs().max()) <= 1
    for role in snapshot.features:
        network = snapshot.feature_network(role)
        network.without_labels = True
        found = network.activations(images)
        assert list(found) == [info.name for info in network.layers()]
        assert all(len(value) == 4 and torch.isfinite(value).all() for value in found.values())
        fresh = random.network(snapshot.meta["network"], 0, role, name, options)
        assert fresh.layers() == network.layers(), "the baseline is the same network"
    scores = snapshot.realness(images)
    assert scores is None or scores.shape == (4,)


@each_method
def test_captured_steps_are_the_ordinary_ones(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """With a function in the place of a CUDA graph."""
    states = [made(name, options) for _ in range(2)]
    if not states[0].method.period:
        pytest.skip("the method has no period and is not captured")
    context = Context(states[0].settings, tmp_path, SIZE, classes=CLASSES)
    random = np.random.default_rng(0)
    batches = [
        (
            torch.from_numpy(random.integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)),
            torch.arange(COUNT) % CLASSES,
        )
        for _ in minibatches(states[0])
    ]
    captured = CapturedSteps(states[1], context, step, batches[0], lambda work, _: work)
    for pixels, labels in batches:
        step(states[0], context, pixels, labels)
        captured(pixels, labels)
    assert states[0].position == states[1].position
    for key, value in states[0].tensors().items():
        assert torch.equal(value, states[1].tensors()[key]), key


@each_method
def test_the_cost_of_a_step_is_the_same_with_and_without_values(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state()
    computed = step_cost(settings_for(name, options), CLASSES)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(step_cost_module, "COMPUTED", 0)
    counted = step_cost(settings_for(name, options), CLASSES)
    assert all(p.is_meta for net in counted.networks.values() for p in net.parameters())
    assert computed.gflop_per_image == counted.gflop_per_image > 0


def test_a_network_that_lacks_a_role_is_refused_with_those_that_have_it() -> None:
    names = [
        n for n in registry.names("networks") if not hasattr(registry.load("networks", n), "joint")
    ]
    lacking = next(n for n in names if registry.load("networks", n).IMAGE_SIZE == SIZE)
    with pytest.raises(RequestError, match="needs a joint") as caught:
        Make({"name": lacking, "method": "bigan"}).joint()
    assert "32 px" in str(caught.value.expected)
