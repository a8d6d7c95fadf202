"""The DCGAN authors' released SVHN networks: golden numbers, and a snapshot that the rest
can use.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.errors import DataError, RequestError
from gan_core.importers import dcgan_authors as authors
from gan_core.networks.snapshot import generate, load_snapshot, sample_latents
from gan_core.training.divergence import oscillation

FOLDER = "dcgan-authors-svhn"


def test_the_golden_numbers(real_data: Path) -> None:
    found = authors.check(real_data / FOLDER)
    assert len(found) == 5
    assert all(golden.right for golden in found), found


def test_without_turning_the_kernels_the_numbers_are_wrong(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "flip", lambda self, *axes: self)
    assert not any(golden.right for golden in authors.check(real_data / FOLDER))


def test_the_generator_against_plain_numpy(real_data: Path) -> None:
    """The first deconvolution written out as Theano's: a true convolution of the stretched
    input.
    """
    generator, _ = authors.read_networks(real_data / FOLDER)
    w, gain, bias, w2 = authors.read_arrays(real_data / FOLDER, "gen_params", 10)[:4]
    z = np.random.RandomState(1).randn(6, 100).astype(np.float32)
    h = z @ w
    h = np.maximum((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-8) * gain + bias, 0).reshape(
        6, 256, 4, 4
    )
    stretched = np.zeros((6, 256, 8 + 4, 8 + 4), np.float32)
    stretched[:, :, 2 : 2 + 8 : 2, 2 : 2 + 8 : 2] = h
    out = np.zeros((6, 128, 8, 8), np.float32)
    for i in range(5):
        for j in range(5):  # correlation with the kernel as stored
            out += np.einsum("nchw,co->nohw", stretched[:, :, i : i + 8, j : j + 8], w2[:, :, i, j])
    generator.train()
    layer = generator.layer("deconv1")
    with torch.no_grad():
        ours = layer.operation(generator.run_to(torch.from_numpy(z), "project")).numpy()
    assert np.abs(ours - out).max() < 1e-4


def test_imported_networks_are_a_snapshot_like_any_other(real_data: Path, tmp_path: Path) -> None:
    path = authors.import_dcgan_authors(real_data / FOLDER, tmp_path)
    again = authors.import_dcgan_authors(real_data / FOLDER, tmp_path / "again")
    assert path.read_bytes() == again.read_bytes()
    snapshot = load_snapshot(path)
    assert snapshot.meta["origin"]["files"]["200_gen_params.jl_01.npy"]
    images = generate(
        snapshot, sample_latents(snapshot.prior, 64, torch.Generator().manual_seed(0))
    )
    assert 0.2 < float(images.std()) < 0.35  # the release itself: 0.25
    assert float(oscillation(images)) < 0.006
    with torch.no_grad():
        scores = snapshot.discriminator(images).sigmoid()
    assert float(scores.mean()) < 0.2  # it recognises its own generator's images


def test_missing_and_foreign_arrays_are_refused(real_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="0 were found"):
        authors.check(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(real_data / FOLDER, broken)
    np.save(broken / "200_gen_params.jl_04.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(DataError, match="Array 4"):
        authors.check(broken)
