"""`discern status`: for each stage of a recipe whether it is cached or has to run, and why."""

from __future__ import annotations

import shlex
import sys

from flows.commands import console, options
from flows.commands.network_options import as_settings
from flows.home import open_store, resolve_home
from gan_core.pipeline.request import RunRequest, prepare


def status(
    recipe: options.OptionalRecipe = None,
    network: options.NetworkOption = None,
    weights: options.WeightsOption = None,
    network_args: options.ArgumentsOption = None,
    layers: options.LayersOption = None,
    set_: options.SetOption = None,
    data: options.DataOption = None,
    scale: options.ScaleOption = None,
    home: options.HomeOption = None,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> int:
    """Prints the plan; returns the exit code."""
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
