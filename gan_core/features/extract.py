"""Features of images from a network: named layers, run to the last one asked for, pooled, float16.

The authors' discriminators have no running averages: their batch-norm statistics at inference are
taken over real training images (svhn/svhn_semisup_analysis.py), never over what training has seen,
which was generated in part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_core.errors import DataError
from gan_core.features.base import FeatureNetwork
from gan_core.features.modes import Selection, pool_maps, to_half
from gan_core.features.views import WHOLE_IMAGE, Views
from gan_core.randomness import numpy_stream
from gan_core.vision.tensors import to_float

# the authors' batch; it is part of the result, unlike the batch of the extraction
STATISTICS_BATCH = 128
Half = npt.NDArray[np.float16]
Images = npt.NDArray[np.uint8]


def extract_features(
    network: Callable[..., dict[str, Tensor]],
    images: Images,
    selection: Selection,
    *,
    batch: int = 128,
    device: str = "cpu",
    precision: str = "float32",
    after: Callable[[str, Tensor], Tensor] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[dict[str, Half], int]:
    """Features of some images.

    Args:
        network: gives activations by name for (float32 [n, 3, h, w] in [-1, 1], names):
            `LayeredNetwork.activations`.
        images: uint8 [n, h, w, 3].
        batch: images at a time; changes nothing but the rounding of the last bit.
        precision: 'float32', or 'bf16' for the network's arithmetic (pooling keeps its values).
        after: what becomes of a layer's pooled activations, by (name, [n, channels, rows,
            columns]).
        names: of the images, for messages; None: their numbers.

    Returns: {layer: float16 [n, channels, rows, columns]} and the number of values clipped to
        float16's range, infinite ones among them.
    Raises: DataError: an activation is not a number (NaN), with the layer and the images.
    """
    out: dict[str, Half] = {
        size.name: np.empty((len(images), *size.pooled), np.float16) for size in selection.sizes
    }
    clipped, start = 0, 0
    for found in pooled(
        network,
        images,
        selection,
        batch=batch,
        device=device,
        precision=precision,
    ):
        for size in selection.sizes:
            values = found[size.name] if after is None else after(size.name, found[size.name])
            _check_nan(size.name, values, start, names)
            half, beyond = to_half(values)
            clipped += beyond
            out[size.name][start : start + len(half)] = half.numpy().reshape(-1, *size.pooled)
        start += len(half)
    return out, clipped


def _check_nan(layer: str, values: Tensor, start: int, names: Sequence[str] | None) -> None:
    """Raises DataError where a batch's values of a layer, [n, ...], from image `start` on, hold
    NaN.
    """
    wrong = values.isnan()
    if not bool(wrong.any()):
        return
    rows = [start + int(row) for row in wrong.flatten(1).any(1).nonzero()[:, 0]]
    listed = ", ".join(names[row] if names is not None else str(row) for row in rows[:5]) + (
        ", ..." if len(rows) > 5 else ""
    )
    raise DataError(
        f"{int(wrong.sum())} activations of layer {layer!r} are not numbers (NaN), in {len(rows)} "
        f"of {len(values)} images: {listed}.",
        expected="a network whose activations are finite",
        remedy=(
            "in all images: the weights have diverged, take an earlier snapshot or other "
            "weights; in few: inspect those"
        ),
    )


@contextmanager
def full_float32() -> Iterator[None]:
    """Within it float32 is float32 on a GPU too: no TF32 (10 bits of fraction, torch's default for
    convolutions). Put back afterwards.
    """
    backends = torch.backends
    places: list[tuple[Any, str, Any]] = []
    for legacy, newer in (
        (backends.cudnn, backends.cudnn.conv),  # type: ignore[attr-defined]
        (backends.cuda.matmul, backends.cuda.matmul),
    ):
        try:
            places.append((legacy, "allow_tf32", legacy.allow_tf32))
        # single operations were set by the newer names, and torch then refuses the old one
        except RuntimeError:
            places.append((newer, "fp32_precision", newer.fp32_precision))
    try:
        for place, name, _ in places:
            setattr(place, name, False if name == "allow_tf32" else "ieee")
        yield
    finally:
        for place, name, before in places:
            setattr(place, name, before)


def pooled(
    network: Callable[..., dict[str, Tensor]],
    images: Images,
    selection: Selection,
    *,
    batch: int,
    device: str,
    precision: str = "float32",
) -> Iterator[dict[str, Tensor]]:
    """Pooled activations on the device, a batch at a time: {layer: [n, channels, rows, columns]};
    arguments as in `extract_features`.
    """
    layers = [size.name for size in selection.sizes]

    def read(view: Tensor) -> dict[str, Tensor]:
        found = network(view, layers)
        return {name: pool_maps(found[name], selection.grid, selection.pool) for name in layers}

    views = selection.views
    kind = torch.device(device).type
    for start in range(0, len(images), batch):
        # Straight from bytes to the device: a quarter of the traffic of floats.
        inputs = to_float(
            torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(device)
        )
        if precision == "bf16":  # the layout that bf16 convolutions are fast in
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        cast: Any = torch.autocast(kind, torch.bfloat16) if precision == "bf16" else nullcontext()
        # Not inference mode: what an external module keeps must stay fit for training.
        with torch.no_grad(), full_float32(), cast:
            if views.count == 1:
                small = read(inputs)
            else:
                small = views.join((quadrant, read(view)) for quadrant, view in views.of(inputs))
        yield small  # not inside: the contexts would stay open in the caller


def set_statistics(
    network: FeatureNetwork,
    read: Callable[[npt.NDArray[np.int64]], Images],
    rows: int,
    limit: int,
    seed: int,
    device: str,
    views: Views = WHOLE_IMAGE,
) -> int:
    """Sets the network's batch-norm statistics over real training images, as the authors' script
    does (methods.md 1.4).

    Batches of 128 in a seeded random order; per-batch mean and biased variance are averaged, every
    batch counting equally, the last, smaller one too (one of a single image is left out: it has no
    variance).

    Args:
        read: row numbers to uint8 images [n, h, w, 3].
        rows: how many images there are.
        limit: at most this many are used.

    Returns: the number of images used; 0 when the network has no batch norm.
    """
    if not network.norms():
        return 0
    order = numpy_stream(seed, "statistics").permutation(rows)[:limit]
    if len(order) < 2:
        raise DataError(
            f"Batch-norm statistics are taken over real training images, and there are {rows}.",
            expected="at least 2 images in the training set",
        )

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(order), STATISTICS_BATCH):
            chosen = order[start : start + STATISTICS_BATCH]
            if len(chosen) > 1:
                inputs = to_float(torch.from_numpy(read(np.sort(chosen))).to(device))
                yield views.for_statistics(inputs, start // STATISTICS_BATCH)

    with full_float32():
        network.calibrate(batches())
    return len(order) - (len(order) % STATISTICS_BATCH == 1)


def statistics_of(network: FeatureNetwork) -> dict[str, Tensor]:
    """Stored batch-norm statistics as '<layer>.mean' and '<layer>.variance': copies, float32 on
    the CPU.
    """
    found = {}
    for name, norm in network.norms().items():
        for short, buffer in (("mean", "running_mean"), ("variance", "running_var")):
            found[f"{name}.{short}"] = getattr(norm, buffer).detach().float().cpu().clone()
    return found


def restore_statistics(network: FeatureNetwork, statistics: dict[str, Tensor]) -> None:
    """Puts back what `statistics_of` gave."""
    for name, norm in network.norms().items():
        device = (
            next(norm.buffers()).device
            if any(True for _ in norm.buffers())
            else torch.device("cpu")
        )
        norm.running_mean = statistics[f"{name}.mean"].to(device).clone()
        norm.running_var = statistics[f"{name}.variance"].to(device).clone()


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes of tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
