"""Runs and task runs that Prefect leaves Running for ever, because the process that would have
ended them is gone.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from gan_core.pipeline.run_record import DIED, dead_runs, record_death

log = logging.getLogger("gan_core.hooks")


def close_task_runs(flow: Any, flow_run: FlowRun, state: State) -> None:
    """Marks the task runs of a crashed run as crashed. The worker does it when the run's process
    was killed.
    """
    with get_client(sync_client=True) as client:
        for run in client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
        ):
            if run.state is None or not run.state.is_final():
                _close(client, run, state.message or "its process has gone")


def close_leftover_task_runs(flows: list[str]) -> int:
    """The same for earlier runs of these flows that an automation has marked, since no worker was
    left to do it; returns how many.

    Each run begins with this. It never ends one: what is left over is only untidy.
    """
    crashed = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED]))
    )
    unfinished = [StateType.RUNNING, StateType.PENDING]
    going_on = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=unfinished)))
    try:
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=flows)),
                flow_run_filter=crashed,
                task_run_filter=going_on,
            )
            for run in found:
                _close(client, run, "its process has gone")
        return len(found)
    except Exception as error:
        log.warning("Task runs that others left over could not be closed: %s", error)
        return 0


def close_dead_runs(home: Path) -> int:
    """Marks runs of this home as crashed whose process is gone, on the server and in the home;
    returns how many.

    `discern run` has no worker that would see it die, and without `discern setup` there is no
    automation either. A run that is being tried again, on whatever machine, is left alone. Each run
    begins with this, and it never ends one.
    """
    count = 0
    for folder, record in dead_runs(home):
        try:
            if record.get("flow_run"):
                with get_client(sync_client=True) as client:
                    _close_run(client, UUID(record["flow_run"]), int(record.get("attempt", 1)))
            record_death(folder, record)
            count += 1
        except Exception as error:
            log.warning(
                "Run %s, whose process is gone, could not be closed: %s", folder.name, error
            )
    return count


def _close_run(client: Any, name: UUID, attempt: int) -> None:
    try:
        run = client.read_flow_run(name)
    except ObjectNotFound:
        return  # of another server, or pruned
    if run.state is not None and run.state.is_running() and run.run_count == attempt:
        crashed: State[Any] = Crashed(message=DIED)
        client.set_flow_run_state(name, crashed, force=True)
        close_task_runs(None, run, crashed)


def _close(client: Any, run: TaskRun, why: str) -> None:
    crashed: State[Any] = Crashed(message=f"The flow run crashed: {why}")
    client.set_task_run_state(run.id, crashed, force=True)
