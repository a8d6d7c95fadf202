"""A run whose process, or whose worker, is gone: marked as crashed, its slot free within five
minutes, and another goes on.

What was made stays in the store, and training continues from its last state: the new run computes
    what is left, and only that.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.prefect_server import provision
from tests.pipelines.operating import PREFECT, ROOT, Api, Worker, environment

# Beyond what `finished` has trained: ingest to pack are cached, training goes on from 2 kimg.
LONG = {
    "recipe": "digits",
    "scale": "debug",
    "only": "train",
    "overrides": ["train.kimg=400", "train.state_kimg=1"],
}
REST = {**LONG, "max_seconds": 3}
FIVE_MINUTES = 300.0
START = 300.0  # a process that imports Prefect and torch, on a machine that others use, too


@pytest.fixture(scope="module")
def home(server: dict[str, str], finished: tuple[Path, dict[str, Any]]) -> Path:
    place = Path(server["PREFECT_HOME"]).parent
    for name in ("artifacts", "runs", "state"):
        shutil.copytree(finished[0] / name, place / name, symlinks=True, dirs_exist_ok=True)
    return place


@pytest.fixture(scope="module")
def api(server: dict[str, str], home: Path) -> Api:
    shell = environment(server, home)
    for command in (
        [sys.executable, "-m", "flows.cli", "setup"],
        [*PREFECT, "--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run(
            command, env=shell, capture_output=True, text=True, cwd=ROOT, timeout=1500
        )
        assert done.returncode == 0, done.stdout + done.stderr
    deployed = Api(server)
    deployed.no_schedules()
    return deployed


@pytest.fixture
def worker(server: dict[str, str], home: Path, api: Api, tmp_path: Path) -> Iterator[Worker]:
    started = Worker(environment(server, home), tmp_path / f"{tmp_path.name}.log")
    yield started
    started.end()


def training(api: Api, worker: Worker, **variables: str) -> tuple[str, int, int]:
    """A run that trains: its id, and the processes of the flow and of the training. Variables go
    into its environment.
    """
    deployment = api.deployment("represent")
    job = {"env": {**deployment["job_variables"]["env"], **variables}}
    body = {"parameters": LONG, "state": {"type": "SCHEDULED"}, "job_variables": job}
    run = str(api.ask(f"/deployments/{deployment['id']}/create_flow_run", body)["id"])
    (child,) = api.until(lambda: worker.children("-m gan_core train"), bool, START)
    parent = int((Path("/proc") / str(child) / "stat").read_text().rsplit(")", 1)[1].split()[1])
    time.sleep(5)  # some training, and a heartbeat
    return run, parent, child


def marked(api: Api, run: str, since: float) -> float:
    """Waits until the run is Crashed and its slot free; returns after how many seconds that was."""
    ended = api.wait(run, "CRASHED", seconds=FIVE_MINUTES - (time.monotonic() - since))
    assert ended["state_type"] == "CRASHED"
    api.until(api.slots, lambda held: held == 0, 5)
    return time.monotonic() - since


def goes_on(api: Api, server: dict[str, str], home: Path, tmp_path: Path, dead: str) -> None:
    """Another run, with a worker that lives, gets the slot and continues the training; it closes
    what the dead run has left.
    """
    worker = Worker(environment(server, home), tmp_path / f"{tmp_path.name}-next.log")
    try:
        run = api.start("represent", **REST)
        assert api.wait(run, seconds=START)["state_type"] == "COMPLETED"
        assert api.tasks(run, 1)["train"]["state_name"] == "Paused"
        assert any("Training continues from" in line for line in api.logs(run)), api.logs(run)
        unfinished = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
        body = {
            "task_runs": unfinished,
            "flow_runs": {"id": {"any_": [dead, run]}},
        }  # other tests use this server, too
        assert api.ask("/task_runs/filter", body) == [], "what the dead run left Running is closed"
    finally:
        worker.end()


def gone(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rsplit(")", 1)[1].split()[
            0
        ] == "Z"
    except FileNotFoundError:
        return True


def test_kill_of_the_flows_process(
    api: Api, worker: Worker, server: dict[str, str], home: Path, tmp_path: Path
) -> None:
    run, flow, child = training(api, worker)
    os.kill(flow, signal.SIGKILL)
    seconds = marked(api, run, time.monotonic())
    assert seconds < 60, "its worker sees it at once"
    assert gone(child), "the training dies with its task"
    api.until(
        lambda: api.tasks(run, 1), lambda tasks: tasks["train"]["state_type"] == "CRASHED", 30
    )
    worker.end()
    goes_on(api, server, home, tmp_path, run)


@pytest.mark.slow
def test_kill_of_the_worker(
    api: Api, worker: Worker, server: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """The flow outlives its worker. When it is gone as well (a machine that lost power), nobody is
    left to say so.
    """
    run, flow, child = training(api, worker)
    worker.process.kill()
    worker.process.wait()
    assert not gone(flow) and api.run(run)["state_type"] == "RUNNING", "an orphan goes on"
    os.kill(flow, signal.SIGKILL)
    marked(api, run, time.monotonic())
    assert gone(child)
    goes_on(api, server, home, tmp_path, run)


@pytest.mark.slow
def test_end_of_the_worker(
    api: Api, worker: Worker, server: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """SIGTERM, as systemd sends it: the worker ends its flow, and Prefect leaves the run
    Running.
    """
    run, flow, child = training(api, worker)
    worker.process.terminate()
    worker.process.wait(timeout=300)
    since = time.monotonic()
    api.until(lambda: gone(flow) and gone(child), bool, 60)
    marked(api, run, since)
    goes_on(api, server, home, tmp_path, run)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_of_the_server(
    api: Api, worker: Worker, server: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """Away for longer than a run may be silent: the run goes on and stays Running; one that dies
    afterwards is marked.
    """
    from flows.prefect_server.server import start

    watch = next(one for one in api.ask("/automations/filter", {}) if one["name"] == provision.DIED)
    body = {key: watch[key] for key in ("name", "description", "enabled", "trigger", "actions")}
    short = {**body, "trigger": {**watch["trigger"], "within": 90}}
    api.ask(f"/automations/{watch['id']}", short, "PUT")
    try:
        run, flow, child = training(api, worker, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30")
        time.sleep(35)  # two heartbeats
        for process in processes("prefect server start", f"PREFECT_HOME={server['PREFECT_HOME']}"):
            os.kill(process, signal.SIGKILL)
        time.sleep(100)
        start(Path(server["PREFECT_HOME"]))
        back = time.monotonic()
        while time.monotonic() - back < 160:
            assert api.run(run)["state_type"] == "RUNNING", api.run(run)["state"]
            time.sleep(2)
        assert not gone(flow) and not gone(child)
        worker.end()
        assert marked(api, run, time.monotonic()) < 150
        goes_on(api, server, home, tmp_path, run)
    finally:
        api.ask(f"/automations/{watch['id']}", body, "PUT")


def processes(words: str, variable: str) -> list[int]:
    """Processes whose command holds `words` and whose environment `variable`."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words in command and variable.encode() in (place / "environ").read_bytes().split(
                b"\0"
            ):
                found.append(int(place.name))
        except (OSError, ValueError):
            continue
    return sorted(found)
