"""The flows: the chain of all stages, its beginnings under names of their own, and one stage alone.

`chain` is the data flow. Which nodes a stage has, with which settings and keys, is the plan's
(gan_core/pipeline); the same plan makes the dry run and `discern status`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

from prefect import Flow, flow
from prefect.runtime import flow_run
from pydantic import Field

import tasks
from flows.home import resolve_home
from flows.hooks import close_task_runs
from flows.run_plan import FlowRun, flow_run_of
from flows.runners import KINDS
from gan_core import config
from gan_core.pipeline.request import RunRequest, as_typed
from gan_core.recipes import read_recipe_file, recipe_names
from gan_core.specs import STAGES

# The command that was typed, for the report; a run that was scheduled or started from a form names
# the command that does the same.
typed: ContextVar[str] = ContextVar("typed", default="")


def chain(run: FlowRun) -> None:
    """Images in; features, scores and a report out. A call names what its stage reads.

    A stage's nodes start once their inputs are there and the machine has room for them. So the
    baselines are extracted and scored while the GAN trains.
    """
    images = run(tasks.ingest)
    while run.sources_changed():
        images = run(tasks.ingest)
    crops = run(tasks.crop, images)
    codes = run(tasks.hash_crops, crops)
    duplicates = run(tasks.dedup, codes, crops)
    packed = run(tasks.pack, crops, duplicates)
    if run.training_set_decides():
        packed = run(tasks.pack, crops, duplicates)
    snapshot = run(tasks.train, packed)
    features = run(tasks.extract, crops, duplicates, packed, snapshot)
    scores = run(tasks.evaluate, features, duplicates)
    figures = run(tasks.inspect, snapshot, packed, crops, features)
    made = (images, crops, codes, duplicates, packed, snapshot, features, scores, figures)
    run.finish()
    run(tasks.report, *made)


RECIPES = tuple(recipe_names())
_SCALES = {str(scale) for name in RECIPES for scale in read_recipe_file(name).get("scales") or {}}
SCALES = ("auto", "debug", "small", "full", *sorted(_SCALES - {"debug", "small", "full"}))
# What an override looks like; which keys a section has is checked when the run begins, where the
# nearest one can be named.
SETTING = rf"^({'|'.join(sorted(config.Recipe.model_fields))})(\.[^=\s]+)?\s*="


def _choice(*names: str) -> Any:
    """A list to choose from in the UI's form, which the server also checks.

    Python callers may give others (a recipe of their own): `gan_core` checks them and names the
    nearest match, which a Literal would not.
    """
    return Field(json_schema_extra={"enum": list(names)})


Recipe = Annotated[str, _choice(*RECIPES)]
Scale = Annotated[str, _choice(*SCALES)]
Stage = Annotated[str, _choice(*STAGES)]
StageOrAll = Annotated[str, _choice("all", *STAGES)]
StageOrOwn = Annotated[str, _choice("auto", *STAGES)]
Device = Annotated[str, _choice("auto", "cpu", "cuda")]
Runner = Annotated[str, _choice(*KINDS)]
Place = Annotated[str, Field(json_schema_extra={"pattern": r"^([1-9]\d*|[a-z]+://\S+|auto)?$"})]
Override = Annotated[str, Field(json_schema_extra={"pattern": SETTING})]
Seconds = Annotated[float, Field(ge=0)]

# Flow to the last stage of its chain; and what it makes.
_UNTIL = {
    "represent": ("report", "The whole chain: images in; features, scores and a report out."),
    "prepare": ("pack", "Images in, training set out: ingest, crop, hash, dedup, pack."),
    "train": ("train", "The chain up to a trained GAN."),
    "extract": ("extract", "The chain up to features in Parquet."),
    "evaluate": ("evaluate", "The chain up to the scores of the features and their baselines."),
    "inspect": ("inspect", "The chain up to figures drawn from the trained networks."),
}


def _run_name() -> str:
    given = flow_run.parameters
    recipe = Path(str(given.get("recipe_file") or given.get("recipe", "recipe"))).stem
    only = given.get("stage") or given.get("only", "all")
    what = flow_run.flow_name if only == "all" else f"{only} alone"
    return f"{recipe} {what} {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"


@flow(flow_run_name=_run_name, persist_result=False, on_crashed=[close_task_runs])
def represent(
    recipe: Recipe = "digits",
    scale: Scale = "auto",
    data: list[str] = [],  # noqa: B006
    overrides: list[Override] = [],  # noqa: B006
    refresh: list[Stage] = [],  # noqa: B006
    until: StageOrOwn = "auto",
    only: StageOrAll = "all",
    max_seconds: Seconds = 0,
    device: Device = "auto",
    rehash: bool = False,
    runner: Runner = "threads",
    runner_place: Place = "",
    recipe_file: str = "",
    home: str = "",
) -> dict[str, Any]:
    """The chain up to the last stage of this flow.

    Args:
        recipe: The recipe to run; one of your own goes into recipe_file.
        scale: How large a run: auto is full where there is a GPU, else small where the
            recipe has it.
        data: Where the data lies on the worker's machine: one PATH, or NAME=PATH for each source.
        overrides: Settings to change, each as section.key=value, such as train.kimg=20.
        refresh: Stages to run again even if cached.
        until: The last stage to run; auto is the one that this flow is named after.
        only: One stage alone, on inputs in the store; all is the whole chain.
        max_seconds: End training cleanly after this many seconds; the next run continues it;
            0 is no limit.
        device: Where to compute: auto uses the GPU if there is one.
        rehash: Read every file again instead of trusting its size and modification time.
        runner: Where crop and extract are divided: threads of one process, or processes of dask
            or ray.
        runner_place: For dask and ray: how many processes, or a cluster's address
            (tcp://HOST:8786); empty is one for each core.
        recipe_file: Path of a YAML file on the worker's machine, instead of a recipe from
            the list.
        home: The store, if not the deployment's own (DISCERN_HOME).
    """
    name = flow_run.flow_name or "represent"
    request = RunRequest(
        recipe=recipe_file or recipe,
        overrides=overrides,
        scale=None if scale == "auto" else scale,
        data=data,
        refresh=refresh,
        until=_UNTIL.get(name, _UNTIL["represent"])[0] if until == "auto" else until,
        only=None if only == "all" else only,
        device=device,
        max_seconds=max_seconds or None,
        rehash=rehash,
        runner=f"{runner}:{runner_place}" if runner_place else runner,
        home=resolve_home(home),
    )
    return run(request)


@flow(flow_run_name=_run_name, persist_result=False, on_crashed=[close_task_runs])
def stage(
    stage: Stage = "report",
    recipe: Recipe = "digits",
    scale: Scale = "auto",
    data: list[str] = [],  # noqa: B006
    overrides: list[Override] = [],  # noqa: B006
    refresh: bool = True,
    max_seconds: Seconds = 0,
    device: Device = "auto",
    runner: Runner = "threads",
    runner_place: Place = "",
    recipe_file: str = "",
    home: str = "",
) -> dict[str, Any]:
    """One stage alone, on inputs in the store; an error names missing ones.

    Args:
        stage: The stage to run.
        recipe: The recipe to run; one of your own goes into recipe_file.
        scale: How large a run: auto is full where there is a GPU, else small where the
            recipe has it.
        data: Where the data lies on the worker's machine: one PATH, or NAME=PATH for each source.
        overrides: Settings to change, each as section.key=value, such as train.kimg=20.
        refresh: Run it even if cached.
        max_seconds: End training cleanly after this many seconds; the next run continues it;
            0 is no limit.
        device: Where to compute: auto uses the GPU if there is one.
        runner: Where crop and extract are divided: threads of one process, or processes of dask
            or ray.
        runner_place: For dask and ray: how many processes, or a cluster's address
            (tcp://HOST:8786); empty is one for each core.
        recipe_file: Path of a YAML file on the worker's machine, instead of a recipe from
            the list.
        home: The store, if not the deployment's own (DISCERN_HOME).
    """
    return represent.fn(
        recipe=recipe,
        scale=scale,
        data=data,
        overrides=overrides,
        refresh=[stage] if refresh else [],
        only=stage,
        max_seconds=max_seconds,
        device=device,
        runner=runner,
        runner_place=runner_place,
        recipe_file=recipe_file,
        home=home,
    )


def run(request: RunRequest) -> dict[str, Any]:
    """Runs a request; returns its record (`run.json`)."""
    command = typed.get() or as_typed(request)
    with flow_run_of(request.model_copy(update={"command": command})) as running:
        chain(running)
    return running.record


def parameters_of(request: RunRequest) -> dict[str, Any]:
    """A request as the parameters of the chain's flows."""
    given = request.model_dump(exclude={"command", "verify"})
    kind, _, place = request.runner.partition(":")
    return {
        **given,
        "runner": kind,
        "runner_place": place,
        "scale": request.scale or "auto",
        "only": request.only or "all",
        "max_seconds": request.max_seconds or 0,
    }


prepare = represent.with_options(name="prepare", description=_UNTIL["prepare"][1])
train = represent.with_options(name="train", description=_UNTIL["train"][1])
extract = represent.with_options(name="extract", description=_UNTIL["extract"][1])
evaluate = represent.with_options(name="evaluate", description=_UNTIL["evaluate"][1])
inspect = represent.with_options(name="inspect", description=_UNTIL["inspect"][1])

ALL: Mapping[str, Flow[..., dict[str, Any]]] = {
    one.name: one for one in (represent, prepare, train, extract, evaluate, inspect)
}
