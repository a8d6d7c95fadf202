"""Families of altered photographs through `discern dedup`: is each one group, and is the unaltered
photograph its representative?

    python benchmarks/dedup_families.py --data "$DISCERN_DATA" --out /tmp/families

Trial 1: 8 of the 110 room photographs with 9 altered versions each; trial 2: the same photographs
with 6 others; pairs: each photograph with one altered version alone. Altered versions are JPEG
files of quality 95 unless they say otherwise, so most have more bytes than their source.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Image = npt.NDArray[np.uint8]
FAMILIES = 8


def _turned(degrees: float) -> Callable[[Image], Image]:
    def alter(image: Image) -> Image:
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
        return np.asarray(cv2.warpAffine(image, matrix, (width, height)), np.uint8)

    return alter


def _cropped(share: float) -> Callable[[Image], Image]:
    def alter(image: Image) -> Image:
        height, width = image.shape[:2]
        y, x = round(height * share / 2), round(width * share / 2)
        return image[y : height - y, x : width - x]

    return alter


def _scaled(factor: float) -> Callable[[Image], Image]:
    return lambda image: np.asarray(
        cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8
    )


def _grey(image: Image) -> Image:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)


def _padded(image: Image) -> Image:
    edge = round(0.06 * max(image.shape[:2]))
    return np.asarray(
        cv2.copyMakeBorder(image, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(0, 0, 0)),
        np.uint8,
    )


def _brighter(image: Image) -> Image:
    return np.clip(image.astype(np.int16) + 25, 0, 255).astype(np.uint8)


def _same(image: Image) -> Image:
    return image


def _mirrored(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


# name: alteration, ending, JPEG quality
Kinds = dict[str, tuple[Callable[[Image], Image], str, int]]
TRIAL_1: Kinds = {
    "mirrored": (_mirrored, ".jpg", 95),
    "turned by 3 degrees": (_turned(3), ".jpg", 95),
    "turned by -5 degrees": (_turned(-5), ".jpg", 95),
    "cropped by 10 %": (_cropped(0.1), ".jpg", 95),
    "JPEG 30": (_same, ".jpg", 30),
    "half size": (_scaled(0.5), ".jpg", 95),
    "grey": (_grey, ".jpg", 95),
    "padded": (_padded, ".jpg", 95),
    "brighter": (_brighter, ".png", 0),
}
TRIAL_2: Kinds = {
    "JPEG 50": (_same, ".jpg", 50),
    "mirrored": (_mirrored, ".jpg", 95),
    "half size": (_scaled(0.5), ".jpg", 95),
    "grey": (_grey, ".jpg", 95),
    "cropped by 5 %": (_cropped(0.05), ".jpg", 95),
    "turned by 2 degrees": (_turned(2), ".jpg", 95),
}


def write_trial(rooms: list[Path], folder: Path, kinds: Kinds) -> None:
    """The rooms as they are, and the altered versions of 8 of them as NUMBER__KIND."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, path in enumerate(rooms):
        shutil.copy2(path, folder / f"{number:03d}__source{path.suffix}")
    for number in range(0, len(rooms), len(rooms) // FAMILIES)[:FAMILIES]:
        image = np.asarray(cv2.imread(str(rooms[number]), cv2.IMREAD_COLOR), np.uint8)
        for name, (alter, ending, quality) in kinds.items():
            cv2.imwrite(
                str(folder / f"{number:03d}__{name.replace(' ', '-')}{ending}"),
                alter(image),
                [cv2.IMWRITE_JPEG_QUALITY, quality] if ending == ".jpg" else [],
            )


def score(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Families that are one group, families whose source is the representative, false members."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["address"].split("__")[0], []).append(row)
    large = {name: members for name, members in families.items() if len(members) > 1}
    sources = {
        name: [row["representative_address"] for row in members if row["keep"]]
        for name, members in large.items()
    }
    wrong: dict[str, int] = {}
    for kept in sources.values():
        kind = sorted(kept, key=lambda address: "__source" not in address)[0].split("__")[1]
        if not kind.startswith("source"):
            wrong[Path(kind).stem] = wrong.get(Path(kind).stem, 0) + 1
    return {
        "families": len(large),
        "groups": sum(len(kept) for kept in sources.values()),
        "families in one group": sum(len(kept) == 1 for kept in sources.values()),
        "represented by their source": sum(
            len(kept) == 1 and "__source" in kept[0] for kept in sources.values()
        ),
        "source not kept, but": wrong,
        "tied to another family": sum(
            row["representative_address"].split("__")[0] != row["address"].split("__")[0]
            for row in rows
        ),
    }


def run(folder: Path) -> dict[str, Any]:
    """`discern dedup` of a folder, scored."""
    out = folder.with_suffix(".parquet")
    command = [sys.executable, "-m", "flows.cli", "dedup", str(folder), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return score(pq.read_table(out).to_pylist())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds rooms/")
    parser.add_argument("--out", type=Path, required=True, help="where the trials are written")
    given = parser.parse_args()
    rooms = sorted((given.data / "rooms").rglob("*.jpg"))
    trials = {"trial-1": TRIAL_1, "trial-2": TRIAL_2}
    for name, kind in {**TRIAL_1, **TRIAL_2}.items():
        trials[f"pair-{name.replace(' ', '-')}"] = {name: kind}
    result = {}
    for name, kinds in trials.items():
        write_trial(rooms, given.out / name, kinds)
        result[name] = run(given.out / name)
        print(name, json.dumps(result[name]), flush=True)


if __name__ == "__main__":
    main()
