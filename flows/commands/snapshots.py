"""Commands about trained networks: import released weights as a snapshot, draw samples from one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from flows.commands import console
from flows.home import open_store, resolve_home
from gan_core import registry
from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import Store
from gan_core.contract import StageOutcome
from gan_core.datasets.base import did_you_mean
from gan_core.devices import memory_bytes
from gan_core.errors import RequestError, UnknownName
from gan_core.pipeline.nodes import imported_key
from gan_core.specs import spec_of

KINDS = ("dcgan-authors",)


def import_weights(
    kind: str, folder: Path, *, name: str | None, home: str | None, check: bool, as_json: bool
) -> int:
    """Turns released weights into a snapshot artifact that recipes name as `train.snapshot`;
    returns the exit code.
    """
    if kind not in KINDS:
        raise UnknownName("kind of weights to import", kind, KINDS)
    if not folder.is_dir():
        raise RequestError(
            f"There is no folder {folder}.", expected="the folder with the released .npy files"
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


def sample(
    snapshot: Path,
    *,
    count: int,
    out: Path,
    seed: int,
    columns: int,
    reject: Path | None,
    network: str | None,
    method: str | None,
    force: bool = False,
    as_json: bool,
) -> int:
    """Draws a grid of samples from a snapshot (a file, or a train artifact's folder); returns the
    exit code.

    Args:
        network, method: dotted paths of modules outside the project that the snapshot names, and
            whose code then runs.
        force: replace a file that something else wrote.
    Raises:
        RequestError: a destination that is no PNG, or another program's; more samples than memory
            holds; a network that it does not name.
    """
    from gan_core.files import atomic_write_bytes
    from gan_core.inspection.memorisation import draw
    from gan_core.networks.snapshot import chosen_snapshot, load_snapshot
    from gan_core.vision.sheets import encode_png, sheet

    _check_destination(out, force=force)
    if not snapshot.exists():
        raise RequestError(
            f"There is no snapshot at {snapshot}" + did_you_mean(snapshot),
            expected="a .safetensors file, or a train artifact's folder",
            remedy="`discern run RECIPE` makes one; `discern status RECIPE --json` says where",
        )
    path = chosen_snapshot(snapshot) if snapshot.is_dir() else snapshot
    loaded = load_snapshot(path, allow=[name for name in (network, method) if name])
    named = str(loaded.meta["network"]["name"])
    _check_module(path, "network", network, named)
    _check_module(path, "method", method, str(loaded.meta["method"]))
    among = _training_images(reject) if reject else None
    _refuse_too_many(count, registry.load("networks", named).IMAGE_SIZE)
    images, rejected = draw(loaded, count, seed=seed, reject=among)
    try:
        atomic_write_bytes(out, encode_png(sheet(images, columns=columns), _SOFTWARE))
    except OSError as error:
        raise RequestError(
            f"{out} cannot be written: {error.strerror or error}.",
            expected="a file in a folder that this user may write",
            remedy="choose another place with --out",
        ) from error
    if as_json:
        console.print_json(
            {"out": str(out), "samples": count, "rejected": rejected, "snapshot": str(path)}
        )
    else:
        print(
            f"{out}: {count} samples of {path.name}"
            + (f", {rejected} rejected as memorised" if reject else "")
        )
    return 0


def _check_module(path: Path, kind: str, given: str | None, named: str) -> None:
    if given is not None and given != named:
        raise RequestError(
            f"The snapshot {path.name} is of the {kind} {named}, and --{kind} names {given}.",
            expected=f"the {kind} that the snapshot names"
            + ("" if "." in named else ", which is Discern's own"),
            remedy=f"leave --{kind} out" if "." not in named else f"--{kind} {named}",
        )


def _training_images(folder: Path) -> Any:
    """The images of a pack artifact: uint8 [n, S, S, 3]."""
    from gan_core.shards import TABLE, PixelShards

    if not (folder / TABLE).is_file():
        raise RequestError(
            f"{folder} holds no training images.",
            expected=f"an artifact of stage pack: a folder with {TABLE} and pixels-*.npy",
            remedy="HOME/artifacts/pack/KEY/DIGEST of the run that the snapshot is of",
        )
    return PixelShards([folder]).pixels(slice(None))


# The text by which the next `discern sample` recognises its own grids.
_SOFTWARE = "discern sample"


def _check_destination(out: Path, *, force: bool) -> None:
    if out.suffix.lower() != ".png":
        raise RequestError(
            f"--out {out} is no PNG file.",
            expected="a name that ends in .png",
            remedy="--out grid.png",
        )
    if out.is_dir():
        raise RequestError(
            f"{out} is a folder.", expected="a file to write", remedy=f"--out {out / 'grid.png'}"
        )
    if force or not os.path.lexists(out):
        return
    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(out) as image:
        if image.info.get("Software") == _SOFTWARE:
            return
    raise RequestError(
        f"{out} is there and was not written by this command.",
        expected="a name that is not taken, or a grid of an earlier `discern sample`",
        remedy="choose another name with --out, or replace the file with --force",
    )


def _refuse_too_many(count: int, size: int) -> None:
    """A grid is drawn in memory, images in float32 first and then twice as bytes."""
    needed, there = count * size * size * 3 * (4 + 2), memory_bytes()
    if needed > there / 2:
        raise RequestError(
            f"{count:,} samples of {size} x {size} pixels take {needed / 2**30:,.0f} GiB of "
            f"memory, and there are {there / 2**30:,.0f}.",
            expected=f"at most {there // (2 * size * size * 18):,} samples in one grid",
            remedy=(
                "several calls with other --seed, or gan_core.networks.snapshot.generate in a loop"
            ),
        )
