"""The flows: the whole chain and its beginnings, each the same plan up to another stage."""

from __future__ import annotations

from typing import Any

from prefect import Flow, flow

from flows.composition import run_plan
from flows.home import resolve_home
from gan_core.runs import RunRequest

Chain = Flow[..., dict[str, Any]]


def _run_name() -> str:
    from prefect.runtime import flow_run

    return f"{flow_run.parameters.get('recipe', 'recipe')} {flow_run.flow_name} {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}"


def _chain(name: str, until: str, about: str) -> Chain:
    """A flow that runs the plan up to a stage; all of them have the same parameters, in the UI's form too."""

    def chain(
        recipe: str = "digits",
        overrides: list[str] | None = None,
        scale: str | None = None,
        data: list[str] | None = None,
        refresh: list[str] | None = None,
        only: str | None = None,
        device: str = "auto",
        max_seconds: float | None = None,
        rehash: bool = False,
        runner: str = "threads",
        home: str | None = None,
        command: str = "",
    ) -> dict[str, Any]:
        return run_plan(
            RunRequest(
                recipe=recipe,
                overrides=overrides or [],
                scale=scale,
                data=data or [],
                refresh=refresh or [],
                until=until,
                only=only,
                device=device,
                max_seconds=max_seconds,
                rehash=rehash,
                runner=runner,
                home=resolve_home(home),
                command=command,
            )
        )

    chain.__name__ = name
    chain.__doc__ = about + _PARAMETERS
    return flow(name=name, flow_run_name=_run_name, persist_result=False)(chain)


_PARAMETERS = """

    Args:
        recipe: Name of a recipe, or path of a YAML file.
        overrides: Settings to change, each as section.key=value.
        scale: debug, small or full. Empty: full with a GPU, else small where the recipe has it.
        data: Where the data lies: PATH, or NAME=PATH for each source.
        refresh: Stages to make again although they are there.
        only: Run this stage alone, from inputs that are there.
        device: auto, cpu or cuda.
        max_seconds: Training ends cleanly after so many seconds; the next run continues.
        rehash: Read every file again instead of trusting its size and time of change.
        runner: threads, dask or ray (dask:4 with four processes, dask:ADDRESS on a cluster that is there).
        home: The store. Empty: DISCERN_HOME, or data/ of the checkout.
        command: What was typed, for the report.
"""

prepare: Chain = _chain("prepare", "pack", "Images in, training set out: ingest, crop, hash, dedup, pack.")
train: Chain = _chain("train", "train", "The chain up to a trained GAN.")
extract: Chain = _chain("extract", "extract", "The chain up to features in Parquet.")
evaluate: Chain = _chain("evaluate", "evaluate", "The chain up to the scores of the features and their controls.")
inspect: Chain = _chain("inspect", "inspect", "The chain up to figures drawn from the trained generator.")
represent: Chain = _chain("represent", "report", "The whole chain: images in; features, scores and a report out.")


@flow(name="stage", flow_run_name=_run_name, persist_result=False)
def stage(
    stage: str,
    recipe: str = "digits",
    overrides: list[str] | None = None,
    scale: str | None = None,
    data: list[str] | None = None,
    refresh: bool = False,
    device: str = "auto",
    home: str | None = None,
) -> dict[str, Any]:
    """One stage alone, from inputs that are in the store; refuses, naming them, when they are missing.

    Args:
        stage: ingest, crop, hash, dedup, pack, train, inspect, extract, evaluate or report.
        recipe: Name of a recipe, or path of a YAML file.
        overrides: Settings to change, each as section.key=value.
        scale: debug, small or full. Empty: full with a GPU, else small where the recipe has it.
        data: Where the data lies: PATH, or NAME=PATH for each source.
        refresh: Make it again although it is there.
        device: auto, cpu or cuda.
        home: The store. Empty: DISCERN_HOME, or data/ of the checkout.
    """
    return run_plan(
        RunRequest(
            recipe=recipe,
            overrides=overrides or [],
            scale=scale,
            data=data or [],
            refresh=[stage] if refresh else [],
            only=stage,
            device=device,
            home=resolve_home(home),
        )
    )


ALL: dict[str, Chain] = {chain.name: chain for chain in (prepare, train, extract, evaluate, inspect, represent)}
