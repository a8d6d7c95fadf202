"""Whether a generator draws its training images: samples are hashed with the dedup autoencoder and
looked up among the training codes.

A sample whose code equals a training image's is a collision. The distances of real images to each
other are the yardstick: a generator that has learnt to draw is about as far from the training set
as its images are from one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from gan_core.errors import RequestError, WorkError
from gan_core.networks.snapshot import Snapshot, generate, sample_latents
from gan_core.randomness import torch_stream
from gan_core.vision.tensors import to_uint8

if TYPE_CHECKING:
    from gan_core.dedup.hashing.autoencoder import Autoencoder

Codes = npt.NDArray[np.uint8]
SAMPLES = 2048
NEAR_BITS = 4  # codes this close are near-duplicates on injected copies (reference/methods.md 1.6)
PAIRS = 8  # near samples that are shown beside their training image, at most
_ROUND = 256  # samples tried at once when some may be rejected
_BLOCK = 1 << 22  # pairs compared at once


@dataclass(frozen=True)
class TrainingCodes:
    """The training images' codes, uint8 [n, 16], the encoder that made them, and which crops they
    are (image id, box).
    """

    encoder: Autoencoder
    codes: Codes
    places: tuple[tuple[str, int], ...] = ()

    @classmethod
    def read(cls, folder: Path) -> TrainingCodes:
        """From an artifact of stage hash: rows of the training split."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        from gan_core.dedup.hashing.autoencoder import Autoencoder

        if not all((folder / name).is_file() for name in ("codes.parquet", "encoder.safetensors")):
            raise RequestError(
                f"{folder} holds no training codes.",
                expected=(
                    "an artifact of stage hash: a folder with codes.parquet and encoder.safetensors"
                ),
                remedy="HOME/artifacts/hash/KEY/DIGEST of the run that the snapshot is of",
            )
        table = pq.read_table(
            folder / "codes.parquet", columns=["image_id", "box", "split", "code"]
        )
        table = table.filter(pc.equal(table["split"], "train"))
        packed = b"".join(table["code"].to_pylist())
        return cls(
            Autoencoder.load(folder / "encoder.safetensors"),
            np.frombuffer(packed, np.uint8).reshape(table.num_rows, -1),
            tuple(zip(table["image_id"].to_pylist(), table["box"].to_pylist(), strict=True)),
        )

    def nearest(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """Bits between each image's code and the nearest training code: int64 [n]. Args: images:
        uint8 [n, S, S, 3].
        """
        return nearest_distances(self.encoder.encode(images), self.codes)


def nearest_distances(
    codes: Codes, among: Codes, *, skip_one: bool = False
) -> npt.NDArray[np.int64]:
    """Hamming distance of each code to the nearest in `among`: int64 [n].

    Args:
        codes, among: uint8 [n, 8 k], [m, 8 k].
        skip_one: take the second nearest: for codes that are themselves in `among`.
    """
    left, right = (np.ascontiguousarray(c).view(np.uint64) for c in (codes, among))
    out = np.empty(len(left), np.int64)
    rows = max(1, _BLOCK // max(1, len(right)))
    for start in range(0, len(left), rows):
        block = left[start : start + rows]
        distance = np.zeros((len(block), len(right)), np.uint16)
        for word in range(left.shape[1]):
            distance += np.bitwise_count(block[:, None, word] ^ right[None, :, word])
        out[start : start + rows] = (
            np.partition(distance, 1, axis=1)[:, 1] if skip_one else distance.min(1)
        )
    return out


def images_of(snapshot: Snapshot, n: int, random: torch.Generator) -> npt.NDArray[np.uint8]:
    """Samples uint8 [n, S, S, 3]; grey ones repeated over the channels."""
    latents = sample_latents(snapshot.prior, n, random)
    images = to_uint8(generate(snapshot, latents)).numpy()
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def near_pairs(
    snapshot: Snapshot,
    training: TrainingCodes,
    rows: Mapping[tuple[str, int], int],
    *,
    seed: int,
    samples: int = SAMPLES,
    most: int = PAIRS,
) -> tuple[npt.NDArray[np.uint8], list[int], list[int]]:
    """The samples of `memorisation` within 4 bits of a training image, nearest first, each with
    that image.

    Args: rows: (image id, box) to the image's row of the training set; what is in no row (removed
        as a duplicate) is no partner.
    Returns: samples uint8 [k, S, S, 3], rows of their partners, bits between their codes; k is at
        most `most`.
    """
    known = [number for number, place in enumerate(training.places) if place in rows]
    images = images_of(snapshot, samples, torch_stream(seed, "memorisation"))
    if not known:
        return images[:0], [], []
    codes, among = training.encoder.encode(images), training.codes[known]
    distances = nearest_distances(codes, among)
    near = [
        int(n) for n in np.argsort(distances, kind="stable")[:most] if distances[n] <= NEAR_BITS
    ]
    partners = [int(np.bitwise_count(codes[n] ^ among).sum(1).argmin()) for n in near]
    return (
        images[near],
        [rows[training.places[known[n]]] for n in partners],
        [int(distances[n]) for n in near],
    )


def memorisation(
    snapshot: Snapshot, training: TrainingCodes, *, seed: int, samples: int = SAMPLES
) -> dict[str, Any]:
    """How close `samples` generated images lie to the training set.

    Returns: samples, collisions (equal codes), collision_rate, near_rate (within 4 bits),
        nearest_median (bits), and the same median and rate for as many training images among the
        others (`real_nearest_median`, `real_collision_rate`).
    """
    nearest = training.nearest(images_of(snapshot, samples, torch_stream(seed, "memorisation")))
    some = np.random.default_rng(seed).permutation(len(training.codes))[:samples]
    real = (
        nearest_distances(training.codes[some], training.codes, skip_one=True)
        if len(training.codes) > 1
        else np.zeros(1, np.int64)
    )
    return {
        "samples": samples,
        "collisions": int((nearest == 0).sum()),
        "collision_rate": float((nearest == 0).mean()),
        "near_rate": float((nearest <= NEAR_BITS).mean()),
        "nearest_median": float(np.median(nearest)),
        "real_collision_rate": float((real == 0).mean()),
        "real_nearest_median": float(np.median(real)),
    }


def draw(
    snapshot: Snapshot,
    n: int,
    *,
    seed: int,
    reject_collisions: TrainingCodes | None = None,
    radius: int = 0,
) -> tuple[npt.NDArray[np.uint8], int]:
    """Samples of a snapshot, without those whose code lies within `radius` bits of a training
    image's.

    Returns: (uint8 [n, S, S, 3], how many were rejected).
    Raises: WorkError: nearly everything is rejected.
    """
    stream = torch_stream(seed, "sample")
    kept: list[npt.NDArray[np.uint8]] = []
    have, rejected, tried = 0, 0, 0
    while have < n:
        images = images_of(
            snapshot, n - have if reject_collisions is None else max(_ROUND, n - have), stream
        )
        tried += len(images)
        if reject_collisions is not None:
            good = reject_collisions.nearest(images) > radius
            rejected += int((~good).sum())
            images = images[good]
        kept.append(images)
        have += len(images)
        if tried > 20 * n + 1000:
            raise WorkError(
                f"Of {tried} samples {rejected} lie within {radius} bits of a training image: "
                "this generator draws its training set.",
                expected="a generator that makes new images",
                remedy="sample without rejecting, or train on more images",
            )
    return np.concatenate(kept)[:n] if kept else np.zeros((0, 0, 0, 3), np.uint8), rejected
