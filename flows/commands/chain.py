"""`discern run`, `prepare`, `train`, `extract` and `evaluate`: a recipe's chain up to a stage."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable

from flows.commands.network_options import (
    ArgumentsOption,
    LayersOption,
    NetworkOption,
    WeightsOption,
    as_settings,
)
from flows.commands.options import (
    DataOption,
    DeviceOption,
    DryOption,
    HomeOption,
    JsonOption,
    OnlyOption,
    OptionalRecipe,
    RefreshOption,
    RehashOption,
    RunnerOption,
    ScaleOption,
    SecondsOption,
    SetOption,
    VerboseOption,
    VerifyOption,
)
from flows.commands.run import run_command
from flows.home import resolve_home
from gan_core.pipeline.request import RunRequest


def chain_command(until: str) -> Callable[..., int]:
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
        as_json: JsonOption = False,
        verbose: VerboseOption = False,
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
