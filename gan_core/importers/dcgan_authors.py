"""The DCGAN authors' own trained SVHN networks (Newmu/dcgan_code, svhn/models, MIT) as a snapshot.

The release is a Python-2 joblib dump: a `.jl` wrapper, which is never opened here, and one
`<name>_NN.npy` for each array, numbered in order from 1. Convolutions were made by Theano, which
flips kernels: both kinds are turned by 180 degrees on the way in. The golden numbers are this
project's, taken with an independent numpy version (reference/methods.md 1.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.errors import DataError, RequestError
from gan_core.files import sha256_file
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import batch_statistics, calibrate_batchnorm
from gan_core.networks.snapshot import (
    Prior,
    build_networks,
    sample_latents,
    snapshot_name,
    write_snapshot,
)
from gan_core.randomness import torch_stream

Array = npt.NDArray[np.float32]
SPEC = {"name": "dcgan32_svhn", "width": 1.0, "latent_dim": 100, "image_size": 32, "classes": 0}

# Where each array of the release goes, in its order: (layer, what)
GENERATOR = (
    ("project", "linear"), ("project", "gain"), ("project", "bias"),
    ("deconv1", "kernel"), ("deconv1", "gain"), ("deconv1", "bias"),
    ("deconv2", "kernel"), ("deconv2", "gain"), ("deconv2", "bias"),
    ("image", "kernel"),
)  # fmt: skip
DISCRIMINATOR = (
    ("conv1", "kernel"),
    ("conv2", "kernel"), ("conv2", "gain"), ("conv2", "bias"),
    ("conv3", "kernel"), ("conv3", "gain"), ("conv3", "bias"),
    ("head", "linear"),
)  # fmt: skip


@dataclass(frozen=True)
class Golden:
    """A figure that the networks must give on the latents `RandomState(0).randn(128, 100)`, with
    batch statistics.
    """

    name: str
    expected: float
    found: float
    tolerance: float

    @property
    def right(self) -> bool:
        return abs(self.found - self.expected) <= self.tolerance


def read_arrays(folder: Path, name: str, count: int) -> list[Array]:
    """The arrays `<name>.jl_01.npy` ... in the order of their numbers.

    Raises: RequestError: one is missing. DataError: one is no array.
    """
    found = sorted(
        folder.glob(f"*{name}.jl_*.npy"), key=lambda path: int(path.stem.rsplit("_", 1)[1])
    )
    if [int(path.stem.rsplit("_", 1)[1]) for path in found] != list(range(1, count + 1)):
        raise RequestError(
            f"{folder} does not hold the {count} arrays of {name}: {len(found)} were found.",
            expected=f"files like 200_{name}.jl_01.npy, numbered from 1 to {count}",
            remedy="give the folder with the released .npy files (svhn/models of Newmu/dcgan_code)",
        )
    try:
        return [np.load(path, allow_pickle=False).astype(np.float32) for path in found]
    except ValueError as error:
        raise DataError(
            f"An array of {name} in {folder} cannot be read: {error}.", expected="plain .npy files"
        ) from error


def fill(network: LayeredNetwork, places: tuple[tuple[str, str], ...], arrays: list[Array]) -> None:
    """Puts the arrays into the network, kernels turned, linear maps transposed.

    Raises: DataError: an array has another shape than its place.
    """
    with torch.no_grad():
        for number, ((layer, what), array) in enumerate(zip(places, arrays, strict=True), start=1):
            at: Any = network.layer(layer)
            value = torch.from_numpy(np.ascontiguousarray(array))
            if what == "kernel":
                target, value = at.operation.weight, value.flip(2, 3) if value.dim() == 4 else value
            elif what == "linear":
                target, value = at.operation.weight, value.T if value.dim() == 2 else value
            else:
                target = at.norm.weight if what == "gain" else at.norm.bias
            if target.shape != value.shape:
                raise DataError(
                    f"Array {number} ({layer} {what}) has shape {tuple(array.shape)}.",
                    expected=(
                        f"the SVHN networks of the release, here {tuple(target.shape)} after "
                        "turning"
                    ),
                )
            target.copy_(value)


def read_networks(folder: Path) -> tuple[LayeredNetwork, LayeredNetwork]:
    """(generator, discriminator) with the released weights. Stored batch-norm statistics are not
    part of the release.
    """
    networks = build_networks(SPEC)
    fill(networks["generator"], GENERATOR, read_arrays(folder, "gen_params", len(GENERATOR)))
    fill(
        networks["discriminator"],
        DISCRIMINATOR,
        read_arrays(folder, "discrim_params", len(DISCRIMINATOR)),
    )
    return networks["generator"], networks["discriminator"]


def import_dcgan_authors(folder: Path, out: Path) -> Path:
    """Writes the released networks as a snapshot into the folder `out`.

    Batch-norm statistics, of which the release has none, are measured: the generator's over
    latents, the discriminator's over generated images (extraction measures its own over real ones).
    Returns: the snapshot's path.
    """
    generator, discriminator = read_networks(folder)
    prior = Prior("uniform", 100)
    stream = torch_stream(0, "authors")
    latents = [sample_latents(prior, 128, stream) for _ in range(16)]
    calibrate_batchnorm(generator, latents)
    with torch.no_grad(), batch_statistics(generator):
        calibrate_batchnorm(discriminator, [generator(z) for z in latents])
    files = sorted(folder.glob("*_params.jl_*.npy"))
    meta = {
        "network": SPEC,
        "prior": {"distribution": prior.distribution, "dim": prior.dim, "classes": 0},
        "method": "dcgan",
        "options": {"mode": "paper"},
        "kimg": 0,
        "origin": {
            "what": "DCGAN authors' SVHN networks, Newmu/dcgan_code, MIT",
            "files": {path.name: sha256_file(path) for path in files},
        },
    }
    networks = {"generator": generator, "discriminator": discriminator}
    out.mkdir(parents=True, exist_ok=True)
    return write_snapshot(out / snapshot_name(0), networks, sample_latents(prior, 64, stream), meta)


def pooled_features(network: LayeredNetwork, images: Tensor, grid: int = 4) -> Tensor:
    """Every convolutional layer max-pooled to grid x grid and joined: [N, grid * grid * sum of
    maps] float32.
    """
    found = network.activations(images, [info.name for info in network.layers() if info.maps])
    return torch.cat([F.adaptive_max_pool2d(maps, grid).flatten(1) for maps in found.values()], 1)


@torch.no_grad()
def check(folder: Path) -> list[Golden]:
    """The golden numbers and what the networks in `folder` give here."""
    generator, discriminator = read_networks(folder)
    latents = torch.from_numpy(np.random.RandomState(0).randn(128, 100).astype(np.float32))
    with batch_statistics(generator), batch_statistics(discriminator):
        images = generator(latents)
        features = pooled_features(discriminator, images)
        scores = discriminator(images).sigmoid()
    figures = (
        ("generated images, mean", -0.061828, images.mean(), 2e-6),
        ("generated images, standard deviation", 0.251529, images.std(correction=0), 2e-6),
        ("features, mean", 0.286898, features.mean(), 2e-6),
        ("features, standard deviation", 0.630687, features.std(correction=0), 2e-6),
        ("score of generated images, mean", 0.05404, scores.mean(), 2e-5),
    )
    return [
        Golden(name, expected, float(found), tolerance)
        for name, expected, found, tolerance in figures
    ]
