"""`discern run`, `prepare`, `train`, `extract` and `evaluate`: a recipe's chain up to a stage."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable

from flows.commands import options
from flows.commands.network_options import as_settings
from flows.commands.run import run_command
from flows.home import resolve_home
from gan_core.pipeline.request import RunRequest


def chain_command(until: str) -> Callable[..., int]:
    """A command that runs the chain up to a stage."""

    def run(
        recipe: options.OptionalRecipe = None,
        network: options.NetworkOption = None,
        weights: options.WeightsOption = None,
        network_args: options.ArgumentsOption = None,
        layers: options.LayersOption = None,
        set_: options.SetOption = None,
        data: options.DataOption = None,
        scale: options.ScaleOption = None,
        home: options.HomeOption = None,
        only: options.OnlyOption = None,
        refresh: options.RefreshOption = None,
        max_seconds: options.SecondsOption = None,
        device: options.DeviceOption = "auto",
        rehash: options.RehashOption = False,
        verify: options.VerifyOption = False,
        runner: options.RunnerOption = "threads",
        dry_run: options.DryOption = False,
        as_json: options.JsonOption = False,
        verbose: options.VerboseOption = False,
    ) -> int:
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
        return run_command(request, dry_run=dry_run, as_json=as_json, verbose=verbose)

    return run


run = chain_command("report")
prepare = chain_command("pack")
train = chain_command("train")
extract = chain_command("extract")
evaluate = chain_command("evaluate")
