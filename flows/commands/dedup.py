"""`discern dedup FOLDER`: near-duplicates in any folder or Parquet set, without a recipe."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands import console, progress
from flows.commands.options import DatasetOption, JsonOption, WorkersOption
from flows.commands.places import check_sets
from gan_core.config import DedupConfig
from gan_core.errors import RequestError, UnknownName
from gan_core.files import atomic_write_bytes
from gan_core.progress import Progress, Throttled

if TYPE_CHECKING:
    from gan_core.dedup.folder.run import FolderResult


KEEP = ("best", "largest", "oldest", "first")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Which images count as duplicates, and which image of a group is kept."""

    against: Annotated[
        Path | None,
        typer.Option("--against", help="another set: report which images of FOLDER are in it"),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="least score of a duplicate pair; higher is stricter"),
    ] = None
    no_mirror: Annotated[
        bool, typer.Option("--no-mirror", help="do not count mirror images as duplicates")
    ] = False
    dataset: DatasetOption = None
    workers: WorkersOption = 0
    max_megapixels: Annotated[
        float,
        typer.Option("--max-megapixels", help="images that declare more are not read", min=0.001),
    ] = 100.0
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            help=(
                "which image of a group: best (the likely source), largest, oldest, first (by name)"
            ),
        ),
    ] = "best"
    prefer: Annotated[
        list[str] | None,
        typer.Option("--prefer", help="a folder within the set whose images are kept first"),
    ] = None
    overlays: Annotated[
        bool,
        typer.Option(
            "--overlays",
            help="count an image with text or a logo on it as a duplicate (default: it is not)",
        ),
    ] = False

    def check(self, place: Path) -> None:
        """Raises: RequestError: nothing there, or options that name nothing there is."""
        others = {"--against": self.against} if self.against else {}
        check_sets({"FOLDER": place, **others}, self.dataset)
        if self.keep not in KEEP:
            raise UnknownName("rule of --keep", self.keep, KEEP)

    def search(self, place: Path, report: Progress) -> FolderResult:
        """The duplicates at a place."""
        from gan_core.dedup.folder.run import dedup_images

        changed = {} if self.threshold is None else {"threshold": self.threshold}
        return dedup_images(
            place,
            DedupConfig.model_validate({"mirror": not self.no_mirror, **changed}),
            against=self.against,
            dataset=self.dataset,
            workers=self.workers,
            max_megapixels=self.max_megapixels,
            keep=self.keep,
            prefer=self.prefer or (),
            overlays=self.overlays,
            progress=report,
        )


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What is done with the files of duplicates, and of the images that are kept."""

    list_duplicates: Annotated[
        bool,
        typer.Option("--list-duplicates", help="print the files that are not kept, one per line"),
    ] = False
    move: Annotated[
        Path | None,
        typer.Option("--move", help="folder to move what is not kept to; a dry run without --yes"),
    ] = None
    link: Annotated[
        Path | None,
        typer.Option(
            "--link", help="folder for links to what is not kept; a dry run without --yes"
        ),
    ] = None
    export: Annotated[
        Path | None, typer.Option("--export", help="folder for links to what is kept")
    ] = None
    copy: Annotated[bool, typer.Option("--copy", help="with --export: copies instead of links")] = (
        False
    )
    yes: Annotated[bool, typer.Option("--yes", help="really move or link")] = False

    def check(self, place: Path) -> None:
        """Raises: RequestError: options that contradict each other or have nothing to act on, or a
        folder within the set.
        """
        from gan_core.dedup.folder.output import check_target

        if self.move and self.link:
            raise RequestError(
                "--move and --link both say what happens to the images that are not kept.",
                expected="one of them",
                remedy="leave one out",
            )
        for option, unused in (
            ("--copy", self.copy and not self.export),
            ("--yes", self.yes and not (self.move or self.link)),
        ):
            if unused:
                raise RequestError(
                    f"{option} has nothing to act on.",
                    expected="--export DIR with --copy, --move DIR or --link DIR with --yes",
                    remedy=f"leave {option} out",
                )
        for folder in filter(None, (self.move, self.link, self.export)):
            check_target(place, folder)

    def act(self, found: FolderResult) -> list[dict[str, Any]]:
        """Moves, links and exports; what was done, or would be: plain JSON."""
        from gan_core.dedup.folder.apply import apply, plan_files

        wanted = [
            ("move", self.move, False, self.yes),
            ("link", self.link, False, self.yes),
            ("copy" if self.copy else "link", self.export, True, True),
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


def dedup(
    place: Annotated[
        Path,
        typer.Argument(help="a folder of images, or Parquet files with images", metavar="FOLDER"),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="the table to write (.parquet, .csv or .json), and next to it a page of groups",
        ),
    ] = Path("duplicates.parquet"),
    *,
    options: SearchOptions,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="replace a table or page that another program wrote, never a file of the sets",
        ),
    ] = False,
    files: FileOptions,
    as_json: JsonOption = False,
) -> int:
    """Writes the table of images and next to it a page of groups; returns the exit code.

    Raises:
        RequestError: nothing there, or a table that cannot be written or would replace another's
            file.
        DataError: no image that can be read.
    """
    options.check(place)
    files.check(place)

    from gan_core.dedup.folder.apply import duplicate_paths
    from gan_core.dedup.folder.html import page
    from gan_core.dedup.folder.output import check_destination, write_images
    from gan_core.dedup.folder.run import IMAGES

    against = options.against
    places = [place, *([against] if against else [])]
    sheet = check_destination(out, places, IMAGES.names, force=force)
    console.log_to_stderr(verbose=False)
    with progress.shown() as display:
        found = options.search(place, Throttled(progress.progress_of(display, "dedup"), 0.25))
    write_images(found.table, out)
    atomic_write_bytes(sheet, page(found, _title(place, against)).encode())
    actions = files.act(found)
    if as_json:
        figures = {"counts": found.counts, "ignored": found.ignored, "warnings": found.warnings}
        listed = {"duplicate_paths": duplicate_paths(found)} if files.list_duplicates else {}
        places_written = {"out": str(out), "page": str(sheet)}
        console.print_json(
            {**places_written, **figures, **found.summary, **listed, "actions": actions}
        )
        return 0
    for warning in found.warnings:
        console.say(warning, "yellow")
    if files.list_duplicates:
        sys.stdout.writelines(f"{path}\n" for path in duplicate_paths(found))
    else:
        _print(found, against)
        print(
            f"table     {out}      (keep = false: a duplicate; representative_address names what "
            f"it duplicates)\npage      {sheet}"
        )
        _print_actions(actions)
    return 0


def _print_actions(actions: list[dict[str, Any]]) -> None:
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


def _print(found: FolderResult, against: Path | None) -> None:
    counts = found.counts
    if against:
        already = f"{counts['duplicates']:,} are already in {against}"
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


def _title(place: Path, against: Path | None) -> str:
    name = place.resolve().name
    return (
        f"Which images of {name} are already in {against.resolve().name}"
        if against
        else f"Near-duplicates in {name}"
    )
