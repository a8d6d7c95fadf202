"""The autoencoder of the hash: resize rule, determinism, small sets, what is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.config import HashConfig
from gan_core.dedup.hashing import autoencoder
from gan_core.errors import DataError, StoreError
from gan_core.files import source_root

SHORT = HashConfig(epochs=1, min_steps=40, batch=64)


def digits(count: int = 400) -> np.ndarray:
    from sklearn.datasets import load_digits

    small = np.repeat(np.repeat(load_digits().images[:count], 4, axis=1), 4, axis=2)
    return np.repeat((small * 255 / 16).astype(np.uint8)[..., None], 3, axis=3)


def test_a_larger_crop_is_resized_by_area_to_32() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    means = pixels.reshape(3, 32, 2, 32, 2, 3).astype(float).mean(axis=(2, 4))
    assert np.abs(autoencoder.resize_to(pixels).astype(float) - means).max() <= 0.5


def test_a_smaller_crop_is_enlarged_and_one_of_32_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert autoencoder.resize_to(pixels).shape == (2, 32, 32, 3)
    same = autoencoder.resize_to(pixels).copy()
    assert autoencoder.resize_to(same) is same


def test_equal_fits_give_equal_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    pixels = digits()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        autoencoder.fit(pixels, SHORT, seed).save(tmp_path / name)
    assert (
        (tmp_path / "a").read_bytes()
        == (tmp_path / "b").read_bytes()
        != (tmp_path / "c").read_bytes()
    )


def test_it_learns_to_decode_better_than_the_mean() -> None:
    pixels = digits()
    model = autoencoder.fit(
        pixels, HashConfig(epochs=1, min_steps=200, batch=64, code_dropout=0.2), 0
    )
    values = pixels / 255.0
    mean_error = ((values - values.mean(axis=0)) ** 2).mean()
    assert ((values - model.reconstruct(pixels)) ** 2).mean() < 0.5 * mean_error


def test_the_pixel_mean_is_stored_and_is_the_mean() -> None:
    pixels = digits(100)
    model = autoencoder.fit(pixels, SHORT, 0)
    assert np.allclose(model.weights["mean"], (pixels / 255.0).mean(axis=0).ravel(), atol=1e-6)


def test_code_bits_are_the_signs_of_the_activations_whatever_the_block(tmp_path: Path) -> None:
    pixels = digits(70)
    model = autoencoder.fit(pixels, SHORT, 0)
    activations = model.embed(pixels)
    assert activations.shape == (70, 128) and activations.min() >= 0
    assert (np.unpackbits(model.encode(pixels), axis=1).astype(bool) == (activations > 0)).all()
    # The obvious slow way: centre, multiply, add, in double.
    weights = {name: array.astype(float) for name, array in model.weights.items()}
    slow = (pixels.reshape(70, -1) / 255 - weights["mean"]) @ weights["encoder.weight"].T + weights[
        "encoder.bias"
    ]
    assert np.abs(np.maximum(slow, 0) - activations).max() < 1e-4
    assert (model.encode(pixels[:3]) == model.encode(pixels)[:3]).all()
    model.save(tmp_path / "e.safetensors")
    again = autoencoder.Autoencoder.load(tmp_path / "e.safetensors")
    assert (again.encode(pixels) == model.encode(pixels)).all() and again.about == model.about


ENCODE = """
import hashlib, sys
import numpy as np
from gan_core.dedup.hashing.autoencoder import Autoencoder
encoder = Autoencoder.load(sys.argv[1])
pixels = np.load(sys.argv[2])
codes = [encoder.encode(pixels, batch=batch) for batch in (1, 7, 64, 512, 4096)]
assert all((one == codes[0]).all() for one in codes), "a code depends on the batch"
assert (codes[0][40:] == codes[0][0]).all(), "equal pixels have different codes"
print(hashlib.sha256(codes[0]).hexdigest())
"""
AVX2 = {
    "OPENBLAS_CORETYPE": "Haswell",
}


def test_equal_pixels_have_equal_codes_on_every_processor_and_in_every_batch(
    tmp_path: Path,
) -> None:
    """The processor's wide units are masked in other processes; float32 products differ there."""
    pixels = np.concatenate([digits(40), np.repeat(digits(1), 700, axis=0)])
    # Threshold the code bits at the first image's own activations: rounding decides every bit.
    model = autoencoder.fit(digits(40), SHORT, 0)
    model.weights["encoder.bias"] -= model.weights["encoder.weight"] @ (
        pixels[0].ravel() / np.float32(255) - model.weights["mean"]
    )
    model.weights["encoder.bias"] += np.float32(1e-6) * np.arange(-64, 64, dtype=np.float32)
    model.save(tmp_path / "encoder.safetensors")
    np.save(tmp_path / "pixels.npy", pixels)
    result = []
    for masks in ({}, AVX2, AVX2 | {"OPENBLAS_CORETYPE": "Nehalem"}):
        command = [sys.executable, "-c", ENCODE, "encoder.safetensors", "pixels.npy"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": source_root(), **masks},
            capture_output=True,
            text=True,
            check=True,
        )
        result.append(done.stdout)
    assert len(set(result)) == 1


