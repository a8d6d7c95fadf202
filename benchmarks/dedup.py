"""What dedup costs: all pairs of codes within a radius among a million, with a check that none is
missed; the whole search by size.

    python benchmarks/dedup.py --codes 1000000
    python benchmarks/dedup.py --codes 1000000 --faiss
    python benchmarks/dedup.py --images "$DISCERN_DATA"

The first searches random codes with planted near duplicates at radius 4; the second does the same
with FAISS' IndexBinaryMultiHash as well; the third fits, encodes and finds duplicates on CIFAR-10
and gives seconds for each step.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_core.dedup.hashing import hamming_search as lookup
from gan_core.dedup.hashing.codes import equal_codes

RADIUS = 4


def planted_codes(
    rows: int, seed: int = 0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """128-bit codes of which the last tenth are duplicates with 0 to 4 flipped bits; codes,
    duplicates, their originals.
    """
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (rows, 16), dtype=np.uint8)
    duplicates = np.arange(rows - rows // 10, rows)
    originals = rng.integers(0, rows - rows // 10, len(duplicates))
    bits = np.unpackbits(codes[originals], axis=1)
    flips = rng.integers(0, RADIUS + 1, len(duplicates))
    order = rng.random((len(duplicates), 128)).argsort(axis=1)[:, :RADIUS]
    for number in range(RADIUS):
        chosen = flips > number
        bits[np.flatnonzero(chosen), order[chosen, number]] ^= 1
    codes[duplicates] = np.packbits(bits, axis=1)
    return codes, duplicates, originals


def missed(
    codes: npt.NDArray[np.uint8], pairs: lookup.Pairs, sample: int = 200, seed: int = 1
) -> int:
    """Pairs of some rows with all others that brute force finds and `pairs` lacks."""
    found = set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))
    rng = np.random.default_rng(seed)
    lacking = 0
    words = codes.view(np.uint64)
    # Half of the sample among the planted duplicates, so that there is something to miss.
    rows = np.concatenate(
        [
            rng.integers(0, len(codes), sample // 2),
            len(codes) - 1 - rng.integers(0, len(codes) // 10, sample // 2),
        ]
    )
    for row in rows.tolist():
        near = np.flatnonzero(np.bitwise_count(words ^ words[row]).sum(axis=1) <= RADIUS)
        lacking += sum(
            (min(row, other), max(row, other)) not in found
            for other in near.tolist()
            if other != row
        )
    return lacking


def measure_codes(rows: int, faiss: bool) -> dict[str, Any]:
    """Seconds, pairs and completeness for one size."""
    codes, duplicates, originals = planted_codes(rows)
    result: dict[str, Any] = {"rows": rows, "radius": RADIUS}
    for method in ("sorted", "faiss") if faiss else ("sorted",):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        pairs = lookup.pairs_within(codes, RADIUS, method=method)
        seconds = time.perf_counter() - started
        listed = set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))
        planted_missed = sum(
            pair not in listed for pair in zip(originals.tolist(), duplicates.tolist(), strict=True)
        )
        result[method] = {
            "seconds, build and all pairs": round(seconds, 2),
            "pairs": len(pairs.i),
            "planted pairs missed": planted_missed,
            "missed against brute force on 200 rows": missed(codes, pairs),
            "more memory at the peak, MB": (
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            )
            // 1024,
        }
    started = time.perf_counter()
    classes, _ = equal_codes(codes)
    result["equal codes, seconds"] = round(time.perf_counter() - started, 3)
    result["distinct codes"] = int(classes.max()) + 1
    return result


def measure_images(data: Path) -> dict[str, Any]:
    """Seconds for each step of dedup on the 60,000 images of CIFAR-10."""
    from benchmarks.dedup_quality import cifar
    from gan_core.config import DedupConfig, HashConfig
    from gan_core.dedup.hashing import autoencoder
    from gan_core.dedup.hashing import group_by_code as by_code
    from gan_core.dedup.search import descriptors
    from gan_core.dedup.search.find_duplicates import find_duplicates

    seconds = {}

    def timed(name: str, work: Any) -> Any:
        started = time.perf_counter()
        value = work()
        seconds[name] = round(time.perf_counter() - started, 2)
        return value

    pixels = timed("decode", lambda: cifar(data / "cifar10"))
    rank = np.arange(len(pixels))
    encoder = timed(
        "fit the autoencoder", lambda: autoencoder.fit(pixels[:50_000], HashConfig(), 0)
    )
    codes = timed("encode", lambda: encoder.encode(pixels))
    timed("mode paper", lambda: by_code.group_by_code(codes, rank, 0))
    timed("mode radius, 4 bits", lambda: by_code.group_by_code(codes, rank, 4))
    timed(
        "describe (part of mode verified)",
        lambda: descriptors.describe(lambda rows: pixels[rows], len(pixels)),
    )
    timed(
        "mode verified",
        lambda: find_duplicates(lambda rows: pixels[rows], rank, DedupConfig(), codes),
    )
    timed(
        "mode verified without mirror images",
        lambda: find_duplicates(lambda rows: pixels[rows], rank, DedupConfig(mirror=False), codes),
    )
    return {
        "rows": len(pixels),
        "seconds": seconds,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", type=int, help="how many random codes")
    parser.add_argument("--faiss", action="store_true", help="FAISS' multi-index hash as well")
    parser.add_argument("--images", type=Path, help="folder that holds cifar10/")
    given = parser.parse_args()
    if given.codes:
        print(json.dumps(measure_codes(given.codes, given.faiss), indent=1))
    if given.images:
        print(json.dumps(measure_images(given.images), indent=1))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
