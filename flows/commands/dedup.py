"""`discern dedup FOLDER`: near-duplicates in any folder or Parquet set, without a recipe."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands import console, progress
from gan_core import registry
from gan_core.config import DedupConfig
from gan_core.errors import RequestError, UnknownName
from gan_core.files import atomic_write_bytes
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
    overlays: bool = False
    dataset: str | None = None
    workers: int = 0
    max_megapixels: float = 100.0
    force: bool = False
    list_duplicates: bool = False
    move: Path | None = None
    link: Path | None = None
    export: Path | None = None
    copy: bool = False
    yes: bool = False
    as_json: bool = False


def dedup_folder(request: DedupRequest) -> int:
    """Writes the table of images and next to it a page of groups; returns the exit code.

    Raises:
        RequestError: nothing there, or a table that cannot be written or would replace another's
            file.
        DataError: no image that can be read.
    """
    from gan_core.datasets.base import did_you_mean
    from gan_core.dedup.folder.output import check_destination, write_images
    from gan_core.dedup.folder.run import IMAGES

    places = [request.place, *([request.against] if request.against else [])]
    for path in places:
        if not path.exists():
            raise RequestError(
                f"There is nothing at {path}" + did_you_mean(path),
                expected="a folder of images, or Parquet files with images",
                remedy="correct FOLDER, or --against where it is that one",
            )
    if request.dataset is not None and not getattr(
        registry.load("datasets", request.dataset), "NEEDS_LOCATION", True
    ):
        raise RequestError(
            f"--dataset {request.dataset} comes with a package, and does not lie at "
            f"{request.place}.",
            expected="a kind of files: folder, parquet, tar, lmdb",
            remedy="leave --dataset out: the kind is found out",
        )
    if request.keep not in KEEP:
        raise UnknownName("rule of --keep", request.keep, KEEP)
    _check_actions(request)
    sheet = check_destination(request.out, places, IMAGES.names, force=request.force)
    console.log_to_stderr(verbose=False)
    from gan_core.dedup.folder.apply import duplicate_paths
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
            overlays=request.overlays,
            progress=Throttled(progress.progress_of(display, "dedup"), 0.25),
        )
    write_images(found.table, request.out)
    atomic_write_bytes(sheet, page(found, _title(request.place, request.against)).encode())
    actions = _act(request, found)
    if request.as_json:
        figures = {"counts": found.counts, "ignored": found.ignored, "warnings": found.warnings}
        listed = {"duplicate_paths": duplicate_paths(found)} if request.list_duplicates else {}
        console.print_json(
            {
                "out": str(request.out),
                "page": str(sheet),
                **figures,
                **found.summary,
                **listed,
                "actions": actions,
            }
        )
    elif request.list_duplicates:
        sys.stdout.writelines(f"{path}\n" for path in duplicate_paths(found))
        for warning in found.warnings:
            console.say(warning, "yellow")
    else:
        _print(request, found, sheet)
        _print_actions(actions, request)
    return 0


def _check_actions(request: DedupRequest) -> None:
    if request.move and request.link:
        raise RequestError(
            "--move and --link both say what happens to the images that are not kept.",
            expected="one of them",
            remedy="leave one out",
        )
    for option, unused in (
        ("--copy", request.copy and not request.export),
        ("--yes", request.yes and not (request.move or request.link)),
    ):
        if unused:
            raise RequestError(
                f"{option} has nothing to act on.",
                expected="--export DIR with --copy, --move DIR or --link DIR with --yes",
                remedy=f"leave {option} out",
            )


def _act(request: DedupRequest, found: FolderResult) -> list[dict[str, Any]]:
    """Moves, links and exports what the request names; what was done, or would be: plain JSON."""
    from gan_core.dedup.folder.apply import apply, plan_files

    wanted = [
        ("move", request.move, False, request.yes),
        ("link", request.link, False, request.yes),
        ("copy" if request.copy else "link", request.export, True, True),
    ]
    planned = [
        (action, plan_files(found, folder, kept=kept), folder, kept, now)
        for action, folder, kept, now in wanted
        if folder
    ]
    # The clean set first: its links must not lead to a file that has moved.
    for action, files, _, _, now in reversed(planned):
        if now:
            apply(files, action)
    return [
        {
            "action": action,
            "images": "kept" if kept else "not kept",
            "folder": str(folder),
            "done": now,
            "files": [[str(path), str(target)] for path, target in files],
        }
        for action, files, folder, kept, now in planned
    ]


def _print_actions(actions: list[dict[str, Any]], request: DedupRequest) -> None:
    verbs = {"move": "moved", "link": "linked", "copy": "copied"}
    for one in actions:
        verb = verbs[one["action"]] if one["done"] else f"would be {verbs[one['action']]}"
        print(f"{len(one['files']):,} images that are {one['images']} {verb} to {one['folder']}")
        if not one["done"]:
            for path, target in one["files"]:
                print(f"  {path} -> {target}")
            print("This was a dry run: add --yes to do it.")
    if not any(one["action"] == "move" and one["done"] for one in actions):
        print("Nothing was deleted or moved.")


def _print(request: DedupRequest, found: FolderResult, sheet: Path) -> None:
    for warning in found.warnings:
        console.say(warning, "yellow")
    counts = found.counts
    if request.against:
        already = f"{counts['duplicates']:,} are already in {request.against}"
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
        f"duplicates)\npage      {sheet}"
    )


def _title(place: Path, against: Path | None) -> str:
    name = place.resolve().name
    return (
        f"Which images of {name} are already in {against.resolve().name}"
        if against
        else f"Near-duplicates in {name}"
    )
