"""`discern run`, `prepare`, `train`, `extract` and `evaluate`: a recipe's chain up to a stage."""

from __future__ import annotations

from collections.abc import Callable

from flows.commands.options import JsonOption, OnlyOption, RecipeArgument
from flows.commands.recipe_options import NetworkOptions, RunOptions
from flows.commands.run import run_command


def chain_command(until: str) -> Callable[..., int]:
    """A command that runs the chain up to a stage."""

    def command(
        recipe: RecipeArgument = None,
        *,
        own: NetworkOptions,
        options: RunOptions,
        only: OnlyOption = None,
        as_json: JsonOption = False,
    ) -> int:
        request = options.request(recipe, own, only=only, until=until)
        return run_command(
            request, dry_run=options.dry_run, as_json=as_json, verbose=options.verbose
        )

    return command


run = chain_command("report")
prepare = chain_command("pack")
train = chain_command("train")
extract = chain_command("extract")
evaluate = chain_command("evaluate")
