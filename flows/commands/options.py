"""Options that several commands share, as types of their parameters."""

from __future__ import annotations

from typing import Annotated

import typer

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
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="of a snapshot: dotted path of a method of your own; its code is run",
    ),
]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        help="features of your own torch network instead of a GAN trained here",
        metavar="MODULE:NAME",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", help="its weights: safetensors or a state dict", metavar="FILE"),
]
ArgumentsOption = Annotated[
    str | None,
    typer.Option("--network-args", help="arguments of its constructor", metavar="name=value,..."),
]
LayersOption = Annotated[
    str | None,
    typer.Option(
        "--layers", help="use these layers (default: all convolutional ones)", metavar="a,b,..."
    ),
]
