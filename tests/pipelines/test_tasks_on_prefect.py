"""What Prefect sees: retries of what may pass, none of what stays wrong, names, states, and the
lines between tasks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import DIGITS
from tests.pipelines.operating import ROOT, Api

Ask = Callable[..., dict[str, Any]]


def flow_run_of(home: Path) -> str:
    """The flow run of the home's newest run."""
    records = [json.loads(path.read_text()) for path in home.glob("runs/*/run.json")]
    return str(max(records, key=lambda record: str(record["started"]))["flow_run"])


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
    result = answer(tmp_path / "home", "run", str(recipe), "--only", "ingest", "--json")
    assert result["computed"] == ["ingest:flaky"]
    run = api.tasks(result["flow_run"], 1)["ingest:flaky"]
    assert run["run_count"] == 3 and run["state"]["type"] == "COMPLETED"
    assert (tmp_path / "counter").read_text() == "3"


def test_what_stays_wrong_is_not(tmp_path: Path, answer: Ask, api: Api) -> None:
    recipe = flaky_recipe(tmp_path, failures=9, kind="data")
    result = answer(tmp_path / "home", "run", str(recipe), "--only", "ingest", "--json", code=1)
    assert (
        result["error"] == "the file is wrong and stays wrong"
        and result["remedy"] == "another file"
    )
    flow_run = flow_run_of(tmp_path / "home")
    run = api.tasks(flow_run, 1)["ingest:flaky"]
    assert run["run_count"] == 1 and run["state"]["type"] == "FAILED"
    assert api.wait(flow_run)["state_type"] == "FAILED"


def test_states_names_and_lineage(home: Path, answer: Ask, api: Api) -> None:
    grid = ("--set", "evaluate.probes.linear_svm.grid=[1e-3, 1e-2]")
    run = api.run(answer(home, *DIGITS, *grid)["flow_run"])
    assert run["name"].startswith("digits represent") and run["parameters"]["recipe"] == "digits"
    tasks = api.tasks(run["id"], 18)
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
    operator = Api(server)
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
    result = answer(home, "train", "digits", "--scale", "debug", "--json", *longer)
    assert result["state"] == "paused"
    run = result["flow_run"]
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


@pytest.mark.slow
def test_the_benchmark_of_orchestration_runs() -> None:
    """Names that have moved would break it."""
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
        command, capture_output=True, text=True, cwd=ROOT, env=clean, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'failed': 0, 'missing': 0" in done.stdout and "| SQLite |" in done.stdout
