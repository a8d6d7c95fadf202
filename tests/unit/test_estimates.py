"""Estimates against a count by hand, and refusals with their figures."""

from __future__ import annotations

import pytest

from gan_core.errors import RequestError
from gan_core.pipeline.estimates import estimate, refuse_the_impossible
from gan_core.recipes import load_recipe


def test_flops_of_the_svhn_net_counted_by_hand() -> None:
    recipe, _ = load_recipe("cifar10", scale="small")
    found = estimate(recipe, "cpu", rows=1000)
    conv1, project = 2 * 75 * 64 * 16**2, 2 * 100 * 4096
    discriminator = conv1 + 2 * (25 * 64 * 128 * 8**2 + 25 * 128 * 256 * 4**2 + 4096)
    generator = project + 2 * (25 * 256 * 128 * 4**2 + 25 * 128 * 64 * 8**2 + 25 * 64 * 3 * 16**2)
    # G forward and both gradients; D likewise on real and on generated images, and for G forward
    # and the gradient by its input; first layers need no gradient by images and latents
    step = 3 * generator - project + 8 * discriminator - 2 * conv1
    assert found.gflop_per_image == pytest.approx(step / 1e9, rel=1e-6)
    assert found.features == 7168 and found.evaluation_bytes == 1000 * 7168 * 6


def test_more_than_a_day_is_refused_with_the_figures() -> None:
    recipe, _ = load_recipe(
        "cifar10", scale="full", overrides=["threads=2", "train.precision=float32"]
    )
    with pytest.raises(RequestError, match="hours on cpu") as caught:
        refuse_the_impossible(recipe, "cpu", rows=0)
    assert "--scale small" in caught.value.remedy and caught.value.exit_code == 2
    refuse_the_impossible(recipe, "cuda", rows=0)
    refuse_the_impossible(recipe, "cpu", rows=0, trains=False)


def test_more_than_the_memory_is_refused_with_the_figures() -> None:
    recipe, _ = load_recipe("digits")
    with pytest.raises(RequestError, match="GiB") as caught:
        refuse_the_impossible(recipe, "cpu", rows=100_000_000)
    assert "1,792 features" in caught.value.message
