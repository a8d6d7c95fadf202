"""Objectives of the methods against slow, obvious versions; gradients only where they belong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core import registry
from gan_core.methods import acgan, bigbigan, biggan, catgan, contrad, r3gan, ssgan
from gan_core.methods.base import Base, Batch, Update, relative_distance
from gan_core.methods.views import View, draw_view
from gan_core.networks.make import Make

CLASSES, COUNT = 4, 8


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bound(name: str, network: str, width: float, **options: Any) -> tuple[Any, Make]:
    """A method with fresh networks, in training mode."""
    module = registry.load("methods", name)
    method = module.Method(registry.options("methods", name, options))
    make = Make({"name": network, "width": width, "classes": CLASSES, "method": name})
    nets = method.networks(make)
    for role, made in nets.items():
        make.initialise(made, random(len(role)))
        made.train()
    method.bind(nets, {})
    return method, make


def batch(make: Make, index: int = 0) -> Batch:
    stream = random(7)
    images = torch.rand(COUNT, 3, make.image_size, make.image_size, generator=stream) * 2 - 1
    labels = torch.arange(COUNT) % CLASSES
    dim = make.latent_dim

    def latents() -> Tensor:
        return torch.rand(COUNT, dim, generator=stream) * 2 - 1

    return Batch(index, images, labels, latents, stream, (0, 1), CLASSES)


def all_updates(method: Base, given: Batch) -> list[Update]:
    found = []
    for update in method.updates(given):
        found += update if isinstance(update, list) else [update]
    return found


METHODS = [
    ("acgan", "resnet32", {}),
    ("catgan", "dcgan32_svhn", {}),
    ("ssgan", "dcgan32_svhn", {}),
    ("r3gan", "dcgan32_svhn", {}),
    ("biggan", "resnet32", {"steps": 1}),
    ("bigbigan", "resnet32", {"steps": 1}),
    ("contrad", "resnet10", {}),
    ("contrad", "resnet10", {"views": 3, "crop": 16}),
    ("ali", "dcgan32_svhn", {}),
    ("ali", "dcgan32_svhn", {"stochastic": False}),
    ("latent_regression", "dcgan32_svhn", {}),
]


@pytest.mark.parametrize(("name", "network", "options"), METHODS)
def test_gradients_reach_the_optimised_roles_and_no_others(
    name: str, network: str, options: dict[str, Any]
) -> None:
    method, make = bound(name, network, 0.0625, **options)
    updates = method.updates(batch(make))
    seen = set()
    for group in updates:
        for update in group if isinstance(group, list) else [group]:
            assert torch.isfinite(update.loss)
            update.loss.backward()
            moved = method.optimised[update.name].roles
            for role, net in method.nets.items():
                has = any(p.grad is not None and bool(p.grad.any()) for p in net.parameters())
                assert has == (role in moved), f"{update.name}: {role}"
                net.zero_grad()
            seen.add(update.name)
    assert seen == set(method.optimised)


def test_latent_regression_is_the_squared_error_of_latents() -> None:
    method, make = bound("latent_regression", "dcgan32_svhn", 0.0625)
    first = all_updates(method, batch(make))[0]
    z = batch(make).latents()
    with torch.no_grad():
        codes = method.nets["encoder"](method.nets["generator"](z))
    errors = [(float(a) - float(b)) ** 2 for a, b in zip(z.flatten(), codes.flatten(), strict=True)]
    assert float(first.loss) == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    assert first.real == COUNT and not method.nets["generator"].training


@pytest.mark.parametrize("name", ["bigan", "ali", "bigbigan", "latent_regression"])
def test_reconstructions_are_measured_by_the_distance_of_other_images(name: str) -> None:
    method, make = bound(name, "dcgan32_svhn", 0.0625)
    images, z = batch(make).images, batch(make).latents()
    with torch.no_grad():
        found = method.diagnostics(images, z, None)
        code = method.feature_inputs("generator", images)[0]
        rebuilt = method.nets["generator"](code).numpy()
    x = images.numpy()
    error = np.mean([np.linalg.norm(a - b) for a, b in zip(rebuilt, x, strict=True)])
    others = np.mean([np.linalg.norm(x[i] - x[i - 1]) for i in range(len(x))])
    assert float(found["reconstruction_pixels"]) == pytest.approx(error / others, rel=1e-4)
    spread = code.numpy().std(0, ddof=1) / z.numpy().std(ddof=1)
    assert float(found["code_deviation_least"]) == pytest.approx(spread.min(), rel=1e-3)
    assert float(found["code_deviation_mean"]) == pytest.approx(spread.mean(), rel=1e-3)
    assert ("reconstruction_features" in found) == ("discriminator" in method.nets)
    assert float(relative_distance(images, images)) == 0
    assert float(relative_distance(images.roll(1, 0), images)) == pytest.approx(1)


def test_acgan_is_cross_entropy_of_both_heads() -> None:
    method, make = bound("acgan", "resnet32", 0.0625)
    given = batch(make)
    first = next(iter(method.updates(given)))
    again = batch(make)
    labels = again.draw_labels()
    fake = method.nets["generator"](again.latents(), labels).detach()
    expected = 0.0
    for images, classes, target in ((again.images, again.labels, 1), (fake, labels, 0)):
        out = method.nets["discriminator"](images).double()
        for row, label in zip(out, classes, strict=True):
            p = 1 / (1 + math.exp(-float(row[0])))
            expected -= math.log(p if target else 1 - p) / COUNT
            powers = [math.exp(float(v)) for v in row[1:]]
            expected -= math.log(powers[int(label)] / sum(powers)) / COUNT
    assert float(first.loss) == pytest.approx(expected, rel=1e-4)


def test_acgan_shows_collapse_to_one_class() -> None:
    even = acgan.class_spread(torch.zeros(6, 5))
    one = acgan.class_spread(torch.tensor([[30.0, 0, 0, 0, 0]]).repeat(6, 1))
    assert float(even["class_entropy_fake"]) == pytest.approx(math.log(5))
    assert float(one["class_entropy_fake"]) < 1e-6 and float(one["class_largest_fake"]) > 0.999


def test_catgan_is_least_at_certain_balanced_real_and_uniform_generated_images() -> None:
    k = 6
    certain = 40 * F.one_hot(torch.arange(3 * k) % k, k).float()
    uniform = torch.zeros(3 * k, k)
    best = float(catgan.discriminator_loss(certain, uniform))
    assert best == pytest.approx(-2 * math.log(k), abs=1e-4)
    assert float(catgan.generator_loss(certain)) == pytest.approx(-math.log(k), abs=1e-4)
    one_class = 40 * F.one_hot(torch.zeros(3 * k, dtype=torch.long), k).float()
    for worse in (one_class, torch.randn(3 * k, k, generator=random())):
        assert float(catgan.discriminator_loss(worse, uniform)) > best + 0.1
    assert float(catgan.discriminator_loss(certain, certain)) > best + 0.1


def test_catgan_entropies_are_those_of_the_definition() -> None:
    logits = torch.randn(5, 3, generator=random())
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    assert np.allclose(catgan.entropy(logits), -(p * np.log(p)).sum(1), atol=1e-6)
    mean = p.mean(0)
    assert float(catgan.marginal_entropy(logits)) == pytest.approx(
        -(mean * np.log(mean)).sum(), abs=1e-6
    )


def test_rotations_are_numpys() -> None:
    images = torch.rand(3, 2, 4, 4, generator=random())
    turned, labels = ssgan.rotations(images)
    for row, label in enumerate(labels.tolist()):
        expected = np.rot90(images[row % 3].numpy(), label, (1, 2))
        assert label == row // 3 and np.array_equal(turned[row].numpy(), expected)


def test_relativistic_loss_compares_pairs() -> None:
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [3.0]])
    expected = (math.log1p(math.exp(0.5 - 2)) + math.log1p(math.exp(3 + 1))) / 2
    assert float(r3gan.paired(real, fake)) == pytest.approx(expected, rel=1e-6)


def test_off_diagonal_penalty_is_zero_for_orthogonal_rows_alone() -> None:
    layer = torch.nn.Linear(6, 3, bias=False)
    torch.nn.init.orthogonal_(layer.weight)
    assert float(biggan.off_diagonal(layer)) < 1e-9
    layer.weight.data[1] = layer.weight.data[0]
    assert float(biggan.off_diagonal(layer)) == pytest.approx(2.0, rel=1e-5)


def test_bigbigan_hinges_each_score_by_itself() -> None:
    real = {"joint": torch.tensor([[2.0]]), "images": torch.tensor([[-2.0]])}
    fake = {"joint": torch.tensor([[-2.0]]), "images": torch.tensor([[-3.0]])}
    # separate: relu(1 - 2) = 0 and relu(1 + 2) = 3; the hinge of the sum would be 1 + 0
    assert float(bigbigan.hinged(real, fake)) == pytest.approx((0 + 3) / 2)
    assert float(bigbigan.sum_scores(real)) == pytest.approx(0.0)


@pytest.mark.parametrize("off", ["unary_images", "unary_latents"])
def test_bigbigan_unary_scores_have_switches(off: str) -> None:
    method, make = bound("bigbigan", "resnet32", 0.0625, **{off: False})
    scores = method.scores(batch(make).images, torch.zeros(COUNT, make.latent_dim))
    assert set(scores) == {"joint", "images", "latents"} - {off.removeprefix("unary_")}


def test_contrast_of_two_views_is_simclrs() -> None:
    views = F.normalize(torch.randn(2, 5, 7, generator=random()), dim=2)
    rows = views.flatten(0, 1).double()
    expected = 0.0
    for i in range(10):
        others = [math.exp(float(rows[i] @ rows[j]) / 0.1) for j in range(10) if j != i]
        positive = math.exp(float(rows[i] @ rows[(i + 5) % 10]) / 0.1)
        expected -= math.log(positive / sum(others)) / 10
    assert float(contrad.contrast(views, 0.1)) == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(contrad.contrast(views, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_separate_is_the_supervised_contrast_of_generated_images() -> None:
    fake = F.normalize(torch.randn(4, 6, generator=random(1)), dim=1)
    real = F.normalize(torch.randn(5, 6, generator=random(2)), dim=1)
    rows = torch.cat([fake, real]).double()
    expected = 0.0
    for i in range(4):
        whole = sum(math.exp(float(rows[i] @ rows[j]) / 0.1) for j in range(9) if j != i)
        for j in range(4):
            if j != i:
                expected -= math.log(math.exp(float(rows[i] @ rows[j]) / 0.1) / whole) / 12
    assert float(contrad.separate(fake, real, 0.1)) == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(contrad.separate(fake, real, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_contrads_adversarial_loss_does_not_reach_the_trunk() -> None:
    """With and without L_dis the trunk's gradients are equal: its features are detached there."""
    gradients = []
    for weight in (1.0, 0.0):
        method, make = bound("contrad", "resnet10", 0.0625)
        if not weight:
            method.nets["score"].requires_grad_(False)
            for p in method.nets["score"].parameters():
                p.zero_()
        all_updates_first = next(iter(method.updates(batch(make))))
        all_updates_first.loss.backward()
        trunk = method.nets["discriminator"]
        gradients.append([p.grad.clone() for p in trunk.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_contrads_adversarial_ablation_is_a_gan_on_all_views() -> None:
    """Its loss is that of an ordinary GAN on the same views, and it shapes the trunk."""
    options = {"contrastive": False, "views": 3, "crop": 16}
    method, make = bound("contrad", "resnet10", 0.0625, **options)
    update = next(iter(method.updates(batch(make))))
    update.loss.backward()
    trunk, score = method.nets["discriminator"], method.nets["score"]
    assert all(bool(p.grad.any()) for p in trunk.parameters() if p.requires_grad)
    assert all(p.grad is None for p in method.nets["projection_real"].parameters())
    assert all(p.grad is None for p in method.nets["projection_fake"].parameters())

    again, _ = bound("contrad", "resnet10", 0.0625, **options)
    trunk, score, given = again.nets["discriminator"], again.nets["score"], batch(make)
    real = [score(trunk(again.view(given.images, given))) for _ in range(3)]
    with torch.no_grad():
        images = again.nets["generator"](given.latents())
    fake = score(trunk(again.view(images, given))).flatten().double()
    ahead = [math.log1p(math.exp(-v)) for one in real for v in one.flatten().double().tolist()]
    expected = np.mean(ahead) + np.mean([math.log1p(math.exp(v)) for v in fake.tolist()])
    assert float(update.loss.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("crop", [0, 16])
def test_views_keep_the_range_and_pass_the_gradient(crop: int) -> None:
    x = (torch.rand(6, 3, 32, 32, generator=random()) * 2 - 1).requires_grad_(True)
    out = draw_view(x, View(crop=crop), random(1))
    assert out.shape[-1] == (crop or 32)
    assert float(out.min()) >= -1 - 1e-5 and float(out.max()) <= 1 + 1e-5
    assert torch.equal(out, draw_view(x, View(crop=crop), random(1)))
    out.sum().backward()
    assert x.grad is not None and bool((x.grad.flatten(1).abs().sum(1) > 0).all())


def test_small_crops_are_cut_out_of_the_image() -> None:
    x = torch.arange(8 * 8, dtype=torch.float32).view(1, 1, 8, 8).repeat(20, 3, 1, 1) / 32 - 1
    out = draw_view(x, View(crop=4, jitter=0, grey=0), random())
    for one in out:
        rows = ((one[0] + 1) * 32).round().long()
        steps = set((rows[:, 1:] - rows[:, :-1]).flatten().tolist())
        assert steps in ({1}, {-1}) and set((rows[1:] - rows[:-1]).flatten().tolist()) == {8}


def test_shares_of_a_batch_are_viewed_as_the_whole() -> None:
    x = torch.rand(8, 3, 16, 16, generator=random()) * 2 - 1
    whole = draw_view(x, View(), random(3))
    for rank in range(2):
        part = draw_view(x[rank::2], View(), random(3), (rank, 2))
        assert torch.allclose(part, whole[rank::2], atol=1e-6)
