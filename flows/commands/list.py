"""`discern list`: what a recipe can name."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands import console
from flows.commands.options import JsonOption
from gan_core import registry
from gan_core.errors import UnknownName
from gan_core.recipes import read_recipe_file, recipe_names


def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="recipes, methods, networks, datasets, probes, baselines or inspections"
        ),
    ] = "recipes",
    as_json: JsonOption = False,
) -> int:
    """Prints each name with a sentence; returns the exit code."""
    what = "inspection" if what == "inspections" else what
    if what == "recipes":
        found = {name: str(read_recipe_file(name).get("about", "")) for name in recipe_names()}
    elif what in registry.KINDS:
        found = {name: registry.about(what, name) for name in registry.names(what)}
    else:
        kinds = [kind for kind in registry.KINDS if kind != "inspection"]
        known = ["recipes", "inspections", *kinds]
        raise UnknownName("list", what, known, remedy="`discern list NAME`")
    if as_json:
        console.print_json({what: found})
        return 0
    width = max((len(name) for name in found), default=0)
    for name, about in found.items():
        typer.echo(f"{name:<{width}}  {about}")
    return 0
