"""The flows: the whole chain and its beginnings, each the same plan up to another stage."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from prefect import Flow, flow
from pydantic import Field

from flows.choices import LACKING, RECIPES, SCALES, SETTING
from flows.home import resolve_home
from flows.hooks import close_task_runs
from flows.run_plan import run_plan
from flows.runners import KINDS
from gan_core.pipeline.request import RunRequest, as_typed
from gan_core.specs import STAGES

Chain = Flow[..., dict[str, Any]]

# The command that was typed, for the report; runs that were scheduled or started from a form are
# told the command that does the same.
typed: ContextVar[str] = ContextVar("typed", default="")


def _choice(*names: str) -> Any:
    """A list to choose from in the UI's form, which the server also checks. Python callers may go
    beyond it (a recipe of their own) and are answered by `gan_core`, with the nearest match: hence
    no Literal, whose refusal names none."""
    return Field(json_schema_extra={"enum": list(names)})


Recipe = Annotated[str, _choice(*RECIPES)]
Scale = Annotated[str, _choice("auto", *SCALES)]
Stage = Annotated[str, _choice(*STAGES)]
StageOrAll = Annotated[str, _choice("all", *STAGES)]
Device = Annotated[str, _choice("auto", "cpu", "cuda")]
Runner = Annotated[str, _choice(*KINDS)]
Place = Annotated[str, Field(json_schema_extra={"pattern": r"^([1-9]\d*|[a-z]+://\S+|auto)?$"})]
Override = Annotated[str, Field(json_schema_extra={"pattern": SETTING})]


def _run_name() -> str:
    from prefect.runtime import flow_run

    given = flow_run.parameters
    recipe = Path(str(given.get("recipe_file") or given.get("recipe", "recipe"))).stem
    only = given.get("stage") or given.get("only", "all")
    what = flow_run.flow_name if only == "all" else f"{only} alone"
    return f"{recipe} {what} {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"


def _chain(name: str, until: str, about: str) -> Chain:
    """A flow that runs the plan up to a stage; all of them have the same parameters, in the UI's
    form too.
    """

    def chain(
        recipe: Recipe = "digits",
        scale: Scale = "auto",
        data: list[str] = [],  # noqa: B006
        overrides: list[Override] = [],  # noqa: B006
        refresh: list[Stage] = [],  # noqa: B006
        only: StageOrAll = "all",
        max_seconds: Annotated[float, Field(ge=0)] = 0,
        device: Device = "auto",
        rehash: bool = False,
        runner: Runner = "threads",
        runner_place: Place = "",
        recipe_file: str = "",
        home: str = "",
    ) -> dict[str, Any]:
        request = RunRequest(
            recipe=recipe_file or recipe,
            overrides=overrides,
            scale=None if scale == "auto" else scale,
            data=data,
            refresh=refresh,
            until=until,
            only=None if only == "all" else only,
            device=device,
            max_seconds=max_seconds or None,
            rehash=rehash,
            runner=_placed(runner, runner_place),
            home=resolve_home(home),
        )
        return run_plan(request.model_copy(update={"command": typed.get() or as_typed(request)}))

    chain.__name__ = name
    chain.__doc__ = about + _PARAMETERS
    return flow(
        name=name, flow_run_name=_run_name, persist_result=False, on_crashed=[close_task_runs]
    )(chain)


def parameters_of(request: RunRequest) -> dict[str, Any]:
    """A request as the parameters of the chain's flows."""
    given = request.model_dump(exclude={"until", "command"})
    kind, _, place = request.runner.partition(":")
    given |= {"runner": kind, "runner_place": place}
    return {
        **given,
        "scale": request.scale or "auto",
        "only": request.only or "all",
        "max_seconds": request.max_seconds or 0,
    }


def _placed(runner: str, place: str) -> str:
    """The form's two fields as the word of the command line: dask and 4 are dask:4."""
    return f"{runner}:{place}" if place else runner


_SHARED = f"""
        recipe: The recipe to run; one of your own goes into recipe_file.
        scale: How large a run: auto is full where there is a GPU, else small where the recipe has it. {LACKING}.
        data: Where the data lies on the worker's machine: one PATH, or NAME=PATH for each source.
        overrides: Settings to change, each as section.key=value, such as train.kimg=20.
"""

_SECONDS = (
    "max_seconds: Training ends cleanly after so many seconds, and the next run continues "
    "it; 0 is no limit."
)

_REST = """
        device: Where to compute: auto takes the GPU if there is one.
        runner: What makes the shares of crop and extract: threads of one process, or processes of dask or ray.
        runner_place: For dask and ray: how many processes, or a cluster's address (tcp://HOST:8786); empty is one for each core.
        recipe_file: Path of a YAML file on the worker's machine, instead of a recipe from the list.
        home: The store, if not the deployment's own (DISCERN_HOME).
"""

_PARAMETERS = f"""

    Args:{_SHARED.rstrip()}
        refresh: Stages to make again although the store has them.
        only: One stage alone, from inputs that the store has; all is the whole chain.
        {_SECONDS}
        rehash: Read every file again instead of trusting its size and time of change.{_REST.rstrip()}
"""

prepare: Chain = _chain(
    "prepare", "pack", "Images in, training set out: ingest, crop, hash, dedup, pack."
)
train: Chain = _chain("train", "train", "The chain up to a trained GAN.")
extract: Chain = _chain("extract", "extract", "The chain up to features in Parquet.")
evaluate: Chain = _chain(
    "evaluate", "evaluate", "The chain up to the scores of the features and their baselines."
)
inspect: Chain = _chain(
    "inspect", "inspect", "The chain up to figures drawn from the trained generator."
)
represent: Chain = _chain(
    "represent", "report", "The whole chain: images in; features, scores and a report out."
)


def _stage(
    stage: Stage = "report",
    recipe: Recipe = "digits",
    scale: Scale = "auto",
    data: list[str] = [],  # noqa: B006
    overrides: list[Override] = [],  # noqa: B006
    refresh: bool = True,
    max_seconds: Annotated[float, Field(ge=0)] = 0,
    device: Device = "auto",
    runner: Runner = "threads",
    runner_place: Place = "",
    recipe_file: str = "",
    home: str = "",
) -> dict[str, Any]:
    request = RunRequest(
        recipe=recipe_file or recipe,
        overrides=overrides,
        scale=None if scale == "auto" else scale,
        data=data,
        refresh=[stage] if refresh else [],
        only=stage,
        device=device,
        max_seconds=max_seconds or None,
        runner=_placed(runner, runner_place),
        home=resolve_home(home),
    )
    return run_plan(request.model_copy(update={"command": typed.get() or as_typed(request)}))


_stage.__name__ = "stage"
_stage.__doc__ = f"""One stage alone, from inputs that are in the store; refuses, naming them, when they are missing.

    Args:
        stage: The stage to make.{_SHARED.rstrip()}
        refresh: Make it although the store has it.
        {_SECONDS}{_REST.rstrip()}
"""
stage: Chain = flow(
    name="stage", flow_run_name=_run_name, persist_result=False, on_crashed=[close_task_runs]
)(_stage)


ALL: dict[str, Chain] = {
    chain.name: chain for chain in (prepare, train, extract, evaluate, inspect, represent)
}
