"""Guided backpropagation: the rule against torch's own gradient and a slow version, strongest
answers against brute force.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_core.inspection.guided import (
    GuidedActivation,
    as_grey,
    coherence,
    concentration,
    draw_guided,
    guided,
    last_maps,
    patches,
    prepared,
    strongest,
    trace,
)
from gan_core.networks.base import LayeredNetwork
from gan_core.registry import load
from gan_core.vision.geometry import resize


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Real digits as the network sees them."""
    import cv2
    from sklearn.datasets import load_digits

    grey = np.stack(
        [
            cv2.resize(image.astype(np.float32) / 8 - 1, (32, 32))
            for image in load_digits().images[:40]
        ]
    )
    return torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1).contiguous()


@pytest.fixture(scope="module")
def network(pixels: Tensor) -> LayeredNetwork:
    torch.manual_seed(0)
    return prepared(load("networks", "dcgan32_svhn").discriminator(0.125), pixels, random_seed=1)


def test_the_rule_on_numbers() -> None:
    x = torch.tensor([-2.0, -2.0, 3.0, 3.0], requires_grad=True)
    weight = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    for strict, expected in ((False, [0.0, 0.2, 0.0, 1.0]), (True, [0.0, 0.0, 0.0, 1.0])):
        out = GuidedActivation(0.2, strict)(x)
        torch.testing.assert_close(out, torch.nn.functional.leaky_relu(x, 0.2))
        (gradient,) = torch.autograd.grad((out * weight).sum(), x)
        torch.testing.assert_close(gradient, torch.tensor(expected))


def test_with_positive_signals_only_it_is_the_plain_gradient(pixels: Tensor) -> None:
    """Nothing is cut off where all weights are positive: then the rule must not change the gradient
    at all.
    """
    network = load("networks", "dcgan32_svhn").discriminator(0.125).eval()
    for parameter in network.parameters():
        parameter.data.abs_()
    layer = last_maps(network)
    inputs = pixels[:3].clone().requires_grad_(True)
    chosen = network.run_to(inputs, layer)[torch.arange(3), 0, 1, 2]
    (plain,) = torch.autograd.grad(chosen.sum(), inputs)
    from gan_core.inspection.guided import Response

    found = trace(network, pixels, layer, [Response(0, row, 1, 2, 0.0) for row in range(3)])
    torch.testing.assert_close(found, plain)


def test_guided_leaves_the_network_as_it_was(network: LayeredNetwork, pixels: Tensor) -> None:
    before = network(pixels[:4])
    inside = [network.layer(info.name).activation for info in network.layers()]
    with pytest.raises(RuntimeError, match="stop"), guided(network):
        torch.testing.assert_close(network(pixels[:4]), before)
        raise RuntimeError("stop")
    assert [network.layer(info.name).activation for info in network.layers()] == inside


def test_slow_backward_pass(network: LayeredNetwork, pixels: Tensor) -> None:
    """Layer by layer by hand: transposed convolutions, batch norm's slope, the rule."""
    from gan_core.inspection.guided import Response

    response = Response(2, 5, 3, 0, 0.0)
    x, kept = pixels[5:6], []
    for name in ("conv1", "conv2", "conv3"):
        layer = network.layer(name)
        before = layer.operation(x)
        scale = torch.ones(before.shape[1])
        if layer.norm is not None:
            scale = layer.norm.weight / torch.sqrt(layer.norm.running_var + layer.norm.eps)
            normed = layer.norm(before)
        else:
            normed = before
        kept.append((layer, x.shape, normed, scale))
        x = torch.nn.functional.leaky_relu(normed, 0.2)
    gradient = torch.zeros_like(x)
    gradient[0, 2, 3, 0] = 1.0
    for layer, shape, normed, scale in reversed(kept):
        gradient = (
            gradient.clamp(min=0) * torch.where(normed > 0, 1.0, 0.2) * scale[None, :, None, None]
        )
        operation = layer.operation
        gradient = torch.nn.grad.conv2d_input(
            shape, operation.weight, gradient, operation.stride, operation.padding
        )
    torch.testing.assert_close(
        trace(network, pixels, "conv3", [response]), gradient, rtol=1e-4, atol=1e-7
    )


def test_strongest_answers_are_those_of_brute_force(
    network: LayeredNetwork, pixels: Tensor
) -> None:
    found = strongest(network, pixels, "conv3", features=3, most=4)
    maps = network.run_to(pixels, "conv3").numpy()
    for feature, answers in enumerate(found):
        best = np.sort(maps[:, feature].reshape(len(maps), -1).max(axis=1))[::-1][:4]
        np.testing.assert_allclose([one.value for one in answers], best, rtol=1e-6)
        for one in answers:
            assert maps[one.image, feature, one.y, one.x] == pytest.approx(one.value)
        assert len({one.image for one in answers}) == 4


def test_traces_lie_in_the_receptive_field(network: LayeredNetwork, pixels: Tensor) -> None:
    """conv1 sees 5x5 pixels: a trace of its unit (0, 0) can only touch the corner."""
    from gan_core.inspection.guided import Response

    found = trace(network, pixels, "conv1", [Response(0, 0, 0, 0, 0.0)])
    outside = found.clone()
    outside[..., :3, :3] = 0
    assert found.abs().sum() > 0 and outside.abs().sum() == 0


def test_numbers_tell_structure_from_noise() -> None:
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 7, stride=1, padding=3)
    point = torch.zeros(8, 3, 32, 32)
    point[..., 10:15, 10:15] = 1.0
    assert abs(coherence(noise)) < 0.03 and coherence(smooth) > 0.7
    assert concentration(torch.ones(1, 3, 32, 32)) == pytest.approx(
        0.1, abs=0.01
    ) and concentration(point) == pytest.approx(1.0)
    grey = as_grey(torch.zeros(1, 3, 4, 4))
    assert set(np.unique(grey)) <= {127, 128}


def test_the_figure_repeats_itself(network: LayeredNetwork, pixels: Tensor) -> None:
    first, second = (draw_guided(network, pixels, features=6, most=3, seed=0) for _ in range(2))
    assert first.images.shape == first.trained.shape == first.random.shape == (6, 3, 32, 32, 3)
    for name in ("images", "trained", "random"):
        assert (getattr(first, name) == getattr(second, name)).all()
    assert first.numbers == second.numbers and first.numbers["layer"] == "conv3"
    assert (first.random != draw_guided(network, pixels, most=3, seed=1).random).any()


def test_a_patch_is_the_square_that_the_trace_points_at() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    traces = torch.zeros(2, 3, 32, 32)
    traces[0, :, 4:12, 20:28] = 1.0
    traces[1, :, 0, 31] = 1.0  # a corner: the square stays inside
    found = patches(images, traces, share=0.99)
    for n, (top, left) in enumerate([(4, 20), (0, 24)]):
        part = np.ascontiguousarray(images[n, top : top + 8, left : left + 8])
        np.testing.assert_array_equal(found[n], resize(part, 32, 32))
