"""`discern dedup FOLDER`: near-duplicates in any folder or Parquet set, without a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands import console, progress
from gan_core import registry
from gan_core.config import DedupConfig
from gan_core.errors import RequestError, UnknownName
from gan_core.files import atomic_write_bytes, write_table
from gan_core.progress import Throttled

if TYPE_CHECKING:
    from gan_core.dedup.folder.run import FolderResult


KEEP = ("best", "largest", "oldest", "first")


@dataclass(frozen=True)
class DedupRequest:
    """What the command was asked; the fields are its options."""

    place: Path
    out: Path
    against: Path | None = None
    threshold: float | None = None
    mirror: bool = True
    keep: str = "best"
    prefer: tuple[str, ...] = ()
    dataset: str | None = None
    workers: int = 0
    max_megapixels: float = 100.0
    force: bool = False
    as_json: bool = False


def dedup_folder(request: DedupRequest) -> int:
    """Writes the table of images and, beside it, a page to look at; returns the exit code.

    Raises:
        RequestError: nothing there, or a table that cannot be written or would replace another's
            file.
        DataError: no image that can be read.
    """
    from gan_core.dedup.folder.output import check_destination, marked

    places = [request.place, *([request.against] if request.against else [])]
    for path in places:
        if not path.exists():
            raise RequestError(
                f"There is nothing at {path}.",
                expected="a folder of images, or Parquet files with images",
            )
    if request.dataset is not None and not getattr(
        registry.load("datasets", request.dataset), "NEEDS_LOCATION", True
    ):
        raise RequestError(
            f"--dataset {request.dataset} comes with a package, and does not lie at "
            f"{request.place}.",
            expected="a kind of files: folder, parquet, tar, lmdb",
            remedy="leave --dataset out: it looks",
        )
    if request.keep not in KEEP:
        raise UnknownName("rule of --keep", request.keep, KEEP)
    sheet = check_destination(request.out, places, force=request.force)
    console.log_to_stderr(verbose=False)
    from gan_core.dedup.folder.html import page
    from gan_core.dedup.folder.run import dedup_images

    config = DedupConfig(mirror=request.mirror)
    if request.threshold is not None:
        config = DedupConfig.model_validate(
            {"threshold": request.threshold, "mirror": request.mirror}
        )
    with progress.shown() as display:
        found = dedup_images(
            request.place,
            config,
            against=request.against,
            dataset=request.dataset,
            workers=request.workers,
            max_megapixels=request.max_megapixels,
            keep=request.keep,
            prefer=request.prefer,
            progress=Throttled(progress.progress_of(display, "dedup"), 0.25),
        )
    write_table(marked(found.table), request.out)
    atomic_write_bytes(sheet, page(found, _title(request.place, request.against)).encode())
    if request.as_json:
        figures = {"counts": found.counts, "ignored": found.ignored, "warnings": found.warnings}
        console.print_json(
            {"out": str(request.out), "page": str(sheet), **figures, **found.summary}
        )
    else:
        _print(request, found, sheet)
    return 0


def _print(request: DedupRequest, found: FolderResult, sheet: Path) -> None:
    for warning in found.warnings:
        console.say(warning, "yellow")
    counts = found.counts
    if request.against:
        already = f"{counts['duplicates']:,} already stand in {request.against}"
        print(f"{counts['in']:,} images: {already}, {counts['kept']:,} do not.")
    else:
        print(
            f"{counts['in']:,} images: {counts['duplicates']:,} are duplicates of another one, "
            f"{counts['kept']:,} are kept."
        )
    for place, ignored in found.ignored.items():
        print(
            f"ignored   in {place}: "
            + ", ".join(f"{count:,} {what}" for what, count in sorted(ignored.items()))
        )
    print(
        f"table     {request.out}      (keep = false: a duplicate; representative_address names "
        "what it "
        f"duplicates)\nlook      {sheet}"
    )
    print("Nothing was deleted or moved.")


def _title(place: Path, against: Path | None) -> str:
    name = place.resolve().name
    return (
        f"Which images of {name} already stand in {against.resolve().name}"
        if against
        else f"Near-duplicates in {name}"
    )
