"""`discern compare RUN RUN ...`: scores side by side, with paired differences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.commands.outcome import run_folder
from flows.home import open_store, resolve_home
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import RequestError
from gan_core.files import atomic_write_bytes, read_json
from gan_core.reporting.compare import ComparedRun, page, sentences
from gan_core.reporting.compare import compare as compare_runs


def compare(
    runs: Annotated[list[str], typer.Argument(help="two runs or more, by name or folder")],
    out: Annotated[Path | None, typer.Option("--out", help="write a page, such as c.html")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> int:
    """Prints the comparison; with `out`, writes it as a page."""
    if len(runs) < 2:
        raise RequestError(
            f"{len(runs)} run was given.",
            expected="two runs or more, by name or folder",
            remedy="the names are the folders in <home>/runs",
        )
    store = open_store(resolve_home(home))
    compared = [_read(store, name) for name in runs]
    twice = [run.name for number, run in enumerate(compared) if run in compared[:number]]
    if twice:
        raise RequestError(
            f"The run {twice[0]} was given twice.",
            expected="different runs",
            remedy="the names are the folders in <home>/runs",
        )
    found = compare_runs(compared)
    if out is not None:
        atomic_write_bytes(out, page(found, compared).encode())
    if as_json:
        console.print_json({**found, "page": str(out) if out else None})
        return 0
    for row in found["settings"]:
        print(f"{row['setting']}: {' | '.join(str(value) for value in row['values'])}")
    for line in sentences(found):
        print(line)
    if not found["scores"]:
        print("No two of these runs have scored the same source, features, probe and labels.")
    if out is not None:
        print(f"page      {out}")
    return 0


def _read(store: Store, name: str) -> ComparedRun:
    folder = run_folder(store, name)
    record = read_json(folder / "run.json")
    refs = [
        ArtifactRef.model_validate(node["ref"])
        for node in record["nodes"]
        if node["node"].startswith("evaluate:") and node["ref"]
    ]
    if not refs:
        raise RequestError(
            f"The run {folder.name} has no scores.",
            expected="a run that evaluated features",
            remedy=f"discern evaluate {record['recipe']}",
        )
    report = folder / "report.html"
    return ComparedRun(
        folder.name,
        yaml.safe_load((folder / "recipe.yaml").read_text()),
        tuple(store.path(ref) for ref in refs),
        report.resolve() if report.exists() else None,
    )
