"""The command `discern`. Nothing heavy is imported before a command needs it: `--help` answers at
once.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.network_options import (
    ArgumentsOption,
    LayersOption,
    NetworkOption,
    WeightsOption,
)

if TYPE_CHECKING:
    from gan_core.errors import DiscernError

app = typer.Typer(
    name="discern",
    help=(
        "Learn image features without labels from GANs: prepare, train, extract, evaluate, "
        "report; each stage cached and re-runnable."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
server_app = typer.Typer(
    help="The home's own Prefect server, with every past run in its UI.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(server_app, name="server")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"discern {metadata.version('discern-gan')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Options of `discern` itself."""


OptionalRecipe = Annotated[
    str | None,
    typer.Argument(
        help="name of a recipe (`discern list recipes`) or a YAML file; none with --network",
        metavar="RECIPE",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="change a setting, as section.key=value", metavar="a.b=c"),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", help="where the data lies: PATH, or NAME=PATH for each source"),
]
ScaleOption = Annotated[str | None, typer.Option("--scale", help="debug, small or full")]
HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home",
        help="folder of artifacts and runs (default: DISCERN_HOME; else data/ of the checkout, "
        "or your data directory for an installed package)",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="show the plan and the recipe, run nothing")
]
OnlyOption = Annotated[
    str | None,
    typer.Option("--only", help="run this stage alone, on inputs in the store", metavar="STAGE"),
]
RefreshOption = Annotated[
    list[str] | None,
    typer.Option("--refresh", help="run this stage again even if cached", metavar="STAGE"),
]
SecondsOption = Annotated[
    float | None,
    typer.Option(
        "--max-seconds",
        help="end training cleanly after this many seconds; the next run continues it",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]
RehashOption = Annotated[
    bool,
    typer.Option(
        "--rehash", help="read every file again instead of trusting size and modification time"
    ),
]
VerifyOption = Annotated[
    bool,
    typer.Option(
        "--verify", help="read every byte of what the store has, and make damaged artifacts again"
    ),
]
RunnerOption = Annotated[
    str,
    typer.Option(
        "--runner",
        help=(
            "threads, dask or ray: where crop and extract are divided (dask:4, "
            "dask:tcp://HOST:8786)"
        ),
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="more log messages")]


def _command(until: str) -> Any:
    """A command that runs the chain up to a stage."""

    def run(
        recipe: OptionalRecipe = None,
        network: NetworkOption = None,
        weights: WeightsOption = None,
        network_args: ArgumentsOption = None,
        layers: LayersOption = None,
        set_: SetOption = None,
        data: DataOption = None,
        scale: ScaleOption = None,
        home: HomeOption = None,
        only: OnlyOption = None,
        refresh: RefreshOption = None,
        max_seconds: SecondsOption = None,
        device: DeviceOption = "auto",
        rehash: RehashOption = False,
        verify: VerifyOption = False,
        runner: RunnerOption = "threads",
        dry_run: DryOption = False,
        json_: JsonOption = False,
        verbose: VerboseOption = False,
    ) -> None:
        from flows.commands.network_options import as_settings
        from flows.commands.run import run_command
        from flows.home import resolve_home
        from gan_core.pipeline.request import RunRequest

        named, settings = as_settings(recipe, network, weights, network_args, layers, data or [])
        request = RunRequest(
            recipe=named,
            overrides=[*settings, *(set_ or [])],
            data=data or [],
            scale=scale,
            home=resolve_home(home),
            only=only,
            refresh=refresh or [],
            max_seconds=max_seconds,
            device=device,
            rehash=rehash,
            verify=verify,
            runner=runner,
            until=until,
            command=shlex.join(["discern", *sys.argv[1:]]),
        )
        raise typer.Exit(run_command(request, dry_run=dry_run, as_json=json_, verbose=verbose))

    return run


for _name, _until, _help in (
    ("run", "report", "Run a recipe to its report; cached stages are not computed again."),
    ("prepare", "pack", "Run the chain up to the packed training set."),
    ("train", "train", "Run the chain up to the trained GAN."),
    ("extract", "extract", "Run the chain up to the features."),
    ("evaluate", "evaluate", "Run the chain up to the scores."),
):
    app.command(_name, help=_help)(_command(_until))


MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="of a snapshot: dotted path of a method of your own; its code is run",
    ),
]


