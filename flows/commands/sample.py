"""`discern sample`: a grid of samples from a trained generator."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from flows.commands import console
from flows.commands.options import JsonOption, MethodOption
from flows.commands.places import check_snapshot
from gan_core import registry
from gan_core.devices import memory_bytes
from gan_core.errors import RequestError
from gan_core.files import atomic_write_bytes
from gan_core.shards import PixelShards, check_training_set
from gan_core.vision.sheets import encode_png
from gan_core.vision.sheets import sheet as draw_sheet


def sample(
    snapshot: Annotated[
        Path, typer.Argument(help="a .safetensors file, or a train artifact's folder")
    ],
    out: Annotated[Path, typer.Option("--out", help="the PNG to write")] = Path("grid.png"),
    n: Annotated[int, typer.Option("--n", min=1, help="how many samples")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="seed of the latents")] = 0,
    columns: Annotated[int, typer.Option("--columns", min=1, help="columns of the grid")] = 8,
    reject: Annotated[
        Path | None,
        typer.Option(
            "--reject-collisions",
            help="a hash artifact's folder: drop samples that collide with its codes",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            help="dotted path of the snapshot's network if it is your own; its code is run",
        ),
    ] = None,
    method: MethodOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="replace a file that something else wrote")
    ] = False,
    as_json: JsonOption = False,
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
    from gan_core.inspection.memorisation import draw
    from gan_core.networks.snapshot import chosen_snapshot, load_snapshot

    _check_destination(out, force=force)
    check_snapshot(snapshot)
    path = chosen_snapshot(snapshot) if snapshot.is_dir() else snapshot
    loaded = load_snapshot(path, allow=[name for name in (network, method) if name])
    named = str(loaded.meta["network"]["name"])
    _check_module(path, "network", network, named)
    _check_module(path, "method", method, str(loaded.meta["method"]))
    among = _training_images(reject) if reject else None
    _refuse_too_many(n, registry.load("networks", named).IMAGE_SIZE)
    images, rejected = draw(loaded, n, seed=seed, reject=among)
    try:
        atomic_write_bytes(out, encode_png(draw_sheet(images, columns=columns), _SOFTWARE))
    except OSError as error:
        raise RequestError(
            f"{out} cannot be written: {error.strerror or error}.",
            expected="a file in a folder that this user may write",
            remedy="choose another place with --out",
        ) from error
    if as_json:
        console.print_json(
            {"out": str(out), "samples": n, "rejected": rejected, "snapshot": str(path)}
        )
    else:
        print(
            f"{out}: {n} samples of {path.name}"
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
    check_training_set(folder)
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
