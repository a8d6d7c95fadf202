"""Overlays through `discern dedup`: which photographs with text across them are found, and what
`--overlays` ties together besides.

    python benchmarks/dedup_overlays.py --data "$DISCERN_DATA" --out /tmp/overlays
    python benchmarks/dedup_overlays.py --data "$DISCERN_DATA" --out /tmp/overlays --held-out

Trials: photographs of 150 to 400 px, each altered copy with its source, saved as JPEG of quality
85 to 95. line: a line of text three quarters of the width long. lines: text in three quarters of
the width and of the height. Sets without a copy: all rooms, street frames of a moving car (some of
them near-identical) and face photographs; what `--overlays` adds there is wrong unless it is seen
to be a copy.

The bounds were chosen on copies of the first 71 photographs of each set. --held-out alters others,
with another seed, in photographs that those trials had only as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Image = npt.NDArray[np.uint8]

COPIES = 71
SHARE = 0.75  # of the width that a line of text takes, of both sides that lines of text take
WORDS = ["the", "quick", "brown", "fox", "sells", "used", "lamps", "and", "every", "chair", "today"]


def photographs(data: Path) -> dict[str, list[Image]]:
    """The rooms, faces and street frames as BGR images."""
    rooms = [cv2.imread(str(path)) for path in sorted((data / "rooms").rglob("*.jpg"))]
    out = {"rooms": rooms}
    for name, file in (("faces", "faces/photos.parquet"), ("streets", "streets/*.parquet")):
        path = next(data.glob(file))
        files = [
            one["bytes"] for one in pq.read_table(path, columns=["image"])["image"].to_pylist()
        ]
        out[name] = [cv2.imdecode(np.frombuffer(one, np.uint8), 1) for one in files]
    return out  # type: ignore[return-value]


def resized(image: Image, side: int) -> Image:
    """The image with a long side of `side` pixels."""
    factor = side / max(image.shape[:2])
    return np.asarray(
        cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8
    )


def with_line(image: Image, random: np.random.Generator) -> Image:
    """A line of text, `SHARE` of the width long, somewhere in the middle half of the height."""
    height, width = image.shape[:2]
    text = " ".join(random.choice(WORDS, random.integers(1, 4)))
    return _write(image, text, SHARE * width, height * random.uniform(0.3, 0.75), random)


def with_lines(image: Image, random: np.random.Generator) -> Image:
    """Lines of text that fill `SHARE` of the width and of the height."""
    height, width = image.shape[:2]
    count = int(random.integers(3, 7))
    colour_of = np.random.default_rng(random.integers(2**31))
    out, state = image, colour_of.bit_generator.state
    for y in np.linspace((1 - SHARE) / 2 + SHARE / count, (1 + SHARE) / 2, count):
        colour_of.bit_generator.state = state
        text = " ".join(random.choice(WORDS, random.integers(2, 5)))
        out = _write(out, text, SHARE * width, height * y, colour_of)
    return out


def _write(image: Image, text: str, length: float, y: float, random: np.random.Generator) -> Image:
    out = image.copy()
    fonts = [cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX]
    font = fonts[random.integers(3)]
    unit = cv2.getTextSize(text, font, 1, 1)[0][0]
    scale = length / unit
    thickness = max(1, round(scale * random.uniform(1.5, 4)))
    place = (round((image.shape[1] - length) / 2), round(y))
    fills = [(255, 255, 255), (0, 0, 0), (0, 255, 255), (0, 0, 255)]
    fill = fills[random.integers(len(fills))]
    outlined = bool(random.integers(2))
    if outlined:
        edge = (0, 0, 0) if sum(fill) else (255, 255, 255)
        cv2.putText(out, text, place, font, scale, edge, thickness + 2, cv2.LINE_AA)
    cv2.putText(out, text, place, font, scale, fill, thickness, cv2.LINE_AA)
    return out


def write_trial(photos: list[Image], folder: Path, alter: Any, held_out: bool) -> None:
    """The photographs as NUMBER.jpg, text copies of at most `COPIES` as NUMBER__text.jpg: of the
    first, or of a draw from the others.
    """
    _renew(folder)
    random = np.random.default_rng(17 if held_out else 16)
    others = random.permutation(np.arange(COPIES, len(photos))) if held_out else range(COPIES)
    altered = set(others[:COPIES])
    for number, photo in enumerate(photos):
        image = resized(photo, int(random.integers(150, 401)))
        path = folder / f"{number:04d}.jpg"
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        if number in altered:
            copy, quality = alter(cv2.imread(str(path)), random), int(random.integers(85, 96))
            target = str(folder / f"{number:04d}__text.jpg")
            cv2.imwrite(target, copy, [cv2.IMWRITE_JPEG_QUALITY, quality])


def _renew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def run(folder: Path, *options: str) -> list[dict[str, Any]]:
    """The rows of `discern dedup`."""
    out = folder.with_suffix(".parquet")
    command = [sys.executable, "-m", "flows.cli", "dedup", str(folder), "--out", str(out)]
    subprocess.run([*command, *options, "--force"], check=True, capture_output=True)
    return pq.read_table(out).to_pylist()


def score(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Copies found, copies that represent their source, images tied to another photograph."""
    number = {row["address"]: row["address"][:4] for row in rows}
    kept = {row["address"]: row["representative_address"] for row in rows if not row["keep"]}
    ties = [(one, other) for one, other in kept.items() if number[one] == number[other]]
    return {
        "copies": sum("__text" in address for address in number),
        "found": len(ties),
        "represented by the copy": sum("__text" in other for _, other in ties),
        "tied to another photograph": len(kept) - len(ties),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of rooms, faces, streets")
    parser.add_argument("--out", type=Path, required=True, help="where the trials are written")
    parser.add_argument("--held-out", action="store_true", help="alter other photographs")
    parser.add_argument("--only", default="", help="trials whose name begins so")
    given = parser.parse_args()
    sets = photographs(given.data)
    for name, alter in (("line", with_line), ("lines", with_lines)):
        for photos in ("rooms", "faces"):
            trial = f"{name}-{photos}"
            if trial.startswith(given.only):
                write_trial(sets[photos], given.out / trial, alter, given.held_out)
                for options in ((), ("--overlays",)):
                    rows = run(given.out / trial, *options)
                    print(trial, *options, json.dumps(score(rows)), flush=True)
    for name, photos in sets.items():
        if given.held_out or not name.startswith(given.only):
            continue
        folder = given.out / name
        _renew(folder)
        for number, photo in enumerate(photos):
            cv2.imwrite(str(folder / f"{number:04d}.png"), np.asarray(photo))
        before, after = (
            {row["address"]: row["representative_address"] for row in run(folder, *options)}
            for options in ((), ("--overlays",))
        )
        changed = {one: other for one, other in after.items() if before[one] != other}
        dropped = [sum(one != other for one, other in rows.items()) for rows in (before, after)]
        print(name, json.dumps({"images": len(after), "duplicates": dropped, "changed": changed}))


if __name__ == "__main__":
    main()
