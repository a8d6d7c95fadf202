"""Reading many images of a source on several threads, results in the order asked, memory
bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gan_core.datasets.base import Blob, Source

_Result = TypeVar("_Result")

# A batch makes threads worth their switching for small images; what waits in memory is bounded by
# bytes as well.
_BATCH = 64
_BATCH_BYTES = 32 << 20


def read_ordered(
    source: Source,
    requests: Sequence[tuple[str, str]],
    work: Callable[[int, Blob], _Result],
    workers: int,
) -> Iterator[_Result]:
    """Calls work(index, blob) for every request on `workers` threads and yields the results in
    order.

    Containers (Parquet, tar) are read on the calling thread, once and forwards; files of their own
    are read by the threads.

    Args:
        requests: (address, member) pairs in the source's order.
        work: must not raise but for errors that end the stage; called from several threads.
    """

    def whole(batch: list[tuple[int, Blob]]) -> list[_Result]:
        return [work(index, blob) for index, blob in batch]

    batches = _batches(enumerate(source.read_many(requests)))
    if workers < 2:
        for batch in batches:
            yield from whole(batch)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[list[_Result]]] = deque()
        try:
            for batch in batches:
                pending.append(pool.submit(whole, batch))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _batches(items: Iterator[tuple[int, Blob]]) -> Iterator[list[tuple[int, Blob]]]:
    batch: list[tuple[int, Blob]] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item[1].data or b"")
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
