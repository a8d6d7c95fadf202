"""What a worker does for a flow run whose process is gone."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Crashed


def close_task_runs(flow: Any, flow_run: FlowRun, state: State) -> None:
    """Marks the task runs of a crashed run as crashed: Prefect leaves them Running for ever when the process was killed."""
    with get_client(sync_client=True) as client:
        for run in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))):
            if run.state is None or not run.state.is_final():
                crashed: State[Any] = Crashed(message=f"The flow run crashed: {state.message or 'its process has gone'}")
                client.set_task_run_state(run.id, crashed, force=True)
