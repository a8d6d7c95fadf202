"""Options that several commands share, as types of their parameters."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeArgument = Annotated[
    str | None,
    typer.Argument(
        help="name of a recipe (`discern list recipes`) or a YAML file; none with --network",
        metavar="RECIPE",
    ),
]
OnlyOption = Annotated[
    str | None,
    typer.Option("--only", help="run this stage alone, on inputs in the store", metavar="STAGE"),
]
HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home",
        help="folder of artifacts and runs (default: DISCERN_HOME; else data/ of the checkout, "
        "or your data directory for an installed package)",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
NetworkOption = Annotated[
    str | None,
    typer.Option(
        "--network",
        help="features of your own torch network instead of a GAN trained here",
        metavar="MODULE:NAME",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="of a snapshot: dotted path of a method of your own; its code is run",
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="kind of set: folder, parquet, tar, ... (default: detected)"),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", help="parallel readers (0: one for each core)", min=0)
]