@app.command("inspect")
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
    set_: SetOption = None,
    out: Annotated[
        Path, typer.Option("--out", help="of a snapshot: folder to write figures and numbers to")
    ] = Path("inspection"),
    training_set: Annotated[
        Path | None,
        typer.Option(
            "--training-set",
            help="of a snapshot: a pack artifact (default: the one it was trained on, if there)",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features",
            help="of a snapshot: an extract artifact of labelled images, for inspections of it",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="of a snapshot: seed of the latents")] = 0,
    network: NetworkOption = None,
    method: MethodOption = None,
    data: DataOption = None,
    scale: ScaleOption = None,
    home: HomeOption = None,
    refresh: RefreshOption = None,
    device: DeviceOption = "auto",
    rehash: RehashOption = False,
    dry_run: DryOption = False,
    json_: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Inspect a snapshot, or run a recipe's chain up to its inspections."""
    from flows.commands.inspect_snapshot import find_snapshot, inspect_snapshot, refuse_chain_only
    from flows.home import resolve_home

    snapshot = find_snapshot(target, resolve_home(home), only)
    if snapshot is None:
        refuse_chain_only(only)
        _command("inspect")(
            target,
            network=network,
            set_=set_,
            data=data,
            scale=scale,
            home=home,
            only=only,
            refresh=refresh,
            device=device,
            rehash=rehash,
            dry_run=dry_run,
            json_=json_,
            verbose=verbose,
        )
        return
    code = inspect_snapshot(
        snapshot,
        only=only,
        overrides=set_ or [],
        out=out,
        training_set=training_set,
        allow=[name for name in (network, method) if name],
        features=features,
        device=device,
        seed=seed,
        as_json=json_,
    )
    raise typer.Exit(code)


