"""`discern gc` prunes Prefect's records of the runs that go, and of no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RUNS = """
import json
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

@task
def piece():
    create_table_artifact(key="counts", table=[{"what": "in", "count": 1}])
    get_run_logger().warning("a line of the log")

@flow
def tiny():
    piece()
    return str(flow_run.id)

@flow
def waiting():
    pass

def cancelled():
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled, Scheduled
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(waiting, state=Scheduled())
        client.set_flow_run_state(run.id, Cancelled(), force=True)
        return str(run.id)

print(json.dumps([*[tiny() for _ in range(3)], cancelled()]))
"""
READ = """
import json, sys
from uuid import UUID
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import *
from prefect.exceptions import ObjectNotFound

found = {}
with get_client(sync_client=True) as client:
    for name in sys.argv[1:]:
        try:
            client.read_flow_run(UUID(name))
            there = True
        except ObjectNotFound:
            there = False
        only = ArtifactFilterFlowRunId(any_=[UUID(name)])
        artifacts = len(client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=only)))
        run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(name)]))
        tasks = len(client.read_task_runs(flow_run_filter=run))
        logs = len(client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(name)]))))
        found[name] = [there, artifacts, tasks, logs > 0]
print(json.dumps(found))
"""


def python(code: str, server: dict[str, str], *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **server},
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def record(home: Path, name: str, started: str, flow_run: str) -> None:
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    message = {
        "recipe": "digits",
        "state": "completed",
        "started": started,
        "nodes": [],
        "flow_run": flow_run,
    }
    (folder / "run.json").write_text(json.dumps(message))


def test_flow_runs_go_with_their_runs(
    tmp_path: Path, own_server: dict[str, str], answer: Callable[..., Any]
) -> None:
    *names, cancelled = python(RUNS, own_server)
    home = tmp_path / "home"
    for minute, name in enumerate(names):
        record(home, f"digits-{minute}", f"2026-11-24T10:0{minute}:00+00:00", name)
    message = answer(home, "gc", "--keep", "1", "--dry-run", "--json", **own_server)
    assert message["prefect"]["flow_runs"] == 2 and len(message["removed"]) == 2
    done = answer(home, "gc", "--keep", "1", "--json", **own_server)
    assert done["prefect"]["flow_runs"] == 2, "the dry run deleted none"
    left = python(READ, own_server, *names, cancelled)
    assert left[names[0]] == left[names[1]] == [False, 0, 0, False], (
        "artifacts, task runs and logs went, too"
    )
    assert left[names[2]] == [True, 1, 1, True]
    assert left[cancelled][0], "another server may serve others: what is not known here stays"
    # A home whose own server this is, in a shell that has read worker.env: also what ended before,
    # and never became a run.
    own = tmp_path / "own"
    shutil.copytree(
        Path(own_server["PREFECT_HOME"]),
        own / "prefect",
        ignore=shutil.ignore_patterns("*.db*", "*.lock", "storage"),
    )
    record(own, "digits-1", datetime.now(UTC).isoformat(), names[2])
    result = answer(own, "gc", "--keep", "1", "--json", **own_server)
    assert result["removed"] == [] and result["prefect"]["flow_runs"] >= 1
    left = python(READ, own_server, names[2], cancelled)
    assert left[cancelled] == [False, 0, 0, False] and left[names[2]] == [True, 1, 1, True]
