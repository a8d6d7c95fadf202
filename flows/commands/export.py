"""`discern export`: the images of an artifact for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands import console, progress
from flows.commands.options import HomeOption, JsonOption
from flows.home import open_store, resolve_home
from gan_core.datasets.export import export as export_images
from gan_core.errors import RequestError
from gan_core.progress import Throttled


def export(
    artifact: Annotated[
        str,
        typer.Argument(
            help="a crop or pack artifact: its folder, or STAGE/KEY (a beginning will do)"
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="imagefolder, webdataset or hf")],
    out: Annotated[Path, typer.Option("--out", help="the folder to make")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> int:
    """Writes the images of a crop or pack artifact into a folder; returns the exit code."""
    console.log_to_stderr(verbose=False)
    folder = _folder_of(artifact, home)
    with progress.shown() as shown:
        report = Throttled(progress.progress_of(shown, "export"), 0.25)
        counts = export_images(folder, to, out, report)
    if as_json:
        console.print_json({"out": str(out), "to": to, "artifact": str(folder), "images": counts})
    else:
        listed = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        print(f"{out}: {listed} images as {to}")
    return 0


def _folder_of(artifact: str, home: str | None) -> Path:
    """The folder of an artifact: a path, or STAGE/KEY or its beginning in the home.

    Raises:
        RequestError: none, or several, begin so.
    """
    if Path(artifact).is_dir():
        return Path(artifact)
    store = open_store(resolve_home(home), writing=False)
    found = [ref for ref in store.artifacts.refs() if f"{ref.stage}/{ref.key}".startswith(artifact)]
    if len({(ref.stage, ref.key) for ref in found}) == 1:
        current = store.find(found[0].stage, found[0].key)
        return store.path(current.ref() if current else found[0])
    several = ", ".join(sorted({f"{ref.stage}/{ref.key[:8]}" for ref in found})[:5])
    raise RequestError(
        f"{len(found)} artifacts begin with {artifact!r}"
        + (f": {several}." if found else ", and it is no folder."),
        expected="the folder of a crop or pack artifact, or STAGE/KEY that names one",
        remedy="`discern status RECIPE --json` lists the keys; --home names another home",
    )
