"""BiGAN and E-GAN against slow, obvious versions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.config import TrainConfig
from gan_core.methods.base import Batch
from gan_core.methods.egan import MUTATIONS
from gan_core.networks.make import Make
from gan_core.training.trainer_state import TrainerState, build


def made(method: str, **options: Any) -> TrainerState:
    settings = TrainConfig(
        method=method, options=options, network={"name": "mlp2d"}, batch=16, learning_rate=1e-3
    )
    return build(settings, seed=0, device="cpu", image_size=0)


def batch(seed: int = 0, index: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(16, 2, generator=random)
    return Batch(index, points, None, lambda: torch.randn(16, 2, generator=random), random)


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy(
        logits.double().sigmoid(), torch.full_like(logits, target).double()
    )


def test_bigan_swaps_labels_and_moves_all_networks_at_once() -> None:
    state = made("bigan")
    e, g, d = (state.networks[role] for role in ("encoder", "generator", "discriminator"))
    one = batch()
    x, z = one.images, batch().latents()
    with torch.no_grad():
        pairs = [(x, e(x)), (g(z), z)]
        logits = [d(a, latents=b) for a, b in pairs]
    (given,) = list(state.method.updates(batch()))
    assert isinstance(given, list), "one simultaneous step"
    by_name = {update.name: update for update in given}
    real, fake = logits
    loss_d = cross_entropy(real, 1.0) + cross_entropy(fake, 0.0)
    loss_ge = cross_entropy(real, 0.0) + cross_entropy(fake, 1.0)
    assert float(by_name["discriminator"].loss) == pytest.approx(float(loss_d), rel=1e-5)
    assert float(by_name["generator"].loss) == pytest.approx(float(loss_ge), rel=1e-5)
    by_name["generator"].loss.backward(retain_graph=True)
    assert all(p.grad is None for p in d.parameters())
    assert all(p.grad is not None for net in (e, g) for p in net.parameters())
    for net in (e, g):
        net.zero_grad(set_to_none=True)
    by_name["discriminator"].loss.backward()
    assert all(p.grad is None for net in (e, g) for p in net.parameters())


def test_a_joint_discriminator_sees_the_latent_at_every_layer() -> None:
    d = made("bigan").networks["discriminator"]
    x, z = torch.randn(4, 2), torch.randn(4, 2)
    first = d.layer("linear1")
    expected = F.leaky_relu(
        first.operation(x) + z @ first.embed.weight.T,  # type: ignore[union-attr, operator]
        0.2,
    )
    assert torch.allclose(d.run_to(x, "linear1", latents=z), expected, atol=1e-6)
    with pytest.raises(ValueError, match="pass latents"):
        Make({"name": "dcgan32_svhn", "width": 0.125}).joint()(torch.zeros(2, 3, 32, 32))


def test_mutations_are_the_papers() -> None:
    logits = torch.linspace(-4, 4, 9)
    p = logits.double().sigmoid()
    expected = {
        "minimax": 0.5 * (1 - p).log().mean(),
        "heuristic": -0.5 * p.log().mean(),
        "least_squares": (p - 1).square().mean(),
    }
    for name, value in expected.items():
        assert float(MUTATIONS[name](logits)) == pytest.approx(float(value), rel=1e-5), name


def test_children_are_siblings_and_the_fittest_replaces_the_parent_with_its_moments() -> None:
    state = made("egan", gamma=0.05)
    parent = state.optimisers["generator"]
    for generation in range(2):
        before = [t.clone() for t in parent.all_tensors()]
        children: dict[str, list[Tensor]] = {}
        for update in state.method.updates(batch(generation)):
            if update.name in MUTATIONS:  # type: ignore[union-attr]
                now = state.optimisers[update.name].all_tensors()  # type: ignore[union-attr]
                for ours, theirs in zip(now, before, strict=True):
                    assert torch.equal(ours, theirs), "a child starts where its parent was"
            update.loss.backward()  # type: ignore[union-attr]
            if update.name == "discriminator":  # type: ignore[union-attr]
                best = [name for name in MUTATIONS if update.figures[f"survivor_{name}"]]
                break
            state.optimisers[update.name].step()  # type: ignore[union-attr]
            children[update.name] = [  # type: ignore[union-attr]
                t.clone()
                for t in state.optimisers[update.name].all_tensors()  # type: ignore[union-attr]
            ]
        (winner,) = best
        for ours, theirs in zip(parent.all_tensors(), children[winner], strict=True):
            assert torch.equal(ours, theirs)
        state.networks["discriminator"].zero_grad(set_to_none=True)


def test_fitness_is_quality_and_the_length_of_the_discriminators_gradient() -> None:
    state = made("egan", gamma=0.5)
    d, x = state.networks["discriminator"], batch().images
    z = torch.randn(16, 2)
    found = state.method.fitness(x, z)  # type: ignore[attr-defined]
    for k, name in enumerate(MUTATIONS):
        fake = state.networks[name](z).detach()
        d.zero_grad(set_to_none=True)
        (cross_entropy(d(x), 1.0) + cross_entropy(d(fake), 0.0)).backward()
        gradient = torch.cat([p.grad.flatten() for p in d.parameters()])  # type: ignore[union-attr]
        expected = d(fake).sigmoid().mean() - 0.5 * gradient.norm().log()
        assert float(found[k]) == pytest.approx(float(expected), rel=1e-4)


def test_the_discriminator_takes_its_steps_between_two_generations() -> None:
    state = made("egan", discriminator_steps=2)
    names = []
    for index in range(4):
        for update in state.method.updates(batch(index, index)):
            names.append(update.name)  # type: ignore[union-attr]
            update.loss.backward()  # type: ignore[union-attr]
            state.optimisers[update.name].step()  # type: ignore[union-attr]
    assert names == [*MUTATIONS, "discriminator", "discriminator"] * 2


def test_one_mutation_alone_is_trained_without_selection() -> None:
    state = made("egan", mutations=["heuristic"], discriminator_steps=1)
    assert set(state.networks) == {"generator", "discriminator", "heuristic"}
    for index in range(2):
        names = []
        for update in state.method.updates(batch(index)):
            names.append(update.name)  # type: ignore[union-attr]
            if update.name == "discriminator":  # type: ignore[union-attr]
                assert not any("survivor" in figure for figure in update.figures)
            update.loss.backward()  # type: ignore[union-attr]
            state.optimisers[update.name].step()  # type: ignore[union-attr]
        assert names == ["heuristic", "discriminator"]
        for ours, theirs in zip(
            state.optimisers["generator"].all_tensors(),
            state.optimisers["heuristic"].all_tensors(),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
