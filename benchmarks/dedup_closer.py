"""What the closer look of `discern dedup FOLDER` accepts and denies, of pairs that are accepted at
32x32.

    python benchmarks/dedup_closer.py --data "$DISCERN_DATA"

Duplicates: photographs, drawn documents and flags, altered. Different: documents of one template,
flags of one layout. The settings of `gan_core/dedup/search/compare_full_resolution.py` were chosen
on these pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_core.dedup.measure.injected_duplicates import ALTERATIONS
from gan_core.dedup.search import compare_full_resolution as closer
from gan_core.dedup.search.descriptors import describe
from gan_core.dedup.search.neighbours import Candidates
from gan_core.dedup.search.verify_pairs import required, verify
from gan_core.vision.geometry import resize

Image = npt.NDArray[np.uint8]

WORDS = [
    "invoice",
    "total",
    "amount",
    "due",
    "payment",
    "net",
    "tax",
    "item",
    "quantity",
    "unit",
    "price",
    "order",
    "customer",
    "service",
    "license",
    "monthly",
    "hours",
    "travel",
]
COLOURS = {
    "r": (206, 43, 55),
    "g": (0, 146, 70),
    "b": (0, 35, 149),
    "w": (255, 255, 255),
    "y": (255, 205, 0),
    "k": (0, 0, 0),
    "o": (255, 136, 62),
}
OF_DOCUMENTS = (
    "identical",
    "JPEG 50",
    "JPEG 10",
    "crop 90 %",
    "turned 3 degrees",
    "grey",
    "through 1/2 size",
    "gamma 1.5",
)
OF_FLAGS = ("JPEG 50", "grey", "brighter by 30", "gamma 1.5", "crop 90 %")


def invoice(seed: int) -> Image:
    random = np.random.default_rng(seed)
    page = np.full((877, 620, 3), 255, np.uint8)
    cv2.rectangle(page, (40, 40), (200, 100), (180, 60, 30), -1)
    cv2.putText(page, "ACME Corp", (50, 80), 0, 0.8, (255, 255, 255), 2)
    cv2.putText(page, f"INVOICE {random.integers(99999):05d}", (330, 80), 0, 0.9, (0, 0, 0), 2)
    cv2.rectangle(page, (40, 260), (580, 290), (220, 220, 220), -1)
    for line in range(14):
        y = 315 + 28 * line
        cv2.line(page, (40, y + 8), (580, y + 8), (200, 200, 200), 1)
        cv2.putText(
            page,
            " ".join(random.choice(WORDS, random.integers(1, 4))),
            (50, y),
            0,
            0.5,
            (20, 20, 20),
            1,
        )
        for x in (300, 400, 500):
            cv2.putText(page, str(random.integers(1, 9999)), (x, y), 0, 0.5, (20, 20, 20), 1)
    return page


def slide(seed: int) -> Image:
    random = np.random.default_rng(seed)
    page = np.full((540, 960, 3), (250, 248, 245), np.uint8)
    cv2.rectangle(page, (0, 0), (960, 80), (60, 40, 120), -1)
    cv2.putText(
        page, " ".join(random.choice(WORDS, 3)).title(), (30, 55), 0, 1.3, (255, 255, 255), 3
    )
    cv2.circle(page, (900, 490), 30, (40, 160, 230), -1)
    for line in range(random.integers(4, 6)):
        cv2.circle(page, (50, 140 + 70 * line), 7, (60, 40, 120), -1)
        text = " ".join(random.choice(WORDS, random.integers(3, 6)))
        cv2.putText(page, text, (75, 150 + 70 * line), 0, 1, (40, 40, 40), 2)
    return page


def flags(upright: bool) -> list[Image]:
    out = []
    for three in ("gwr", "bwr", "gwo", "kyr", "byr", "rwr", "gyr", "wbr", "rwb", "kry", "rwk"):
        stripes = np.array([[COLOURS[letter] for letter in three]], np.uint8)
        out.append(
            cv2.resize(
                stripes if upright else stripes.transpose(1, 0, 2),
                (300, 200),
                interpolation=cv2.INTER_NEAREST,
            )
        )
    return [np.asarray(one, np.uint8) for one in out]


def photographs(data: Path) -> list[Image]:
    files = sorted(path.read_bytes() for path in (data / "rooms").rglob("*.jpg"))[:60]
    column = pq.read_table(data / "faces" / "photos.parquet")
    name = next(name for name in column.schema.names if name in ("image", "photo", "img"))
    files += [
        row["bytes"] if isinstance(row, dict) else row
        for row in column[name].slice(0, 40).to_pylist()
    ]
    return [
        np.asarray(cv2.imdecode(np.frombuffer(one, np.uint8), 1)[..., ::-1], np.uint8)
        for one in files
    ]


def marked(image: Image) -> Image:
    """With a word written across."""
    out = np.ascontiguousarray(image)
    height, width = out.shape[:2]
    cv2.putText(
        out,
        "SAMPLE",
        (width // 4, height // 2),
        0,
        width / 300,
        (255, 255, 255),
        max(2, width // 150),
    )
    return out


def pairs(data: Path) -> Iterator[tuple[str, bool, Image, Image]]:
    """(kind, mirrored, one, other)."""
    photos = photographs(data)
    for number, photo in enumerate(photos):
        for turn, (name, alter) in enumerate(ALTERATIONS.items()):
            if (number + turn) % 3 == 0 and "noise" not in name:
                yield "duplicates of photographs", "mirror" in name, photo, alter(photo)
    for photo in photos[:40]:
        yield "a word across a photograph", False, photo, marked(photo)
    for make, kind in ((invoice, "invoices"), (slide, "slides")):
        pages = [make(seed) for seed in range(16)]
        for page in pages:
            for name in OF_DOCUMENTS:
                yield f"duplicates of {kind}", False, page, ALTERATIONS[name](page)
        for one, other in combinations(pages[:12], 2):
            yield f"different {kind}", False, one, other
    for upright in (True, False):
        all_flags = flags(upright)
        for flag in all_flags:
            for name in OF_FLAGS:
                yield "duplicates of flags", False, flag, ALTERATIONS[name](flag)
        for one, other in combinations(all_flags, 2):
            yield "different flags", False, one, other


def measure(data: Path) -> dict[str, Any]:
    kinds, mirrored, small, large = [], [], [], []
    for kind, flip, *both in pairs(data):
        kinds.append(kind)
        mirrored.append(flip)
        small += [resize(np.ascontiguousarray(one), 32, 32) for one in both]
        large += [resize(np.ascontiguousarray(one), closer.SIDE, closer.SIDE) for one in both]
    pixels, fine, flips = np.stack(small), np.stack(large), np.array(mirrored)
    first = 2 * np.arange(len(kinds))
    described = describe(lambda rows: pixels[rows], len(pixels))
    candidates = Candidates(first, first + 1, flips, np.ones(len(first), np.float32))
    seen = verify(lambda rows: pixels[rows], described, candidates, gates=(-9.0, -9.0))
    accepted = np.flatnonzero(seen.score >= required(seen.detail, seen.deformation, 0.9))
    good = np.zeros(len(kinds), np.bool_)
    for start in range(0, len(accepted), 64):
        part = accepted[start : start + 64]
        left = fine[2 * part].copy()
        left[flips[part]] = left[flips[part]][:, :, ::-1]
        good[part] = closer.same_details(left, fine[2 * part + 1], seen.maps[part])
    out = {}
    for kind in dict.fromkeys(kinds):
        mine = np.array([one == kind for one in kinds])
        out[kind] = {
            "pairs": int(mine.sum()),
            "accepted at 32 px": int(mine[accepted].sum()),
            "accepted": int(good[mine].sum()),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that holds rooms/ and faces/"
    )
    print(json.dumps(measure(parser.parse_args().data), indent=1))


if __name__ == "__main__":
    main()
