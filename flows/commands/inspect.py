"""`discern inspect`: a recipe's chain up to its inspections, or inspections of a snapshot outside a
run, written to a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands import console
from flows.commands.chain import chain_command
from flows.commands.options import JsonOption, MethodOption, NetworkOption
from flows.commands.places import check_snapshot
from flows.commands.recipe_options import NetworkOptions, RunOptions
from flows.home import open_store, resolve_home
from gan_core import registry
from gan_core.artifacts.manifest import read_manifest
from gan_core.config.recipe import default_inspections
from gan_core.errors import RequestError, nearest
from gan_core.pipeline.nodes import imported_key
from gan_core.recipes import recipe_names, settings_of
from gan_core.specs import STAGES


@dataclass(frozen=True, kw_only=True)
class SnapshotOptions:
    """What is inspected with a snapshot that is named instead of a recipe, and to where."""

    out: Annotated[
        Path, typer.Option("--out", help="of a snapshot: folder to write figures and numbers to")
    ] = Path("inspection")
    training_set: Annotated[
        Path | None,
        typer.Option(
            "--training-set",
            help="of a snapshot: a pack artifact (default: the one it was trained on, if there)",
        ),
    ] = None
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            help="of a snapshot: an extract artifact of labelled images, for inspections of it",
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="of a snapshot: seed of the latents")] = 0
    network: NetworkOption = None
    method: MethodOption = None


def inspect(
    target: Annotated[
        str | None,
        typer.Argument(
            help="a recipe; or a snapshot: a .safetensors file, a train artifact's folder, the "
            "name of an imported one",
            metavar="RECIPE|SNAPSHOT",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="of a snapshot: this inspection (`discern list inspections`)"),
    ] = None,
    *,
    given: SnapshotOptions,
    options: RunOptions,
    as_json: JsonOption = False,
) -> int:
    """Inspects a snapshot, or runs a recipe's chain; returns the exit code."""
    snapshot = find_snapshot(target, resolve_home(options.home), only)
    if snapshot is not None:
        return inspect_snapshot(
            snapshot, given, only, options.set_ or [], options.device, as_json=as_json
        )
    refuse_chain_only(only)
    own = NetworkOptions(network=given.network)
    run_chain = chain_command("inspect")
    return run_chain(target, own=own, options=options, only=only, as_json=as_json)


def find_snapshot(given: str | None, home: str, only: str | None) -> Path | None:
    """The snapshot that the argument of `discern inspect` means; None where it means a recipe.

    It is a .safetensors file, a folder with snapshots, or the name of an imported snapshot. A name
    that a recipe has as well is the snapshot's where `only` is an inspection.
    """
    if not given:
        return None
    path = Path(given).expanduser()
    if path.suffix == ".safetensors" or path.is_dir():
        check_snapshot(path)
        return path
    if "/" in given or path.suffix:
        return None
    store = open_store(home, writing=False)
    manifest = store.find("train", imported_key(given))
    if manifest is None or (given in recipe_names() and only not in registry.names("inspection")):
        return None
    return store.path(manifest.ref())


