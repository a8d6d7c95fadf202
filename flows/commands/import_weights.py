"""`discern import`: released weights as a snapshot that recipes name as `train.snapshot`."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.home import open_store, resolve_home
from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import Store
from gan_core.contract import StageOutcome
from gan_core.datasets.base import did_you_mean
from gan_core.errors import RequestError, UnknownName
from gan_core.pipeline.nodes import imported_key
from gan_core.specs import spec_of

KINDS = ("dcgan-authors",)


def import_weights(
    kind: Annotated[
        str, typer.Argument(help="dcgan-authors: the networks that the DCGAN authors released")
    ],
    folder: Annotated[Path, typer.Argument(help="folder with the released files")],
    name: Annotated[
        str | None, typer.Option("--name", help="the name that recipes use as train.snapshot")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="compare with the golden numbers and print the differences"),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> int:
    """Turns released weights into a snapshot artifact that recipes name as `train.snapshot`;
    returns the exit code.
    """
    if kind not in KINDS:
        raise UnknownName("kind of weights to import", kind, KINDS)
    if not folder.is_dir():
        raise RequestError(
            f"There is no folder {folder}" + did_you_mean(folder),
            expected="the folder with the released .npy files",
        )
    from gan_core.importers import dcgan_authors as authors

    figures = authors.check(folder) if check else []
    name = name or "dcgan-authors-svhn"
    store = open_store(resolve_home(home))
    with tempfile.TemporaryDirectory() as scratch:
        made = authors.import_dcgan_authors(folder, Path(scratch))
        right = all(figure.right for figure in figures)
        address = _publish(store, name, made) if right else None
    checks = [
        {"figure": f.name, "expected": f.expected, "found": f.found, "right": f.right}
        for f in figures
    ]
    if as_json:
        console.print_json(
            {"name": name, "snapshot": str(address) if address else None, "check": checks}
        )
    else:
        for entry in checks:
            difference = float(str(entry["found"])) - float(str(entry["expected"]))
            mark = "ok   " if entry["right"] else "WRONG"
            print(
                f"{mark}  {entry['figure']:<40} {entry['found']:.6f}  expected "
                f"{entry['expected']:.6f}  difference {difference:+.1e}"
            )
        if address:
            print(
                f"snapshot  {address}\nuse it    --set train.snapshot={name}, or discern sample "
                f"{address} --out grid.png"
            )
        else:
            print(
                "No snapshot was made: these are not the released weights. Without --check they "
                "are imported as they are."
            )
    return 0 if right else 1


def _publish(store: Store, name: str, snapshot: Path) -> Path:
    key = imported_key(name)
    with store.lock("train", key, "discern import"):
        work = store.work("train", key)
        (work / snapshot.name).write_bytes(snapshot.read_bytes())
        spec = spec_of("train")
        manifest = Manifest(
            stage="train",
            version=spec.version,
            key=key,
            digest="",
            node="train",
            part={"snapshot": name},
            outcome=StageOutcome(summary={"imported": name, "kimg": 0}),
            made={"at": datetime.now(UTC).isoformat(timespec="seconds")},
        )
        ref, _ = store.publish(work, manifest, spec.content)
    return store.path(ref) / snapshot.name
