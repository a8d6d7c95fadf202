"""What every method file must hold to: its updates name its optimisers, move the right weights and
carry finite figures.
"""

from __future__ import annotations

import pytest
import torch

from gan_core import registry
from gan_core.config import NetworkConfig, TrainConfig
from gan_core.methods.base import Batch
from gan_core.training.trainer_state import TrainerState, build

NAMES = registry.names("methods")
MODES = ("paper", "modern")


def parts_of(name: str, mode: str) -> TrainerState:
    settings = TrainConfig(
        method=name,
        options={"mode": mode},
        network=NetworkConfig(width=0.125),
        batch=8,
        learning_rate=1e-2,
    )
    return build(settings, seed=0, device="cpu", image_size=32)


def batch_of(state: TrainerState, index: int) -> Batch:
    random = torch.Generator().manual_seed(index)
    images = torch.rand(8, 3, 32, 32, generator=random) * 2 - 1
    return Batch(
        index,
        images,
        torch.arange(8) % 4,
        lambda: torch.rand(8, state.prior.dim, generator=random) * 2 - 1,
        random,
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_every_update_moves_its_own_weights_and_no_others(name: str, mode: str) -> None:
    state = parts_of(name, mode)
    assert set(state.optimisers) == set(state.method.optimised)
    seen = set()
    for index in range(4):
        for update in state.method.updates(batch_of(state, index)):
            assert (
                update.loss.dtype == torch.float32
                and update.loss.dim() == 0
                and torch.isfinite(update.loss)
            )
            assert all(
                not value.requires_grad and value.dim() == 0 for value in update.figures.values()
            )
            before = {
                role: [p.detach().clone() for p in net.parameters()]
                for role, net in state.networks.items()
            }
            update.loss.backward()
            state.optimisers[update.name].step()
            for role, network in state.networks.items():
                moved = any(
                    not torch.equal(a, b)
                    for a, b in zip(before[role], network.parameters(), strict=True)
                )
                assert moved == (role in state.method.optimised[update.name]), (update.name, role)
            seen.add(update.name)
    assert seen == set(state.optimisers)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_is_left_for_another_optimiser(name: str, mode: str) -> None:
    state = parts_of(name, mode)
    for index in range(2):
        for update in state.method.updates(batch_of(state, index)):
            update.loss.backward()
            own = {id(p) for p in state.parameters(update.name)}
            for network in state.networks.values():
                assert all(p.grad is None for p in network.parameters() if id(p) not in own)
            state.optimisers[update.name].step()


@pytest.mark.parametrize("name", NAMES)
def test_a_method_counts_the_real_images_it_shows(name: str) -> None:
    state = parts_of(name, "modern")
    updates = list(_stepped(state, batch_of(state, 0)))
    assert sum(update.real for update in updates) >= 8


def _stepped(state: TrainerState, batch: Batch):  # type: ignore[no-untyped-def]
    for update in state.method.updates(batch):
        update.loss.backward()
        state.optimisers[update.name].step()
        yield update
