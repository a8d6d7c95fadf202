"""Optimiser, losses and schedules against slow, obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gan_core.config import NetworkConfig, TrainConfig
from gan_core.methods.base import Batch
from gan_core.methods.losses import bce
from gan_core.methods.optimisers import Optimiser, Rule
from gan_core.training.trainer_state import TrainerState, build


def test_adam_is_the_formula_of_the_authors() -> None:
    """lib/updates.py written out: the L2 term joins the gradient before both moments."""
    value, mean, square = 0.7, 0.0, 0.0
    parameter = nn.Parameter(torch.tensor([value]))
    module = nn.Module()
    module.weight = parameter
    settings = TrainConfig(learning_rate=2e-4, beta1=0.5, beta2=0.999, weight_decay=1e-2)
    optimiser = Optimiser([module], Rule(("x",)), settings)
    for t in range(1, 8):
        gradient = np.sin(t) + 1e-2 * value
        mean = 0.5 * mean + 0.5 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        value -= 2e-4 * (mean / (1 - 0.5**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        parameter.grad = torch.tensor([np.sin(t)], dtype=torch.float32)
        optimiser.step()
    assert float(parameter.detach()) == pytest.approx(value, abs=1e-6)


def test_gradients_in_another_layout_than_the_weights_give_the_same_step() -> None:
    """Autograd does not keep to the strides of dimensions of size one, and the fused step asks for
    them.
    """
    weight = torch.nn.Parameter(torch.randn(4, 1, 5, 5).as_strided((4, 1, 5, 5), (25, 1, 5, 1)))
    module = nn.Module()
    module.weight = weight
    theirs = torch.nn.Parameter(weight.detach().clone())
    gradient = torch.randn(4, 1, 5, 5)
    weight.grad = gradient.as_strided(gradient.shape, (25, 25, 5, 1))
    theirs.grad = gradient.clone()
    assert weight.grad.stride() != weight.stride()
    Optimiser([module], Rule(("x",)), TrainConfig(learning_rate=1e-2, weight_decay=0)).step()
    torch.optim.Adam([theirs], lr=1e-2, betas=(0.5, 0.999)).step()
    assert torch.allclose(weight, theirs, atol=1e-7)
    assert weight.grad is None


def test_rules_change_rates_and_kinds_and_the_state_comes_back() -> None:
    module = nn.Linear(3, 2)
    rule = Rule(("x",), rate=0.5, kind="sgd", momentum=0.9, schedule=lambda kimg: 1 / (1 + kimg))
    optimiser = Optimiser([module], rule, TrainConfig(learning_rate=0.1, weight_decay=0))
    before, gradient = module.weight.detach().clone(), torch.ones(2, 3)
    module.weight.grad = gradient.clone()
    optimiser.set_rate(0.5, kimg=1.0)
    optimiser.step()
    assert torch.allclose(module.weight, before - 0.1 * 0.5 * 0.5 * 0.5 * gradient)
    stored = {name: value.clone() for name, value in optimiser.tensors("x").items()}
    module.weight.grad = gradient.clone()
    optimiser.step()
    optimiser.restore("x", stored)
    assert all(torch.equal(v, stored[n]) for n, v in optimiser.tensors("x").items())


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_the_loss_is_binary_cross_entropy_and_stays_finite(target: float) -> None:
    logits = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)) * 3
    p = logits.double().sigmoid()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert float(bce(logits, target)) == pytest.approx(float(expected), rel=1e-5)
    assert torch.isfinite(bce(torch.tensor([[200.0], [-200.0]]), target))


def trained(mode: str, count: int) -> tuple[TrainerState, list[tuple[int, str]]]:
    """A few minibatches through the method, with (minibatch, optimiser) of every update."""
    settings = TrainConfig(
        options={"mode": mode},
        network=NetworkConfig(width=0.125),
        batch=4,
        learning_rate=1e-3,
        beta1=0.5,
    )
    state, seen = build(settings, seed=0, device="cpu", image_size=32), []
    for index in range(count):
        images, latents = inputs(index)
        batch = Batch(index, images, None, lambda z=latents: z, torch.Generator())
        for update in state.method.updates(batch):
            update.loss.backward()
            state.optimisers[update.name].step()
            seen.append((index, update.name))
    return state, seen


def inputs(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(index)
    return torch.rand(4, 3, 32, 32, generator=random) * 2 - 1, torch.rand(
        4, 100, generator=random
    ) * 2 - 1


def test_paper_mode_alternates_a_minibatch_for_g_then_one_for_d() -> None:
    _, seen = trained("paper", 6)
    assert seen == [(i, "generator" if i % 2 == 0 else "discriminator") for i in range(6)]


def test_modern_mode_feeds_both_from_every_minibatch() -> None:
    _, seen = trained("modern", 3)
    assert seen == [(i, name) for i in range(3) for name in ("discriminator", "generator")]


@pytest.mark.parametrize("mode", ["paper", "modern"])
def test_training_is_the_plain_loop_written_out(mode: str) -> None:
    """The authors' alternation (or a step of each) with torch's own Adam, losses and batch norm, no
    part of ours.
    """
    settings = TrainConfig(options={"mode": mode}, network=NetworkConfig(width=0.125), batch=4)
    start = build(settings, seed=0, device="cpu", image_size=32)
    generator, discriminator = plain(start, "generator"), plain(start, "discriminator")
    made = {"lr": 1e-3, "betas": (0.5, 0.999), "eps": 1e-8, "weight_decay": 1e-5}
    adam_g = torch.optim.Adam(generator.parameters(), **made)
    adam_d = torch.optim.Adam(discriminator.parameters(), **made)
    one, zero = torch.ones(4, 1), torch.zeros(4, 1)
    loss = F.binary_cross_entropy_with_logits
    for index in range(4):
        images, latents = inputs(index)
        if mode == "modern" or index % 2 == 1:
            adam_d.zero_grad()
            (
                loss(discriminator(images), one)
                + loss(discriminator(generator(latents).detach()), zero)
            ).backward()
            adam_d.step()
        if mode == "modern" or index % 2 == 0:
            adam_g.zero_grad()
            loss(discriminator(generator(latents)), one).backward()
            adam_g.step()
    state, _ = trained(mode, 4)
    for role, network in (("generator", generator), ("discriminator", discriminator)):
        for ours, theirs in zip(
            state.networks[role].parameters(), network.parameters(), strict=True
        ):
            # Adam divides by the gradient's size, so rounding can turn the first steps of a weight
            # whose gradient is near zero
            close = (ours - theirs).abs() < 1e-5
            assert close.float().mean() > 0.98, role
            assert (ours - theirs).abs().max() < 1e-2


def plain(state: TrainerState, role: str) -> nn.Sequential:
    """The same network from torch's own modules, with the same weights."""
    layers: list[nn.Module] = []
    network = state.networks[role]
    for info in network.layers():
        layer = network.layer(info.name)
        weight = layer.operation.weight.detach().clone().contiguous()
        if isinstance(layer.operation, nn.Linear):
            if info.kind == "head":
                layers.append(nn.Flatten())
            operation: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        elif isinstance(layer.operation, nn.ConvTranspose2d):
            operation = nn.ConvTranspose2d(
                weight.shape[0], weight.shape[1], 5, 2, 2, output_padding=1, bias=False
            )
        else:
            operation = nn.Conv2d(weight.shape[1], weight.shape[0], 5, 2, 2, bias=False)
        with torch.no_grad():
            operation.weight.copy_(weight)
        layers.append(operation)
        if layer.norm is not None:
            norm = (nn.BatchNorm1d if info.kind == "project" else nn.BatchNorm2d)(
                layer.norm.channels, eps=1e-8
            )
            with torch.no_grad():
                norm.weight.copy_(layer.norm.weight), norm.bias.copy_(layer.norm.bias)
            layers.append(norm)
        layers += {
            "project": [nn.ReLU(), nn.Unflatten(1, info.shape)],
            "deconv": [nn.ReLU()],
            "image": [nn.Tanh()],
        }.get(info.kind, [] if info.kind == "head" else [nn.LeakyReLU(0.2)])
    return nn.Sequential(*layers).train()
