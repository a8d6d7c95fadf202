"""`discern validate PATH`: what is in a set of images, and what is odd about it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from flows.commands import console
from flows.commands.options import DatasetOption, JsonOption, WorkersOption
from flows.commands.places import check_sets
from gan_core.datasets._reading import read_ordered
from gan_core.datasets.base import Blob
from gan_core.dedup.folder.open import open_place
from gan_core.dedup.folder.output import check_folder
from gan_core.devices import cpu_cores
from gan_core.errors import RequestError
from gan_core.files import atomic_write_bytes
from gan_core.vision.decode import decode
from gan_core.vision.image_files import UnreadableImage
from gan_core.vision.quality import PROBLEMS, Quality, measure, problems
from gan_core.vision.sheets import encode_jpeg, encode_png, encode_webp
from gan_core.vision.sheets import sheet as draw_sheet

SHOWN = 8  # images of each problem on the sheet, and addresses of it in the summary for a person
SIDE = 112
ENCODERS: dict[str, Callable[[Any], bytes]] = {
    ".png": encode_png,
    ".jpg": encode_jpeg,
    ".webp": encode_webp,
}


@dataclass
class Validation:
    """What was found.

    Attributes:
        images: entries of the set; unreadable: {address: reason}.
        classes: {class: images}; splits: {split: images}; '' for images without one.
        empty_classes: class folders without an image.
        problems: {problem: addresses}; duplicates: groups of addresses with equal pixels.
        across_splits: those groups that lie in more than one split.
        ignored: {kind: files} that are no images of the set.
    """

    images: int
    unreadable: dict[str, str]
    classes: dict[str, int]
    splits: dict[str, int]
    empty_classes: list[str]
    problems: dict[str, list[str]]
    duplicates: list[list[str]]
    across_splits: list[list[str]]
    ignored: dict[str, int]
    examples: list[tuple[str, Any]] = field(default_factory=list, repr=False)


def validate_images(
    place: Path, dataset: str | None = None, workers: int = 0, max_megapixels: float = 100.0
) -> Validation:
    """Reads every image of a place once.

    Raises:
        RequestError, DataError: nothing there, or no images.
    """
    source, stamps = open_place(place, "validate", dataset)
    entries = [entry for stamp in stamps for entry in source.entries(stamp)]
    names = [f"{one.address}#{one.member}" if one.member else one.address for one in entries]

    def work(number: int, blob: Blob) -> Quality | str | None:
        if entries[number].problem:
            return entries[number].problem
        try:
            if not entries[number].certain and not blob.is_image():
                return None
            return measure(decode(blob.read(), max_megapixels))
        except UnreadableImage as error:
            return error.reason

    requests = [(one.address, one.member) for one in entries]
    seen = list(read_ordered(source, requests, work, workers or cpu_cores()))
    real = [number for number, one in enumerate(seen) if one is not None]
    good = [(number, one) for number, one in enumerate(seen) if isinstance(one, Quality)]
    by_problem: dict[str, list[int]] = {name: [] for name in PROBLEMS}
    for (number, _), found in zip(good, problems([one for _, one in good]), strict=True):
        for name in found:
            by_problem[name].append(number)
    equal: dict[str, list[int]] = defaultdict(list)
    for number, one in good:
        equal[one.pixels].append(number)
    duplicates = [group for group in equal.values() if len(group) > 1]
    classes = Counter(entries[number].label_name or _text(entries[number].label) for number in real)
    shown = [(name, number) for name, found in by_problem.items() for number in found[:SHOWN]]
    shown += [("duplicate", number) for group in duplicates[: SHOWN // 2] for number in group[:2]]
    wanted = sorted({number for _, number in shown})
    blobs = source.read_many([requests[number] for number in wanted])
    pixels = {
        number: _fit(decode(blob.read(), max_megapixels))
        for number, blob in zip(wanted, blobs, strict=True)
    }
    return Validation(
        images=len(real),
        unreadable={names[n]: one for n, one in enumerate(seen) if isinstance(one, str)},
        classes=dict(sorted(classes.items())),
        splits=dict(sorted(Counter(entries[number].split for number in real).items())),
        empty_classes=_empty_folders(place, names) if any(classes) else [],
        problems={name: [names[number] for number in found] for name, found in by_problem.items()},
        duplicates=[[names[number] for number in group] for group in duplicates],
        across_splits=[
            [names[number] for number in group]
            for group in duplicates
            if len({entries[number].split for number in group}) > 1
        ],
        ignored=dict(source.ignored),
        examples=[(name, pixels[number]) for name, number in shown],
    )


def validate(
    place: Annotated[
        Path,
        typer.Argument(help="a folder of images, or Parquet files with images", metavar="PATH"),
    ],
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="contact sheet of odd images to write (.png, .jpg, .webp)"),
    ] = None,
    dataset: DatasetOption = None,
    workers: WorkersOption = 0,
    as_json: JsonOption = False,
) -> int:
    """Prints what was found, writes the contact sheet, and returns the exit code.

    Raises:
        RequestError: nothing there, or a sheet that cannot be written.
        DataError: no images.
    """
    if sheet is not None:
        _check_sheet(sheet)
    check_sets({"PATH": place}, dataset)
    found = validate_images(place, dataset, workers)
    if sheet is not None and found.examples:
        images = np.stack([image for _, image in found.examples])
        drawn = draw_sheet(images, columns=SHOWN, captions=[name for name, _ in found.examples])
        atomic_write_bytes(sheet, ENCODERS[sheet.suffix.lower()](drawn))
    if as_json:
        console.print_json(
            {name: value for name, value in vars(found).items() if name != "examples"}
            | {"sheet": str(sheet) if sheet and found.examples else None}
        )
        return 0
    _print(found)
    if sheet is not None:
        print(f"sheet     {sheet}" if found.examples else "no image for a sheet")
    return 0


def _check_sheet(sheet: Path) -> None:
    if sheet.suffix.lower() not in ENCODERS:
        raise RequestError(
            f"--sheet {sheet} has an ending that names no image format it is written in.",
            expected=f"a name that ends in {', '.join(ENCODERS)}",
            remedy=f"--sheet {sheet.with_suffix('.png')}",
        )
    if os.path.lexists(sheet):
        raise RequestError(
            f"--sheet {sheet} exists already, and is not replaced.",
            expected="a name that is free",
            remedy="choose another name, or remove the file",
        )
    check_folder(sheet.parent, "--sheet")


def _print(found: Validation) -> None:
    print(f"{found.images:,} images, {len(found.unreadable):,} of them unreadable")
    for title, counts in (("splits", found.splits), ("classes", found.classes)):
        if any(counts):
            print(f"{title}: " + ", ".join(f"{name or '-'} {n:,}" for name, n in counts.items()))
    if found.empty_classes:
        print(f"folders without an image: {', '.join(found.empty_classes)}")
    listed = {
        "unreadable": [f"{name}: {reason}" for name, reason in found.unreadable.items()],
        **found.problems,
        "exact duplicates": [" = ".join(group) for group in found.duplicates],
        "exact duplicates across splits": [" = ".join(group) for group in found.across_splits],
    }
    for name, items in listed.items():
        if items:
            print(f"{name}: {len(items):,}")
            for item in items[:SHOWN]:
                print(f"  {item}")
            if len(items) > SHOWN:
                print(f"  and {len(items) - SHOWN:,} more (--json lists all)")
    for kind, count in sorted(found.ignored.items()):
        print(f"ignored   {count:,} {kind}")


def _text(label: int | None) -> str:
    return "" if label is None else str(label)


def _empty_folders(place: Path, names: list[str]) -> list[str]:
    """Folders below a place in which, and below which, there is no image."""
    if not place.is_dir():
        return []
    used = {parent for name in names for parent in Path(name).parents}
    below = (path.relative_to(place) for path in place.rglob("*") if path.is_dir())
    return sorted(
        str(path)
        for path in below
        if path not in used and not any(part.startswith(".") for part in path.parts)
    )


def _fit(image: Any) -> Any:
    """The image in the middle of a grey square of SIDE pixels."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    out = np.full((SIDE, SIDE, 3), 128, np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return out
