"""Whole processes in turn: this project's 128-bit hash against imagededup's PHash, on the same PNG
files of CIFAR-10.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install imagededup
    python benchmarks/dedup_race.py --data "$DISCERN_DATA" --peer /tmp/peer/bin/python \\
        --images /tmp/cifar-png --rounds 3

Encoding, all 60,000 files: imagededup; ours with the autoencoder fitted in the same process; ours
with a stored encoder.
Encoding and finding, the first 15,000 files: imagededup at its default distance (10 of 64 bits);
ours by code, at radius 4 of 128 bits, with a stored encoder; and `discern dedup`, which verifies
every pair on pixels. Every process starts with its imports and reads the files (which lie in the
page cache after the first round); seconds by the clock and of processor, medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SMALL = 15_000

PEER_ENCODE = (
    "from imagededup.methods import PHash; codes = "
    "PHash().encode_images(image_dir={folder!r}); print(len(codes))"
)
PEER_FIND = (
    "from imagededup.methods import PHash; p = PHash(); codes = "
    "p.encode_images(image_dir={folder!r}); "
    "found = p.find_duplicates(encoding_map=codes); print(sum(map(len, found.values())) // 2)"
)


def write_images(data: Path, folder: Path) -> None:
    """60,000 PNG files in all/, links to the first 15,000 in small/; nothing is done where they are
    there.
    """
    import cv2

    from benchmarks.dedup_quality import cifar

    if (folder / "done").exists():
        return
    (folder / "all").mkdir(parents=True, exist_ok=True)
    (folder / "small").mkdir(exist_ok=True)
    for number, image in enumerate(cifar(data / "cifar10")):
        name = f"{number:05d}.png"
        cv2.imwrite(str(folder / "all" / name), image[..., ::-1])
        if number < SMALL:
            os.link(folder / "all" / name, folder / "small" / name)
    (folder / "done").touch()


def encode(folder: Path, encoder: Path, fit: bool, radius: int | None) -> int:
    """One of our processes: read, fit or load, encode, look up; returns how many codes or pairs."""
    import tempfile

    from gan_core.config import HashConfig
    from gan_core.dedup.folder import read as reading
    from gan_core.dedup.hashing.autoencoder import Autoencoder
    from gan_core.dedup.hashing.autoencoder import fit as fit_autoencoder

    with tempfile.TemporaryDirectory() as scratch:
        images = reading.read_images(folder, "folder", os.cpu_count() or 1, 100.0, Path(scratch))
    if fit:
        fitted = fit_autoencoder(images.thumbnails, HashConfig(), 0)
        fitted.save(encoder)
    else:
        fitted = Autoencoder.load(encoder)
    codes = fitted.encode(images.thumbnails)
    if radius is None:
        return len(codes)
    from gan_core.dedup.hashing.hamming_search import pairs_within

    return len(pairs_within(codes, radius).i)


def timed(command: list[str], env: dict[str, str]) -> tuple[float, float, str]:
    """(seconds by the clock, of processor with all children, last line printed) of one whole
    process.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{command[:3]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stdout.strip().splitlines()
    return (
        wall,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        lines[-1] if lines else "",
    )


def race(data: Path, peer: str, folder: Path, rounds: int) -> dict[str, object]:
    """Medians of whole processes, run in turn."""
    write_images(data, folder)
    whole, small, encoder = folder / "all", folder / "small", folder / "encoder.safetensors"
    ours = [sys.executable, __file__]
    racers = {
        "encode 60,000: imagededup PHash": [peer, "-c", PEER_ENCODE.format(folder=str(whole))],
        "encode 60,000: ours, autoencoder "
        "fitted": [*ours, "--encode", str(whole), "--encoder", str(encoder), "--fit"],
        "encode 60,000: ours, stored "
        "encoder": [*ours, "--encode", str(whole), "--encoder", str(encoder)],
        "encode and find 15,000: imagededup "
        "PHash": [peer, "-c", PEER_FIND.format(folder=str(small))],
        "encode and find 15,000: ours by "
        "code": [*ours, "--encode", str(small), "--encoder", str(encoder), "--radius", "4"],
        "encode and find 15,000: discern dedup (verified)": [
            str(Path(sys.executable).with_name("discern")), "dedup", str(small),
            "--out", str(folder / "found.parquet"),
        ],
    }  # fmt: skip
    env = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in racers}
    printed = {}
    for number in range(rounds):
        for name, command in racers.items():
            wall, processor, printed[name] = timed(command, env)
            seconds[name].append((wall, processor))
            print(
                f"round {number + 1}: {name}: {wall:.2f} s, processor {processor:.2f} s "
                f"({printed[name]})",
                file=sys.stderr,
            )
    medians = {
        name: [statistics.median(one[k] for one in runs) for k in (0, 1)]
        for name, runs in seconds.items()
    }
    table = {}
    for name, (wall, processor) in medians.items():
        against = medians[f"{name.split(':')[0]}: imagededup PHash"]
        table[name] = {
            "seconds": round(wall, 2),
            "processor seconds": round(processor, 2),
            "ratio by the clock": round(wall / against[0], 3),
            "ratio of processor": round(processor / against[1], 3),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder that holds cifar10/")
    parser.add_argument("--peer", help="python of the environment that has imagededup")
    parser.add_argument("--images", type=Path, help="where the PNG files are, or are to be written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encode", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--encoder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fit", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--radius", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.encode:
        print(encode(given.encode, given.encoder, given.fit, given.radius))
        return
    if not (given.data and given.peer and given.images):
        parser.error("give --data, --peer and --images")
    print(json.dumps(race(given.data, given.peer, given.images, given.rounds), indent=1))


if __name__ == "__main__":
    main()
