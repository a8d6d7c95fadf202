"""Subspaces of features: the projection against an explicit one, and planted structure.

The planted discriminator is linear in maps that the test writes: 6 maps of 2 x 2, the score reads
maps 0 and 1, the class is in map 2, and the noise of the images is in map 0.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_core.inspection.score_subspace import Subspace, random_subspace, read, task_subspace
from gan_core.inspection.subspaces import Data, accuracies
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, Snapshot, load_method, rebuild_networks


def activations(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 6, 2, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("maps", [False, True])
def test_both_parts_are_the_explicit_projection(maps: bool) -> None:
    x, gradients = activations(9), activations(5, 1)
    space = task_subspace(gradients, 3, maps)
    w = space.basis.numpy().astype(np.float64)
    np.testing.assert_allclose(w.T @ w, np.eye(3), atol=1e-6)
    if maps:
        rows = np.stack([g[:, i, j] for g in gradients.numpy() for i in (0, 1) for j in (0, 1)])
    else:
        rows = gradients.flatten(1).numpy()
    top = np.linalg.svd(rows.astype(np.float64))[2][:3]
    np.testing.assert_allclose(w @ w.T, top.T @ top, atol=1e-5)
    task, rest = np.empty((9, 6, 2, 2)), space.rest(x).reshape(9, 6, 2, 2).numpy()
    for n in range(9):
        if maps:
            for i in (0, 1):
                for j in (0, 1):
                    task[n, :, i, j] = w @ w.T @ x[n, :, i, j].numpy()
        else:
            task[n] = (w @ w.T @ x[n].flatten().numpy()).reshape(6, 2, 2)
    np.testing.assert_allclose(task + rest, x.numpy(), atol=1e-5)
    energy = (task**2).sum((1, 2, 3)) + (rest**2).sum((1, 2, 3))
    np.testing.assert_allclose(energy, x.square().sum((1, 2, 3)).numpy(), rtol=1e-5)
    kept = space.coordinates(x).square().sum((1, 2)).numpy()
    np.testing.assert_allclose(kept, (task**2).sum((1, 2, 3)), rtol=1e-4)
    assert space.share(x) == pytest.approx((task**2).sum() / float(x.square().sum()), rel=1e-4)


def test_random_subspaces_hold_what_is_expected() -> None:
    space = Subspace(torch.eye(6)[:, :2], maps=True)
    random, x = torch.Generator().manual_seed(0), activations(50)
    shares = [random_subspace(space, random).share(x) for _ in range(50)]
    assert np.mean(shares) == pytest.approx(space.expected, rel=0.05)


def test_the_rest_of_a_linear_head_scores_its_bias() -> None:
    """A DCGAN's discriminator: the gradient is the head's weights for every image, and the score
    of the rest is constant.
    """
    method = load_method("dcgan", {})
    networks = rebuild_networks({"name": "dcgan32_svhn", "width": 0.125, "image_size": 32}, method)
    for network in networks.values():
        initialise(network, torch.Generator().manual_seed(0))
        network.eval().requires_grad_(False)
    method.bind(networks, {})
    snapshot = Snapshot(networks, Prior(), method=method)
    images = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    f, gradients = read(snapshot, "conv3", images, "cpu")
    torch.testing.assert_close(f, networks["discriminator"].run_to(images, "conv3"))
    head = networks["discriminator"].layer("head").operation.weight
    torch.testing.assert_close(gradients.flatten(1), head.expand(7, -1))
    space = task_subspace(gradients, 1, maps=False)
    rest = networks["discriminator"].run_from(space.rest(f).reshape(f.shape), "conv3")
    whole = networks["discriminator"].run_from(f, "conv3")
    assert float(rest.std()) < 1e-4 < float(whole.std())


def test_planted_parts_are_found() -> None:
    """The class survives in the rest only, real and generated are separated in the task's part
    only, and noise hurts that part only.
    """
    count = 600
    labels = np.arange(count) % 2
    is_real = np.arange(count) // 2 % 2
    x = 0.3 * activations(count)
    x[:, 2] += torch.from_numpy(labels)[:, None, None]
    x[:, 0] += torch.from_numpy(is_real)[:, None, None]
    x[:, 1] += torch.from_numpy(labels)[:, None, None] * 0.2
    gradients = torch.zeros(4, 6, 2, 2)
    gradients[:2, 0], gradients[2:, 1] = 1, 0.5
    task = task_subspace(gradients, 2, maps=True)
    cuts = [300, 400]
    noisy = x[400:].clone()
    noisy[:, 0:2] += 2 * activations(200, 3)[:, 0:2]
    data = Data(
        x.tensor_split(cuts),
        np.split(labels, cuts),
        [noisy],
        x.tensor_split(cuts),
        np.split(is_real, cuts),
    )
    (task_clean, task_noisy), task_real = data.score(task.coordinates)
    (rest_clean, rest_noisy), rest_real = data.score(task.rest)
    assert rest_clean > 0.97 and rest_noisy == rest_clean and rest_real < 0.6
    assert task_real > 0.97 and 0.6 < task_clean < 0.95 and task_noisy < task_clean - 0.05


def test_the_choice_of_c_reads_no_test_label() -> None:
    x = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long().numpy()
    parts, labels = x.split(30), np.split(y, [30, 60])
    first = accuracies(parts, labels)[0]
    assert accuracies(parts, [*labels[:2], 1 - labels[2]])[0] == pytest.approx(1 - first)
