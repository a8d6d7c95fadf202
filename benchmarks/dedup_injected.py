"""Injected copies through the command `discern dedup`: recall of each alteration, and precision.

    python benchmarks/dedup_injected.py --data "$DISCERN_DATA" --out /tmp/injected

The kinds are those of the stage's own measure (`dedup.measure`), made at the photographs' full
size, and two that change the size. Each kind alters photographs of its own draw; copies are JPEG
files of quality 95. A copy is found where its representative is its source or another copy of that.
Precision is the share of ties whose two images are of one source. The photographs alone are
searched as well: ties that are found there are the set's own duplicates, and are listed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_core.dedup.measure.injected_duplicates import ALTERATIONS
from gan_core.randomness import numpy_stream

Image = npt.NDArray[np.uint8]


def _scaled(factor: float) -> Any:
    return lambda image: cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


KINDS = {**ALTERATIONS, "half size": _scaled(0.5), "size x 1.5": _scaled(1.5)}


def write_photographs(data: Path, folder: Path, faces: int) -> list[Path]:
    """The rooms and `faces` face photographs as published, as NUMBER__source.ENDING; the faces are
    drawn from those behind the first 400, of which other benchmarks chose bounds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    contents = [path.read_bytes() for path in sorted((data / "rooms").rglob("*.jpg"))]
    rows = pq.read_table(data / "faces/photos.parquet", columns=["image"])["image"].to_pylist()
    order = numpy_stream(0, "injection", "faces").permutation(np.arange(400, len(rows)))[:faces]
    contents += [rows[row]["bytes"] for row in np.sort(order)]
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number:04d}__source.jpg")
        paths[-1].write_bytes(content)
    return paths


def write_copies(photos: list[Path], folder: Path, each: int) -> None:
    """`each` copies of every kind, as NUMBER__KIND.jpg."""
    for name, alter in KINDS.items():
        draw = numpy_stream(0, "injection", name).choice(len(photos), each, replace=False)
        for number in np.sort(draw):
            image = cv2.imread(str(photos[number]), cv2.IMREAD_COLOR)
            assert image is not None
            copy = np.asarray(alter(np.ascontiguousarray(image[..., ::-1])))[..., ::-1]
            target = folder / f"{number:04d}__{name.replace(' ', '_').replace('/', '-')}.jpg"
            cv2.imwrite(str(target), copy, [cv2.IMWRITE_JPEG_QUALITY, 95])


def run(folder: Path) -> dict[str, str]:
    """`discern dedup` of a folder: address to the address of its representative."""
    out = folder.with_suffix(".parquet")
    command = [sys.executable, "-m", "flows.cli", "dedup", str(folder), "--out", str(out)]
    subprocess.run([*command, "--force"], check=True, capture_output=True)
    return {row["address"]: row["representative_address"] for row in pq.read_table(out).to_pylist()}


def score(kept: dict[str, str], own: set[tuple[str, str]]) -> dict[str, Any]:
    """Recall by kind, how many of the copies found represent their group, precision. Args: own:
    pairs of numbers that are duplicates in the set.
    """
    number = {address: address.split("__")[0] for address in kept}
    kind = {address: Path(address.split("__")[1]).stem for address in kept}
    recall, first = {}, {}
    for name in sorted(set(kind.values()) - {"source"}):
        copies = [address for address in kept if kind[address] == name]
        found = [a for a in copies if kept[a] == kept[f"{number[a]}__source.jpg"]]
        recall[name] = [len(found), len(copies)]
        first[name] = sum(kept[address] == address for address in found)
    ties = [(a, b) for a, b in kept.items() if a != b]
    wrong = [
        (a, b)
        for a, b in ties
        if number[a] != number[b] and tuple(sorted((number[a], number[b]))) not in own
    ]
    groups = {b for _, b in ties}
    return {
        "images": len(kept),
        "found": recall,
        "found in all": np.sum(list(recall.values()), 0).tolist(),
        "ties of different photographs": wrong,
        "precision": round(1 - len(wrong) / len(ties), 4),
        "groups": len(groups),
        "represented by a source": sum(kind[one] == "source" for one in groups),
        "represented by a copy": first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds rooms, faces")
    parser.add_argument("--out", type=Path, required=True, help="where the photographs are written")
    parser.add_argument("--faces", type=int, default=290, help="face photographs")
    parser.add_argument("--each", type=int, default=20, help="copies of each kind")
    given = parser.parse_args()
    folder = given.out / "photographs"
    photos = write_photographs(given.data, folder, given.faces)
    own = {
        (min(pair), max(pair))
        for a, b in run(folder).items()
        if (pair := (a.split("__")[0], b.split("__")[0])) and a != b
    }
    print("the photographs alone:", len(photos), "images, duplicates:", sorted(own), flush=True)
    write_copies(photos, folder, given.each)
    started = time.perf_counter()
    found = score(run(folder), own)
    print(json.dumps({**found, "seconds": round(time.perf_counter() - started)}, indent=1))


if __name__ == "__main__":
    main()
