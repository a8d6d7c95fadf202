"""`discern status`: for each stage of a recipe whether it is cached or has to run, and why."""

from __future__ import annotations

from flows.commands import console
from flows.commands.options import JsonOption, RecipeArgument
from flows.commands.recipe_options import NetworkOptions, RecipeOptions
from flows.home import open_store
from gan_core.pipeline.request import prepare


def status(
    recipe: RecipeArgument = None,
    *,
    own: NetworkOptions,
    options: RecipeOptions,
    as_json: JsonOption = False,
) -> int:
    """Prints the plan; returns the exit code."""
    request = options.request(recipe, own)
    prepared = prepare(request, open_store(request.home, writing=False))
    if as_json:
        console.print_json(
            {
                "recipe": prepared.recipe.name,
                "scale": prepared.recipe.scale,
                "plan": console.plan_rows(prepared.statuses),
            }
        )
    else:
        console.print_plan(prepared)
    return 0
