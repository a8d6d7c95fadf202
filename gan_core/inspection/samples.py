"""Samples of a trained generator, and how different they are from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gan_core.randomness import torch_stream

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.networks.snapshot import Snapshot


def draw_samples(snapshot: Snapshot, n: int, seed: int) -> npt.NDArray[np.uint8]:
    """`n` images of the snapshot's best generator, uint8 [n, S, S, 3]: first from the latents of
    its training grids, then fresh ones.

    Args: seed: fixes the fresh latents (stream 'inspect', 'samples').
    """
    import torch

    from gan_core.networks.snapshot import generate, sample_latents

    stored = snapshot.grid_latents[:n].cpu()
    fresh = sample_latents(
        snapshot.prior, n - len(stored), torch_stream(seed, "inspect", "samples")
    )
    return as_images(generate(snapshot, torch.cat([stored, fresh]) if len(stored) else fresh))


def as_images(images: Tensor) -> npt.NDArray[np.uint8]:
    """float [n, C, S, S] in [-1, 1] to uint8 [n, S, S, 3]; one channel is shown as grey."""
    from gan_core.vision.tensors import to_uint8

    pictures = np.asarray(to_uint8(images).numpy())
    return pictures.repeat(3, axis=3) if pictures.shape[3] == 1 else pictures


def diversity(pictures: npt.NDArray[np.uint8], most: int = 256) -> float:
    """Mean absolute difference between two images over all pairs, as a share of the value range (0:
    all are equal).

    Args: images: uint8 [n, ...]; the first `most` of them count, since pairs grow with the square.
    """
    if len(pictures) < 2:
        return 0.0
    flat = pictures[:most].reshape(min(len(pictures), most), -1).astype(np.int16)
    total = sum(
        float(np.abs(flat[i + 1 :] - flat[i]).mean(axis=1).sum()) for i in range(len(flat) - 1)
    )
    return total / (len(flat) * (len(flat) - 1) / 2) / 255