@app.command("status")
def status(
    recipe: OptionalRecipe = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    network_args: ArgumentsOption = None,
    layers: LayersOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    scale: ScaleOption = None,
    home: HomeOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Show for each stage whether it is cached or has to run, and why."""
    from flows.commands import console
    from flows.commands.network_options import as_settings
    from flows.home import open_store, resolve_home
    from gan_core.pipeline.request import RunRequest, prepare

    named, settings = as_settings(recipe, network, weights, network_args, layers, data or [])
    overrides = [*settings, *(set_ or [])]
    request = RunRequest(
        recipe=named,
        overrides=overrides,
        data=data or [],
        scale=scale,
        home=resolve_home(home),
        device=device,
        command=shlex.join(["discern", *sys.argv[1:]]),
    )
    prepared = prepare(request, open_store(request.home, writing=False))
    if json_:
        console.print_json(
            {
                "recipe": prepared.recipe.name,
                "scale": prepared.recipe.scale,
                "plan": console.plan_rows(prepared.statuses),
            }
        )
    else:
        console.print_plan(prepared)


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="recipes, methods, networks, datasets, probes, baselines or inspections"
        ),
    ] = "recipes",
    json_: JsonOption = False,
) -> None:
    """List what a recipe can name, each with a sentence."""
    from flows.commands import console
    from gan_core import registry
    from gan_core.errors import UnknownName
    from gan_core.recipes import read_recipe_file, recipe_names

    what = "inspection" if what == "inspections" else what
    if what == "recipes":
        found = {name: str(read_recipe_file(name).get("about", "")) for name in recipe_names()}
    elif what in registry.KINDS:
        found = {name: registry.about(what, name) for name in registry.names(what)}
    else:
        raise UnknownName("list", what, ["recipes", "inspections", *registry.KINDS])
    if json_:
        console.print_json({what: found})
        return
    width = max((len(name) for name in found), default=0)
    for name, about in found.items():
        typer.echo(f"{name:<{width}}  {about}")


@app.command("compare")
def compare(
    runs: Annotated[list[str], typer.Argument(help="two runs or more, by name or folder")],
    out: Annotated[Path | None, typer.Option("--out", help="write a page, such as c.html")] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Compare the scores of runs, with paired differences and their intervals."""
    from flows.commands.compare import compare_runs

    raise typer.Exit(compare_runs(home, runs, out, as_json=json_))


@app.command("similar")
def similar(
    image: Annotated[str, typer.Argument(help="an image id, or the end of an image's address")],
    features: Annotated[str, typer.Option("--features", help="extract artifact, by key or folder")],
    count: Annotated[int, typer.Option("-k", min=1, help="how many neighbours")] = 20,
    out: Annotated[Path, typer.Option("--out", help="the contact sheet to write")] = Path(
        "similar.png"
    ),
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Find the images whose features are most similar, and write them as a sheet."""
    from flows.commands.similar import similar as find_similar

    raise typer.Exit(find_similar(home, image, features, count, out, as_json=json_))


@app.command("verify")
def verify(
    artifact: Annotated[
        str | None, typer.Argument(help="stage/key or a beginning of it; none: see --all")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="every artifact of the store")] = False,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="remove damaged artifacts; the next run makes them again"),
    ] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Compare artifacts' files with the hashes in their manifests."""
    from flows.commands.store_and_server import verify_artifacts

    raise typer.Exit(
        verify_artifacts(home, artifact, everything=all_, remove=remove, as_json=json_)
    )


@app.command("gc")
def gc(
    keep: Annotated[int, typer.Option("--keep", help="completed runs of each kind to keep", min=1)],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="show what would be removed and how many bytes, remove nothing"
        ),
    ] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Remove what the last runs of each kind do not use, and Prefect's records of older runs; safe
    while runs are going on.
    """
    from flows.commands.gc import collect

    raise typer.Exit(collect(home, keep=keep, dry_run=dry_run, as_json=json_))


@app.command("dedup")
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
    against: Annotated[
        Path | None,
        typer.Option("--against", help="another set: report which images of FOLDER are in it"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="least score of a duplicate pair; higher is stricter"),
    ] = None,
    no_mirror: Annotated[
        bool, typer.Option("--no-mirror", help="do not count mirror images as duplicates")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="kind of FOLDER: folder, parquet, tar, ... (default: detected)"
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", help="parallel readers (0: one for each core)", min=0)
    ] = 0,
    max_megapixels: Annotated[
        float,
        typer.Option("--max-megapixels", help="images that declare more are not read", min=0.001),
    ] = 100.0,
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            help=(
                "which image of a group: best (the likely source), largest, oldest, first (by name)"
            ),
        ),
    ] = "best",
    prefer: Annotated[
        list[str] | None,
        typer.Option("--prefer", help="a folder within the set whose images are kept first"),
    ] = None,
    overlays: Annotated[
        bool,
        typer.Option(
            "--overlays",
            help="count an image with text or a logo on it as a duplicate (default: it is not)",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="replace a table or page that another program wrote, never a file of the sets",
        ),
    ] = False,
    list_duplicates: Annotated[
        bool,
        typer.Option("--list-duplicates", help="print the files that are not kept, one per line"),
    ] = False,
    move: Annotated[
        Path | None,
        typer.Option("--move", help="folder to move what is not kept to; a dry run without --yes"),
    ] = None,
    link: Annotated[
        Path | None,
        typer.Option(
            "--link", help="folder for links to what is not kept; a dry run without --yes"
        ),
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="folder for links to what is kept")
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="with --export: copies instead of links")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="really move or link")] = False,
    json_: JsonOption = False,
) -> None:
    """Find near-duplicates in a folder: a row for each image, a representative for each group, and
    a page of the groups.
    """
    from flows.commands.dedup import DedupRequest, dedup_folder

    request = DedupRequest(
        place=place,
        out=out,
        against=against,
        threshold=threshold,
        mirror=not no_mirror,
        keep=keep,
        prefer=tuple(prefer or ()),
        overlays=overlays,
        dataset=dataset,
        workers=workers,
        max_megapixels=max_megapixels,
        force=force,
        list_duplicates=list_duplicates,
        move=move,
        link=link,
        export=export,
        copy=copy,
        yes=yes,
        as_json=json_,
    )
    raise typer.Exit(dedup_folder(request))


@app.command("validate")
def validate(
    place: Annotated[
        Path,
        typer.Argument(help="a folder of images, or Parquet files with images", metavar="PATH"),
    ],
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="contact sheet of odd images to write (.png, .jpg, .webp)"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="kind of PATH: folder, parquet, tar, ... (default: detected)"
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", help="parallel readers (0: one for each core)", min=0)
    ] = 0,
    json_: JsonOption = False,
) -> None:
    """Count classes and splits, and find unreadable, dark, bright, blurry, empty, odd and equal
    images.
    """
    from flows.commands.validate import validate as run

    raise typer.Exit(run(place, sheet, dataset=dataset, workers=workers, as_json=json_))


@app.command("import")
def import_(
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
    json_: JsonOption = False,
) -> None:
    """Turn released weights into a snapshot that sampling, extraction and evaluation use like any
    other.
    """
    from flows.commands.snapshots import import_weights

    raise typer.Exit(import_weights(kind, folder, name=name, home=home, check=check, as_json=json_))


@app.command("sample")
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
    json_: JsonOption = False,
) -> None:
    """Draw a grid of samples from a trained generator."""
    from flows.commands.snapshots import sample as draw

    raise typer.Exit(
        draw(
            snapshot,
            count=n,
            out=out,
            seed=seed,
            columns=columns,
            reject=reject,
            network=network,
            method=method,
            force=force,
            as_json=json_,
        )
    )


@app.command("export")
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
    json_: JsonOption = False,
) -> None:
    """Write an artifact's images for torchvision, WebDataset or Hugging Face's datasets."""
    from flows.commands.export import export_artifact

    raise typer.Exit(export_artifact(artifact, kind=to, out=out, home=home, as_json=json_))


@app.command("track")
def track(
    run: Annotated[str, typer.Argument(help="a finished run: its name or folder")],
    to: Annotated[str, typer.Option("--to", help="mlflow or wandb")],
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Log a run's recipe, scores, figures and digests in an experiment tracker."""
    from flows.commands.track import track_run

    raise typer.Exit(track_run(home, run, to, as_json=json_))


@app.command("doctor")
def doctor(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Check this installation: versions and their known traps, GPU, home, Prefect server."""
    from flows.commands.doctor import examine

    raise typer.Exit(examine(home, as_json=json_))


@app.command("setup")
def setup(
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help="port of the home's server on loopback (a free one)", min=1, max=65535
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", help="runs at a time in the pool (1)")
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            "--notify", help="address that failures are posted to as JSON; 'none' removes it"
        ),
    ] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Prepare scheduled running: the server's settings, a work pool with its limit, automations.
    May be repeated.
    """
    from flows.commands.setup import set_up

    raise typer.Exit(set_up(home, port=port, slots=slots, webhook=notify, as_json=json_))


@server_app.command("start")
def server_start(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Start the home's Prefect server and keep it running."""
    from flows.commands.store_and_server import start_server

    raise typer.Exit(start_server(home, as_json=json_))


@server_app.command("stop")
def server_stop(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Stop the server; returns when it has stopped, or at once while a run uses it."""
    from flows.commands.store_and_server import stop_server

    raise typer.Exit(stop_server(home, as_json=json_))


_STOPPED = "\nStopped. What is finished is kept; the same command continues.\n"


def main() -> None:
    """Entry point: errors for people end in their exit code, without a traceback."""
    try:
        code = app(standalone_mode=False)  # returns the code of a typer.Exit
        if code == 130:  # typer's code for Ctrl-C
            sys.stderr.write(_STOPPED)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write(_STOPPED)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        sys.exit(_fail(error))


def _fail(error: Exception) -> int:
    """Reports an error on standard error, with --json on standard output too; returns the exit
    code.
    """
    if isinstance(error, typer.Abort):  # Ctrl-C, in some versions of typer
        sys.stderr.write(_STOPPED)
        return 130
    if callable(show := getattr(error, "show", None)) and hasattr(error, "exit_code"):
        show()  # a usage error of click, which newer versions of typer carry inside
        return int(error.exit_code)
    known = _for_people(error)
    if known is None:
        import traceback

        traceback.print_exc()
        text = "This is a bug in Discern or in a plug-in; please report the lines above."
        sys.stderr.write(f"{text}\n")
        return 1
    if "--json" in sys.argv:
        from flows.commands.console import print_json

        print_json({"error": known.message, "expected": known.expected, "remedy": known.remedy})
    sys.stderr.write(f"discern: {known.explain()}\n")
    return known.exit_code


def _for_people(error: Exception) -> DiscernError | None:
    """An error that says what to do; None for a bug."""
    from pydantic import ValidationError

    from gan_core.errors import DiscernError, WorkError
    from gan_core.pipeline.runner import explain_os_error

    if isinstance(error, DiscernError):
        return error
    if isinstance(error, ValidationError):
        return _invalid_option(error.errors()[0])
    if isinstance(error, OSError):
        return explain_os_error(error, Path.cwd())
    if isinstance(error, MemoryError):
        remedy = "a smaller --scale, or a machine with more memory"
        return WorkError("Out of memory.", remedy=remedy)
    return None


def _invalid_option(first: Any) -> DiscernError:
    """For a value that the request's model refuses; its fields are named as the options are."""
    from gan_core.errors import RequestError

    option = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "run")
    return RequestError(
        f"{option} is {first.get('input')}.",
        expected=first["msg"].removeprefix("Input should be "),
        remedy=f"leave {option} out, or see `discern {verb} --help`",
    )


if __name__ == "__main__":
    main()
