"""Fisher vectors against a loop of torch's own gradients, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_core.baselines.fisher import FisherVectors, Gradients, gram_error
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import (
    Prior,
    Snapshot,
    generate,
    load_method,
    rebuild_networks,
    sample_latents,
)
from gan_core.progress import silent
from gan_core.randomness import numpy_stream


@pytest.fixture(scope="module", params=["dcgan", "bigan"])
def snapshot(request: pytest.FixtureRequest) -> Snapshot:
    """Untrained networks of 5,000 to 20,000 weights."""
    method = load_method(request.param, {})
    spec = {"name": "dcgan32_svhn", "width": 0.125, "image_size": 32, "method": request.param}
    networks = rebuild_networks(spec, method)
    for number, network in enumerate(networks.values()):
        initialise(network, torch.Generator().manual_seed(number))
        network.eval().requires_grad_(False)
    method.bind(networks, {})
    return Snapshot(networks, Prior(), method=method)


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def slow_gradients(snapshot: Snapshot, some: Tensor) -> Tensor:
    """All gradients of each image, [n, all weights], by a loop."""
    weights = [w for network in snapshot.networks.values() for w in network.parameters()]
    rows = []
    for weight in weights:
        weight.requires_grad_(True)
    for image in some:
        score = snapshot.realness(image[None])
        assert score is not None
        found = torch.autograd.grad(score[0], weights, allow_unused=True)
        rows.append(torch.cat([one.flatten() for one in found if one is not None]))
    for weight in weights:
        weight.requires_grad_(False)
    return torch.stack(rows)


def test_gradients_are_those_of_a_loop(snapshot: Snapshot) -> None:
    expected = slow_gradients(snapshot, images(5))
    every = Gradients(snapshot, 10**9, numpy_stream(0))
    assert every.total == expected.shape[1]
    torch.testing.assert_close(every(images(5)), expected, rtol=1e-3, atol=1e-5)
    some = Gradients(snapshot, 300, numpy_stream(0))
    chosen = np.sort(numpy_stream(0).choice(every.total, 300, replace=False))
    torch.testing.assert_close(some(images(5)), expected[:, chosen], rtol=1e-3, atol=1e-5)


def test_the_gram_matrix_is_that_of_the_definition(snapshot: Snapshot) -> None:
    """(U / sd) (U / sd)' with mean and standard deviation over generated images, all weights."""
    latents = sample_latents(snapshot.prior, 40, torch.Generator().manual_seed(0))
    generated = generate(snapshot, latents)
    fake = slow_gradients(snapshot, generated).double()
    deviation = fake.std(0, correction=0)
    floor = 0.01 * deviation.median()
    expected = (slow_gradients(snapshot, images(6)).double() - fake.mean(0)) / torch.where(
        deviation < floor, floor, deviation
    )
    whole = FisherVectors(Gradients(snapshot, 10**9, numpy_stream(0)), generated, silent)
    found = whole(images(6)).double()
    wanted = expected @ expected.T
    torch.testing.assert_close(found @ found.T, wanted, rtol=2e-3, atol=1e-3 * float(wanted.max()))


def test_a_subset_estimates_the_gram_matrix_within_its_error(snapshot: Snapshot) -> None:
    generated = images(48)
    whole = FisherVectors(Gradients(snapshot, 10**9, numpy_stream(0)), generated, silent)
    exact = whole(generated).double()
    exact = exact @ exact.T / exact.shape[1]
    different = ~torch.eye(48, dtype=torch.bool)
    off, claimed = [], []
    for number in range(6):
        part = FisherVectors(Gradients(snapshot, 400, numpy_stream(number)), generated, silent)
        values = part(generated).double()
        error = (values @ values.T / values.shape[1] - exact)[different]
        off.append(error.square().mean() / exact[different].square().mean())
        claimed.append(part.gram_error)
    measured = float(torch.stack(off).mean().sqrt())
    assert measured == pytest.approx(float(np.mean(claimed)), rel=0.35)


def test_equal_columns_have_no_error() -> None:
    values = torch.randn(20, 1, generator=torch.Generator().manual_seed(0)).expand(20, 8)
    assert gram_error(values) < 1e-6