def inspect_snapshot(
    snapshot: Path,
    given: SnapshotOptions,
    only: str | None,
    overrides: Sequence[str],
    device: str,
    *,
    as_json: bool,
) -> int:
    """Runs one inspection, or all that need no options; returns the exit code: 1 where the one that
    is named cannot be done.

    Args:
        overrides: 'a.b=value' of the inspection's options; 'inspect.NAME.' before it may be there.
    """
    wanted = _options_by_name(only, overrides)

    from gan_core.devices import resolve_device
    from gan_core.inspection.base import Context
    from gan_core.networks.snapshot import chosen_snapshot, load_snapshot, load_snapshots
    from gan_core.shards import check_training_set
    from gan_core.stages.inspect import inspect as inspect_one
    from gan_core.stages.inspect import write

    path = chosen_snapshot(snapshot) if snapshot.is_dir() else snapshot
    place = resolve_device(device)
    allow = [name for name in (given.network, given.method) if name]
    loaded = load_snapshot(path, place, allow=allow)
    packs = [given.training_set] if given.training_set else _inputs_of(path.parent, "pack")
    for folder in packs:
        check_training_set(folder)
    crops = _crops_of(given.features) if given.features else None
    history = partial(load_snapshots, path.parent, place, allow=allow)
    context = Context(loaded, given.seed, place, packs, given.features, crops, history)
    rows: list[dict[str, Any]] = []
    for name, chosen in wanted.items():
        applicable, found = inspect_one(context, name, chosen)
        folder = given.out / name
        write(folder, name, found, applicable)
        rows.append(
            {
                "inspection": name,
                "applicable": applicable,
                "sentence": found.sentence,
                "numbers": found.numbers,
                "folder": str(folder),
                "figures": [f"{figure.name}.png" for figure in found.figures],
            }
        )
        if not as_json:
            print(f"{name}: {found.sentence}\n  {folder}", flush=True)
    if as_json:
        console.print_json(
            {
                "snapshot": str(path),
                "training_set": [str(folder) for folder in packs],
                "inspections": rows,
            }
        )
    return 1 if only and not rows[0]["applicable"] else 0


def _options_by_name(only: str | None, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each inspection that is wanted, to its options, which are checked."""
    names = [only] if only else default_inspections()
    for name in names:
        registry.check("inspection", name)
    settings = settings_of(overrides)
    by_name = settings.pop("inspect", {})
    if settings and not only:
        raise RequestError(
            f"--set {next(iter(settings))}=... belongs to no inspection.",
            expected="--only NAME with its options, or --set inspect.NAME.option=value",
        )
    if not isinstance(by_name, dict) or not all(isinstance(one, dict) for one in by_name.values()):
        raise RequestError(
            "--set inspect=... names no option of an inspection.",
            expected="--set inspect.NAME.option=value",
            remedy="--only NAME makes one inspection alone",
        )
    for name in by_name:
        registry.check("inspection", name)
    wanted = {name: {**settings, **by_name.get(name, {})} for name in names}
    for name, chosen in wanted.items():
        try:
            registry.options("inspection", name, chosen)
        except RequestError as error:
            typed = "" if settings else f"inspect.{name}."
            error.remedy = f"--set {typed}OPTION=VALUE; without it an option has its default"
            raise
    return wanted


def _inputs_of(folder: Path, role: str) -> list[Path]:
    """The inputs that an artifact's manifest names, as far as the store holds them."""
    manifest = read_manifest(folder)
    if manifest is None:
        return []
    artifacts = folder.resolve().parents[2]  # artifacts/<stage>/<key>/<digest12>
    folders = [
        artifacts / ref.stage / ref.key / ref.digest[:12] for ref in manifest.inputs.get(role, [])
    ]
    return [folder for folder in folders if folder.is_dir()]


def _crops_of(features: Path) -> Path:
    if not (found := _inputs_of(features, "crops")):
        raise RequestError(
            f"{features} is no extract artifact whose images are in the store.",
            expected="a folder with features-*.parquet and manifest.json",
            remedy="HOME/artifacts/extract/KEY/DIGEST of a run; run.json names it",
        )
    return found[0]


def refuse_chain_only(only: str | None) -> None:
    """RequestError where `--only` names an inspection, or nearly, and the argument is a recipe."""
    inspections = registry.names("inspection")
    if only and only not in STAGES and nearest(only, [*STAGES, *inspections]) in inspections:
        raise RequestError(
            f"--only {nearest(only, inspections)} names an inspection, and the argument is a "
            "recipe.",
            expected="a snapshot: a .safetensors file, a train artifact's folder, or the name of "
            "an imported one",
            remedy="leave --only out to run the recipe's chain up to its inspections",
        )
