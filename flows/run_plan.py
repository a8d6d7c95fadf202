"""How a flow runs a plan: one stage task after another, each given the states of the tasks it
stands on.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

import tasks
from flows.accuracy import tell_if_it_fell
from flows.home import open_store
from flows.hooks import close_dead_runs, close_left_over
from flows.runners import parse_runner
from gan_core.artifacts.store import Store
from gan_core.errors import DataError, DiscernError, TrainingDiverged
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.preflight import refuse_before_starting
from gan_core.pipeline.request import Prepared, RunRequest, prepare, replan
from gan_core.pipeline.run_record import Run, versions
from gan_core.pipeline.runner import StageResult, take
from tasks.base import StageCall
from tasks.fetch import fetch_source
from tasks.shares import spreading

log = logging.getLogger("gan_core.pipeline.run_record")

_MOST_INGESTS = 3
_TO_THE_SET = {"ingest", "crop", "hash", "dedup", "pack"}


def run_plan(request: RunRequest) -> dict[str, Any]:
    """The body of every flow: plans, runs what is wanted in order, and records the run.

    Returns: the run's record (`run.json`).
    Raises:
        DiscernError: the first failure; the run's folder says which node and why.
    """
    runner = parse_runner(request.runner)
    core = logging.getLogger("gan_core")
    core.setLevel(
        core.level or logging.INFO
    )  # in a worker nobody else has; its lines go to the run's page
    store = open_store(request.home)
    if flow_run.id:
        from flows import represent

        close_dead_runs(store.home)
        close_left_over([*represent.ALL, represent.stage.name])
    prepared = prepare(request, store)
    for name in prepared.to_fetch:
        source = next(source for source in prepared.recipe.all_sources() if source.name == name)
        fetch_source(source, str(prepared.locations[name].path))
    if prepared.to_fetch:
        prepared = prepare(request, store)
    refuse_before_starting(prepared)
    run = Run(store, prepared, flow_run=flow_run.id, attempt=flow_run.run_count or 1)
    if flow_run.run_count > 1:
        run.follows_up()
    states: dict[str, State[StageResult] | StageResult] = {}
    try:
        if request.only:
            _take_inputs(store, prepared, run, states)
        with spreading(*runner):
            _walk(store, prepared, run, states)
            if _labels_were_unknown(prepared):
                prepared = _plan_again(store, request, run, states)
                _walk(store, prepared, run, states)
            if prepared.undecided:
                prepared = _decide(store, prepared, run)
                _walk(store, prepared, run, states)
    except BaseException as error:
        if isinstance(error, TrainingDiverged):
            _report_divergence(run, error)
        told = (
            error.explain()
            if isinstance(error, DiscernError)
            else f"{type(error).__name__}: {error}".rstrip(": ")
        )
        with contextlib.suppress(
            OSError
        ):  # on a full disk the record cannot be written either; the first error counts
            run.finish("failed", told)
        raise
    paused = any(result.paused for result in run.results.values())
    record = run.finish("paused" if paused else "completed")
    tell_if_it_fell(run)
    return record


def _report_divergence(run: Run, error: TrainingDiverged) -> None:
    """The report of a run that ends here, as a page and in short in the UI; a page that cannot be
    made must not hide the error.
    """
    try:
        path = run.report_divergence(error)
        text = (
            f"# The training diverged\n\n{error.message}\n\nWhat led to it, with samples and "
            f"curves, is one file: `{path}`"
        )
        create_markdown_artifact(
            key="report", markdown=text, description="The report of this run, in short"
        )
    except Exception as other:
        log.warning("The report of the diverged training could not be written: %s", other)


def _plan_again(
    store: Store, request: RunRequest, run: Run, states: dict[str, State[StageResult] | StageResult]
) -> Prepared:
    """The plan once its sources are ingested. A folder that changed meanwhile is ingested again, a
    few times.

    Raises:
        DataError: the folder keeps changing.
    """
    rest = [stage for stage in request.refresh if stage != "ingest"]
    again = request.model_copy(update={"refresh": rest, "rehash": False})
    for _ in range(_MOST_INGESTS):
        prepared = prepare(again, store)
        run.planned(prepared)
        if not _labels_were_unknown(prepared):
            refuse_before_starting(prepared)
            return prepared
        for name in [name for name in states if name.startswith("ingest:")]:
            del states[name]
        _walk(store, prepared, run, states)
    raise DataError(
        f"The data of recipe {prepared.recipe.name} changed while it was read, {_MOST_INGESTS} "
        "times over.",
        expected="files that stay as they are for the time of a look",
        remedy="run the same command again once copying has ended",
    )


def _decide(store: Store, prepared: Prepared, run: Run) -> Prepared:
    """The plan once the training set is packed: how much of it is new, and which training is used,
    can be said now.
    """
    made = frozenset(result.ref.stage for result in run.results.values() if result.ref)
    prepared = replan(prepared, store, made)
    for note in prepared.notes:
        log.info("%s", note)
    run.planned(prepared)
    return prepared


def _labels_were_unknown(prepared: Prepared) -> bool:
    return any(
        standing.node.stage == "ingest" and standing.state != "cached"
        for standing in prepared.standings.values()
    )


def _take_inputs(
    store: Store, prepared: Prepared, run: Run, states: dict[str, State[StageResult] | StageResult]
) -> None:
    """For one stage alone: its inputs are taken from the store as they are, without tasks of their
    own.
    """
    for name, standing in prepared.standings.items():
        if standing.node.stage != prepared.request.only and standing.manifest:
            result = take(store, replace(standing.node, pinned=standing.ref))
            states[name] = result
            run.add(result)


def _walk(
    store: Store, prepared: Prepared, run: Run, states: dict[str, State[StageResult] | StageResult]
) -> None:
    """Runs the plan's nodes that have no state yet; what stands on a paused node waits for another
    run.

    When a source has not been ingested before, only the ingest nodes are run: whether it has labels
    decides the rest. When it has to be decided what a grown training set does to training, only
    what leads to that set.
    """
    wanted = (
        {"ingest"}
        if _labels_were_unknown(prepared)
        else _TO_THE_SET
        if prepared.undecided
        else set(tasks.ALL)
    )
    for node in prepared.nodes:
        if node.id in states or node.stage not in wanted:
            continue
        needed = [name for ids in node.inputs.values() for name in ids]
        if any(name not in states or run.results[name].ref is None for name in needed):
            continue
        if node.stage == "report":
            node = _with_run(node, prepared, run)
        wanted_anew = node.stage in prepared.settings.refresh or (
            prepared.settings.rehash and node.stage == "ingest"
        )
        if node.pinned is None:
            run.begins(node, {name: ref for name in needed if (ref := run.results[name].ref)})
        call = StageCall(
            home=store.address,
            local=str(store.home),
            node=node,
            who=f"run {run.name}",
            refresh=wanted_anew and node.id not in run.made_before,
        )
        state = tasks.ALL[node.stage](
            call, {name: states[name] for name in dict.fromkeys(needed)}, return_state=True
        )
        result = state.result()
        states[node.id] = state
        run.add(result)


def _with_run(node: Node, prepared: Prepared, run: Run) -> Node:
    """The report's node, told what happened in this run (outside its key)."""
    told = {
        "artifacts": run.artifacts(),
        "versions": versions(),
        "run": run.name,
        "command": prepared.request.command,
    }
    return replace(node, context={**node.context, **told, "notes": prepared.notes})