@pytest.mark.parametrize("rows", [1, 5])
def test_fewer_images_than_a_batch_and_identical_ones(rows: int) -> None:
    pixels = np.repeat(digits(1), rows, axis=0)
    codes = autoencoder.fit(pixels, SHORT, 0).encode(pixels)
    assert codes.shape == (rows, 16) and (codes == codes[0]).all()


def test_no_image_at_all_is_a_data_error() -> None:
    with pytest.raises(DataError):
        autoencoder.fit(np.empty((0, 32, 32, 3), np.uint8), SHORT, 0)
    assert autoencoder.fit(digits(2), SHORT, 0).encode(
        np.empty((0, 32, 32, 3), np.uint8)
    ).shape == (0, 16)


def test_a_file_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(StoreError):
        autoencoder.Autoencoder.load(tmp_path / "junk")
    from safetensors.numpy import save_file

    save_file({"mean": np.zeros(3, np.float32)}, str(tmp_path / "other"))
    with pytest.raises(StoreError):
        autoencoder.Autoencoder.load(tmp_path / "other")


@pytest.mark.parametrize("count", [40, 24])
def test_steps_are_those_of_autograd_and_torchs_adam(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Written out by hand, against torch's own of the loss as the paper's network has it; a full
    batch, and the smaller last one.
    """
    data = digits(40).reshape(40, -1)
    ours = autoencoder._Trainer(data, SHORT, 0)
    ours.new_epoch()
    drawn: dict[str, np.ndarray] = {}
    noise, factors = ours._input_noise, ours._keep_factors

    def draw_noise(rows: int) -> np.ndarray:
        drawn["noise"] = noise(rows)
        return drawn["noise"]

    def draw_factors(rows: int, columns: int, rate: float) -> np.ndarray:
        drawn["factors"] = factors(rows, columns, rate)
        return drawn["factors"].copy()

    monkeypatch.setattr(ours, "_input_noise", draw_noise)
    monkeypatch.setattr(ours, "_keep_factors", draw_factors)
    parameters = [
        torch.from_numpy(parameter.copy()).requires_grad_()
        for parameter in (ours.w1, ours.b1, ours.w2, ours.b2)
    ]
    w1, b1, w2, b2 = parameters
    optimiser = torch.optim.Adam(parameters, lr=SHORT.learning_rate)
    random = np.random.default_rng(1)
    for _ in range(3):
        rows = random.permutation(40)[:count]
        ours.step(rows)
        clean = torch.from_numpy(data[rows].astype(np.float32) / 255 - ours.mean)
        code = torch.relu((clean * torch.from_numpy(drawn["noise"])) @ w1 + b1)
        code = code * torch.from_numpy(drawn["factors"])
        optimiser.zero_grad()
        ((code @ w2.t() + b2 - clean) ** 2).sum().div(count).backward()
        optimiser.step()
        for mine, theirs in zip((ours.w1, ours.b1, ours.w2, ours.b2), parameters, strict=True):
            moved = torch.from_numpy(mine) - theirs.detach()
            # Adam divides a gradient by its size: where one is nearly 0, its rounding decides
            assert (moved.abs() < 1e-5).float().mean() > 0.999
