"""How dedup's cost grows: codes within 4 bits at 1, 3 and 10 million, and each step of mode
verified on 40,000 to 160,000 images.

    python benchmarks/dedup_scale.py --codes 1000000 3000000 10000000
    python benchmarks/dedup_scale.py --data "$DISCERN_DATA" --images 40000 80000 160000
    python benchmarks/dedup_scale.py --data "$DISCERN_DATA" --search 1000000

The images are CIFAR-10's, then Tiny ImageNet's at 32x32. `--search` runs the whole search and
counts the planted duplicates that it finds.

Every size runs in a process of its own, so that the peak of memory is its own. CPU seconds count
all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


class Clock:
    """Wall and CPU seconds of named steps."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        started, used = time.perf_counter(), time.process_time()
        value = work()
        wall, cpu = time.perf_counter() - started, time.process_time() - used
        self.steps[name] = {"wall": round(wall, 2), "cpu": round(cpu, 2)}
        return value


def peak() -> int:
    """MB of this process, at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def of_codes(rows: int) -> dict[str, Any]:
    """Look-up of all pairs within 4 bits; planted duplicates counted."""
    from benchmarks.dedup import RADIUS, planted_codes
    from gan_core.dedup.hashing.hamming_search import pairs_within

    codes, duplicates, originals = planted_codes(rows)
    clock, before = Clock(), peak()
    pairs = clock("pairs within 4 bits", lambda: pairs_within(codes, RADIUS))
    found = pairs.i * rows + pairs.j  # originals come before their duplicates
    missed = int((~np.isin(originals * rows + duplicates, found)).sum())
    return {
        "rows": rows,
        "pairs": len(pairs.i),
        "planted, missed": missed,
        "seconds": clock.steps,
        "MB": [before, peak()],
    }


def images(data: Path, rows: int) -> npt.NDArray[np.uint8]:
    """CIFAR-10's 60,000, then Tiny ImageNet's: uint8 [rows, 32, 32, 3]."""
    from benchmarks.dedup_quality import cifar

    out = np.empty((rows, 32, 32, 3), np.uint8)
    first = cifar(data / "cifar10")[:rows]
    out[: len(first)] = first
    at = len(first)
    for path in sorted((data / "tiny-imagenet-32").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(4096, columns=["image"]):
            for one in batch.column(0).field("bytes").to_pylist()[: rows - at]:
                out[at] = cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
                at += 1
    _pieces(out, at)
    return out


def _pieces(out: npt.NDArray[np.uint8], whole: int) -> None:
    """Fills the rows after `whole` with the corners (20 pixels of 32), then the middles, of the
    images before, enlarged.
    """
    corners = [(0, 0), (0, 12), (12, 0), (12, 12), (6, 6)]
    if len(out) > whole * (1 + len(corners)):
        raise SystemExit(f"{whole:,} images and their pieces make no {len(out):,}")
    for at in range(whole, len(out)):
        top, left = corners[at // whole - 1]
        cv2.resize(
            out[at % whole, top : top + 20, left : left + 20],
            (32, 32),
            dst=out[at],
            interpolation=cv2.INTER_CUBIC,
        )


def of_search(data: Path, rows: int) -> dict[str, Any]:
    """The whole search with mirror images, and how many of 2,000 planted duplicates (JPEG 50, then
    darker) it finds.
    """
    from gan_core.config import DedupConfig
    from gan_core.dedup.search.find_duplicates import find_duplicates
    from gan_core.randomness import numpy_stream

    pixels, random = images(data, rows), numpy_stream(3, "dedup", "planted")
    chosen = random.choice(rows, 4_000, replace=False)
    originals, duplicates = chosen[:2_000], chosen[2_000:]
    for original, duplicate in zip(originals.tolist(), duplicates.tolist(), strict=True):
        _, coded = cv2.imencode(".jpg", pixels[original], [cv2.IMWRITE_JPEG_QUALITY, 50])
        pixels[duplicate] = (cv2.imdecode(coded, cv2.IMREAD_COLOR) * 0.85).astype(np.uint8)
    clock, before = Clock(), peak()
    result = clock(
        "search",
        lambda: find_duplicates(lambda at: pixels[at], random.permutation(rows), DedupConfig()),
    )
    pairs = set(zip(result.found.i.tolist(), result.found.j.tolist(), strict=True))
    found = sum(
        (min(pair), max(pair)) in pairs
        for pair in zip(originals.tolist(), duplicates.tolist(), strict=True)
    )
    together = int(
        (result.groups.representative[originals] == result.groups.representative[duplicates]).sum()
    )
    return {
        "rows": rows,
        "pairs": len(pairs),
        "candidates": result.found.summary["candidates"],
        "planted": {"of": len(duplicates), "pair found": found, "one group": together},
        "seconds": clock.steps,
        "MB": [before, peak()],
    }


def of_images(data: Path, rows: int) -> dict[str, Any]:
    """The steps of mode verified, one after the other, and the whole search."""
    from gan_core.config import DedupConfig, HashConfig
    from gan_core.dedup.hashing import autoencoder
    from gan_core.dedup.search import find_duplicates as verified
    from gan_core.dedup.search import neighbours
    from gan_core.dedup.search.descriptors import describe
    from gan_core.dedup.search.verify_pairs import verify

    config, pixels = DedupConfig(), images(data, rows)

    def fetch(chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return pixels[chosen]

    clock = Clock()
    encoder = autoencoder.fit(pixels[:2048], HashConfig(epochs=1, min_steps=1), 0)
    clock("encode", lambda: encoder.encode(pixels))
    before = peak()
    described = clock("describe", lambda: describe(fetch, rows))
    near = clock(
        "neighbours",
        lambda: neighbours.nearest(
            described.edges,
            config.neighbours,
            floor=verified.SIMILARITY_FLOOR,
            mirror=config.mirror,
        ),
    )
    seen = clock("verify", lambda: verify(fetch, described, near))
    return {
        "rows": rows,
        "candidates, by round": seen.passed,
        "seconds": clock.steps,
        "MB": [before, peak()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, nargs="*", default=[])
    parser.add_argument("--search", type=int, nargs="*", default=[])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DISCERN_DATA", ".")))
    parser.add_argument("--here", action="store_true", help="in this process: the first size alone")
    given = parser.parse_args()
    kinds: list[tuple[str, list[int], Callable[[int], dict[str, Any]]]] = [
        ("--codes", given.codes, of_codes),
        ("--images", given.images, lambda size: of_images(given.data, size)),
        ("--search", given.search, lambda size: of_search(given.data, size)),
    ]
    for kind, sizes, work in kinds:
        for size in sizes:
            if given.here:
                print(json.dumps(work(size)))
                continue
            command = [
                sys.executable,
                __file__,
                "--here",
                "--data",
                str(given.data),
                kind,
                str(size),
            ]
            print(
                subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True
                ).stdout.strip(),
                flush=True,
            )


if __name__ == "__main__":
    main()
