"""Options that several commands share, each declared once: types of single parameters, and
dataclasses of options, whose fields `with_groups` makes parameters of a command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

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


def with_groups(command: Callable[..., int]) -> Callable[..., int]:
    """The command as typer reads it: a parameter that is a dataclass of options stands for its
    fields, which come as options of the command.
    """
    groups: dict[str, Any] = {}
    flat: list[Parameter] = []
    for name, parameter in signature(command, eval_str=True).parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            flat += signature(groups[name], eval_str=True).parameters.values()
        else:
            flat.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    def run(**given: Any) -> int:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**given, **made)

    run.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    return run
