"""Real images for training: resident on the device where they fit, else read ahead from memory-mapped shards.

The order is a function of (seed, images seen) alone: epoch e runs through a permutation drawn from the stream (seed, 'order', e), and
batches continue across the end of an epoch. Resuming therefore needs one number.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_core.devices import memory_bytes
from gan_core.randomness import derive_seed

AHEAD = 3  # batches read ahead of the one in use when the set is not resident
RESIDENT_SHARE = 0.4  # of the device's memory that the images may take


class ImageSet(Protocol):
    """What training asks of a set: `PixelShards` is one."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def pixels(self, rows: npt.NDArray[np.int64] | slice | None = None) -> npt.NDArray[np.uint8]: ...


class ArrayImages:
    """Images in an array: uint8 [n, S, S, 3]."""

    def __init__(self, array: npt.NDArray[np.uint8]) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self._array.shape
        return (height, width, channels)

    def pixels(self, rows: npt.NDArray[np.int64] | slice | None = None) -> npt.NDArray[np.uint8]:
        return self._array if rows is None else self._array[rows]


class Order:
    """An endless order of rows: place i of the stream is row `permutation(i // n)[i % n]`."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._permutation = -1, np.zeros(0, np.int64)

    def rows(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Rows at places start .. start + count - 1: int64 [count]."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.size)
            if epoch != self._epoch:
                stream = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "order", epoch)))
                self._epoch, self._permutation = epoch, stream.permutation(self.size)
            part = self._permutation[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)


def memory_of(device: str) -> int:
    """Memory in bytes of the device: a GPU's own, or main memory."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_bytes()


class Feed:
    """Batches of real images on `device`, from a place in the order on.

    Args:
        images: the set.
        batch: images per (global) batch.
        share: (rank, processes): this process gets every `processes`-th image of each batch, from `rank` on.
        labels: int64 [n] of the whole set, or None.
        resident: keep the whole set on the device; None decides by size.
    """

    def __init__(
        self,
        images: ImageSet,
        batch: int,
        *,
        seed: int,
        device: str = "cpu",
        share: tuple[int, int] = (0, 1),
        labels: npt.NDArray[np.int64] | None = None,
        resident: bool | None = None,
    ) -> None:
        self._images, self._batch, self._seed, self._device, self._share = images, batch, seed, device, share
        height, width, channels = images.shape
        fits = len(images) * height * width * channels <= RESIDENT_SHARE * memory_of(device)
        self.resident = fits if resident is None else resident
        self._pixels = torch.from_numpy(np.ascontiguousarray(images.pixels())).to(device) if self.resident else None
        self._labels = None if labels is None else torch.from_numpy(np.asarray(labels, np.int64)).to(device)

    def batches(self, place: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yields (uint8 [n, S, S, 3], labels [n] or None) on the device, endlessly, from `place` images into the order."""
        order = Order(len(self._images), self._seed)
        rank, processes = self._share

        def next_rows() -> npt.NDArray[np.int64]:
            nonlocal place
            rows = order.rows(place, self._batch)[rank::processes]
            place += self._batch
            return rows

        if self._pixels is not None:
            while True:
                rows = torch.from_numpy(next_rows()).to(self._device, non_blocking=True)
                yield self._pixels.index_select(0, rows), None if self._labels is None else self._labels[rows]
        yield from self._read_ahead(next_rows)

    def _read_ahead(self, next_rows: object) -> Iterator[tuple[Tensor, Tensor | None]]:
        assert callable(next_rows)
        pin = self._device.startswith("cuda")

        def read(rows: npt.NDArray[np.int64]) -> tuple[Tensor, npt.NDArray[np.int64]]:
            pixels = torch.from_numpy(self._images.pixels(rows))
            return (pixels.pin_memory() if pin else pixels), rows

        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            waiting: list[Future[tuple[Tensor, npt.NDArray[np.int64]]]] = [
                reader.submit(read, next_rows()) for _ in range(AHEAD)
            ]
            try:
                while True:
                    waiting.append(reader.submit(read, next_rows()))
                    pixels, rows = waiting.pop(0).result()
                    labels = None if self._labels is None else self._labels[torch.from_numpy(rows).to(self._device)]
                    yield pixels.to(self._device, non_blocking=True), labels
            finally:
                for future in waiting:
                    future.cancel()


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Flips the chosen images left to right. Args: images: [N, C, H, W]; chosen: bool [N]."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)
