"""What Prefect sees: retries of what may pass, none of what stays wrong, names, states, and the
lines between tasks.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines import operating
from tests.pipelines.conftest import DIGITS

Ask = Callable[..., dict[str, Any]]


class Api:
    """A few questions to the session's Prefect server."""

    def __init__(self, server: dict[str, str]) -> None:
        self.url = server["PREFECT_API_URL"]
        self.credentials = base64.b64encode(server["PREFECT_API_AUTH_STRING"].encode()).decode()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Basic {self.credentials}", "Content-Type": "application/json"}
        if body is not None:
            headers.update(self._token())
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def _token(self) -> dict[str, str]:
        given = self.ask("/csrf-token?client=tests")
        return {"Prefect-Csrf-Token": given["token"], "Prefect-Csrf-Client": "tests"}

    def task_runs(self, flow_run: str, expected: int) -> dict[str, dict[str, Any]]:
        """Name to task run; they arrive some seconds after the flow has ended."""
        deadline = time.monotonic() + 300
        while True:
            body = {"flow_runs": {"id": {"any_": [flow_run]}}}
            found = {run["name"]: run for run in self.ask("/task_runs/filter", body)}
            settled = [
                run
                for run in found.values()
                if (run["state"] or {}).get("type") in ("COMPLETED", "FAILED", "CRASHED")
            ]
            if len(settled) >= expected or time.monotonic() > deadline:
                return found
            time.sleep(1)

    def latest(self, flow: str) -> dict[str, Any]:
        # Runs that a schedule has made for later would come first: they have no start, and are
        # sorted by the one expected.
        begun = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
        body = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": begun,
            "sort": "START_TIME_DESC",
            "limit": 1,
        }
        (run,) = self.ask("/flow_runs/filter", body)
        return dict(run)


@pytest.fixture
def api(server: dict[str, str]) -> Api:
    return Api(server)


def flaky_recipe(folder: Path, failures: int, kind: str) -> Path:
    path = folder / "flaky.yaml"
    options = {"counter": str(folder / "counter"), "failures": failures, "kind": kind}
    source = {"name": "flaky", "dataset": "tests.pipelines.flaky_digits", "options": options}
    path.write_text(
        json.dumps({"name": "flaky", "about": "fails on purpose", "sources": {"train": [source]}})
    )
    return path


def test_what_may_pass_is_tried_again(tmp_path: Path, answer: Ask, api: Api) -> None:
    recipe = flaky_recipe(tmp_path, failures=2, kind="transient")
    said = answer(tmp_path / "home", "run", str(recipe), "--only", "ingest", "--json")
    assert said["computed"] == ["ingest:flaky"]
    run = api.task_runs(api.latest("represent")["id"], expected=1)["ingest:flaky"]
    assert run["run_count"] == 3 and run["state"]["type"] == "COMPLETED"
    assert (tmp_path / "counter").read_text() == "3"


def test_what_stays_wrong_is_not(tmp_path: Path, answer: Ask, api: Api) -> None:
    recipe = flaky_recipe(tmp_path, failures=9, kind="data")
    said = answer(tmp_path / "home", "run", str(recipe), "--only", "ingest", "--json", code=1)
    assert said["error"] == "the file is wrong and stays wrong" and said["remedy"] == "another file"
    run = api.task_runs(api.latest("represent")["id"], expected=1)["ingest:flaky"]
    assert run["run_count"] == 1 and run["state"]["type"] == "FAILED"
    assert api.latest("represent")["state"]["type"] == "FAILED"


def test_states_names_and_lineage(home: Path, answer: Ask, api: Api) -> None:
    answer(home, *DIGITS, "--set", "report.title=Another title")
    run = api.latest("represent")
    assert run["name"].startswith("digits represent") and run["parameters"]["recipe"] == "digits"
    answer(home, *DIGITS, "--set", "evaluate.probes.linear_svm.grid=[1e-3, 1e-2]")
    run = api.latest("represent")
    tasks = api.task_runs(run["id"], expected=18)
    assert tasks["train"]["state"]["name"] == "Cached"
    assert tasks["evaluate:digits:pixels:linear_svm"]["state"]["name"] == "Completed"
    graph = api.ask(f"/flow_runs/{run['id']}/graph-v2")
    nodes = {node["label"]: node for _, node in graph["nodes"]}
    parents = {parent["id"] for parent in nodes["pack"]["parents"]}
    assert nodes["dedup"]["id"] in parents and nodes["crop:digits"]["id"] in parents
    keys = {artifact["key"] for artifact in nodes["train"]["artifacts"]}
    assert "training" in keys, "a cached stage shows its figures in the new run, too"


def test_a_training_shows_itself_while_it_goes_on(
    home: Path, answer: Ask, server: dict[str, str]
) -> None:
    """Progress, curve and samples so far, the lines of its child process; and it tidies up what a
    dead run has left Running.
    """
    operator = operating.Api(server)
    flow = operator.ask("/flows/", {"name": "represent"})["id"]
    dead = operator.ask("/flow_runs/", {"flow_id": flow, "state": {"type": "CRASHED"}})["id"]
    left = {
        "flow_run_id": dead,
        "task_key": "train",
        "dynamic_key": "0",
        "state": {"type": "RUNNING"},
    }
    orphan = operator.ask("/task_runs/", left)["id"]
    longer = ("--set", "train.kimg=400", "--set", "train.log_kimg=0.1", "--max-seconds", "8")
    said = answer(home, "train", "digits", "--scale", "debug", "--json", *longer)
    assert said["state"] == "paused"
    run = said["flow_run"]
    assert operator.tasks(run, 6)["train"]["state_name"] == "Paused"
    shown = operator.artifacts(run)
    assert shown["progress-train"]["data"] > 0 and "kimg" in shown["progress-train"]["description"]
    assert (
        "data:image/svg+xml" in shown["training"]["data"]
        and len(shown["training"]["data"]) < 150_000
    )
    lines = operator.until(
        lambda: operator.logs(run),
        lambda lines: any("Training continues from" in line for line in lines),
    )
    assert any(line.startswith("gan_core.pipeline.child_process train: ") for line in lines)
    assert operator.ask(f"/task_runs/{orphan}")["state_type"] == "CRASHED"


def test_the_benchmark_of_orchestration_runs() -> None:
    """Names that have moved would end it where somebody wants to choose a database."""
    command = [
        sys.executable,
        "benchmarks/orchestration.py",
        "--runs",
        "1",
        "--tasks",
        "2",
        "--rounds",
        "1",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=operating.ROOT, env=clean, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'failed': 0, 'missing': 0" in done.stdout and "| SQLite |" in done.stdout
