"""`discern gc` prunes Prefect's records of the runs that go, and of no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
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

print(json.dumps([tiny() for _ in range(3)]))
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
        tasks = len(client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(name)]))))
        found[name] = [there, artifacts, tasks]
print(json.dumps(found))
"""


def python(code: str, server: dict[str, str], *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env={**os.environ, **server}, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_flow_runs_artifacts_and_task_runs_go_with_their_runs(
    tmp_path: Path, server: dict[str, str], answer: Callable[..., Any]
) -> None:
    names = python(RUNS, server)
    home = tmp_path / "home"
    for minute, name in enumerate(names):
        folder = home / "runs" / f"digits-{minute}"
        folder.mkdir(parents=True)
        started = f"2026-11-24T10:0{minute}:00+00:00"
        record = {"recipe": "digits", "state": "completed", "started": started, "nodes": [], "flow_run": name}
        (folder / "run.json").write_text(json.dumps(record))
    told = answer(home, "gc", "--keep", "1", "--dry-run", "--json")
    assert told["prefect"]["flow_runs"] == 2 and len(told["removed"]) == 2
    assert all(there for there, _, _ in python(READ, server, *names).values()), "a dry run deletes nothing"
    assert answer(home, "gc", "--keep", "1", "--json")["prefect"]["flow_runs"] == 2
    left = python(READ, server, *names)
    assert left[names[0]] == left[names[1]] == [False, 0, 0]
    assert left[names[2]] == [True, 1, 1]
    assert answer(home, "gc", "--keep", "1", "--json")["removed"] == []
