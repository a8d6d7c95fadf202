"""Real images for training: resident on the device where they fit, else read ahead from
memory-mapped shards.

The order is a function of (seed, images seen) alone: epoch e runs through a permutation drawn from
the stream (seed, 'order', e), and batches continue across the end of an epoch. Resuming therefore
needs one number.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_core.devices import memory_bytes
from gan_core.randomness import derive_seed

logger = logging.getLogger(__name__)

AHEAD = 3  # batches read ahead of the one in use when the set is not resident
RESIDENT_SHARE = 0.4  # of the device's memory that the images may take
PIECE = 1 << 28  # bytes that go to a GPU at once: main memory never holds more of a resident set


class ImageSet(Protocol):
    """What training asks of a set: `PixelShards` is one."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def pixels(
        self, rows: npt.NDArray[np.int64] | slice | None = None
    ) -> npt.NDArray[np.uint8]: ...


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
        state = []
        while count > 0:
            epoch, offset = divmod(start, self.size)
            if epoch != self._epoch:
                stream = np.random.Generator(
                    np.random.PCG64(derive_seed(self.seed, "order", epoch))
                )
                self._epoch, self._permutation = epoch, stream.permutation(self.size)
            part = self._permutation[offset : offset + count]
            state.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(state)


def memory_of(device: str, here: int = 1) -> int:
    """Memory in bytes that a process may count on: what is free on its GPU, or its part of main
    memory among `here` processes.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return memory_bytes() // here


class Feed:
    """Batches of real images on `device`, from a place in the order on.

    Args:
        images: the set.
        batch: images per (global) batch.
        share: (rank, processes): this process gets every `processes`-th image of each batch, from
            `rank` on.
        here: processes on this machine: on a CPU each keeps a set of its own, in the memory that
            they share.
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
        here: int = 1,
        labels: npt.NDArray[np.int64] | None = None,
        resident: bool | None = None,
    ) -> None:
        self._images, self._batch, self._seed, self._device, self._share = (
            images,
            batch,
            seed,
            device,
            share,
        )
        self._cuda = device.startswith("cuda")
        height, width, channels = images.shape
        fits = len(images) * height * width * channels <= RESIDENT_SHARE * memory_of(device, here)
        self._pixels = self._resident_set() if (fits if resident is None else resident) else None
        self.resident = self._pixels is not None
        self._labels = (
            None if labels is None else torch.from_numpy(np.asarray(labels, np.int64)).to(device)
        )

    def _resident_set(self) -> Tensor | None:
        """The whole set on the device, piece by piece; None where a GPU turns out to have no room
        for it.
        """
        if not self._cuda:
            return torch.from_numpy(np.ascontiguousarray(self._images.pixels()))
        count, piece = len(self._images), max(1, PIECE // math.prod(self._images.shape))
        try:
            pixels = torch.empty(
                (count, *self._images.shape), dtype=torch.uint8, device=self._device
            )
        except torch.OutOfMemoryError:
            logger.info("The GPU's memory has no room for the whole set; it is read ahead instead.")
            return None
        for start in range(0, count, piece):
            part = torch.from_numpy(
                np.ascontiguousarray(self._images.pixels(slice(start, start + piece)))
            )
            pixels[start : start + piece].copy_(part)
        return pixels

    def batches(self, place: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yields (uint8 [n, S, S, 3], labels [n] or None) on the device, endlessly, from `place`
        images into the order.

        A batch is there until the next one is asked for.
        """
        order = Order(len(self._images), self._seed)
        rank, processes = self._share

        def next_rows() -> npt.NDArray[np.int64]:
            nonlocal place
            rows = order.rows(place, self._batch)[rank::processes]
            place += self._batch
            return rows

        if self._pixels is not None:
            while True:
                rows = self._host(next_rows()).to(self._device, non_blocking=True)
                yield self._pixels.index_select(0, rows), self._labels_of(rows)
        else:
            yield from self._copied_ahead(next_rows) if self._cuda else self._read_ahead(next_rows)

    def _host(self, array: npt.NDArray[Any]) -> Tensor:
        """An array as a tensor that a GPU can fetch by itself: a copy from ordinary memory makes
        the host wait for the device.
        """
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._cuda else tensor

    def _labels_of(self, rows: Tensor) -> Tensor | None:
        return None if self._labels is None else self._labels.index_select(0, rows)

    def _read_ahead(
        self, next_rows: Callable[[], npt.NDArray[np.int64]]
    ) -> Generator[tuple[Tensor, Tensor | None]]:
        """Batches in main memory, read by a thread. Labels lie where the set's do."""

        def read(rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            return self._host(self._images.pixels(rows)), self._host(rows)

        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            waiting: list[Future[tuple[Tensor, Tensor]]] = [
                reader.submit(read, next_rows()) for _ in range(AHEAD)
            ]
            try:
                while True:
                    waiting.append(reader.submit(read, next_rows()))
                    pixels, rows = waiting.pop(0).result()
                    yield pixels, self._labels_of(rows.to(self._device, non_blocking=True))
            finally:
                for future in waiting:
                    future.cancel()

    def _copied_ahead(
        self, next_rows: Callable[[], npt.NDArray[np.int64]]
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches on a GPU: the next one's copy runs on a stream of its own while the last one is
        trained on.
        """
        copying = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        ahead = self._read_ahead(next_rows)
        slots: list[_Slot] = []

        def fetch(number: int) -> None:
            pixels, labels = next(ahead)
            if len(slots) <= number:
                slots.append(
                    _Slot(torch.empty(pixels.shape, dtype=torch.uint8, device=self._device))
                )
            slot = slots[number]
            slot.labels = labels
            copying.wait_event(slot.free)
            with torch.cuda.stream(copying):
                slot.pixels.copy_(pixels, non_blocking=True)
            slot.filled.record(copying)

        number = 0
        fetch(number)
        try:
            while True:
                slot = slots[number]
                torch.cuda.current_stream(self._device).wait_event(slot.filled)
                number = 1 - number
                fetch(number)
                yield slot.pixels, slot.labels
                slot.free.record(torch.cuda.current_stream(self._device))
        finally:
            ahead.close()
            copying.synchronize()  # before its slots become room for something else


class _Slot:
    """Room for one batch on a GPU. `filled`: its copy is done; `free`: what was trained on
    it is.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.labels: Tensor | None = None
        self.filled = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.free = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.free.record(torch.cuda.current_stream(pixels.device))  # after the making of this room


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Flips the chosen images left to right. Args: images: [N, C, H, W]; chosen: bool [N]."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)
