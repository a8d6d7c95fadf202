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
from tests.pipelines.operating import (
    PREFECT,
    ROOT,
    Api,
    Worker,
    environment,
    goes_on,
    gone,
    marked,
    training,
)

pytestmark = pytest.mark.slow  # one of these is in test_operated.py, and not slow


@pytest.fixture(scope="module")
def home(own_server: dict[str, str], finished: tuple[Path, dict[str, Any]]) -> Path:
    place = Path(own_server["PREFECT_HOME"]).parent
    for name in ("artifacts", "runs", "state"):
        shutil.copytree(finished[0] / name, place / name, symlinks=True, dirs_exist_ok=True)
    return place


@pytest.fixture(scope="module")
def api(own_server: dict[str, str], home: Path) -> Api:
    shell = environment(own_server, home)
    for command in (
        [sys.executable, "-m", "flows.cli", "setup"],
        [*PREFECT, "--no-prompt", "deploy", "--all"],
    ):
        done = subprocess.run(
            command, env=shell, capture_output=True, text=True, cwd=ROOT, timeout=1500
        )
        assert done.returncode == 0, done.stdout + done.stderr
    deployed = Api(own_server)
    deployed.no_schedules()
    return deployed


@pytest.fixture
def worker(own_server: dict[str, str], home: Path, api: Api, tmp_path: Path) -> Iterator[Worker]:
    started = Worker(environment(own_server, home), tmp_path / f"{tmp_path.name}.log")
    yield started
    started.end()


def test_kill_of_the_worker(
    api: Api, worker: Worker, own_server: dict[str, str], home: Path, tmp_path: Path
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
    goes_on(api, own_server, home, tmp_path, run)


def test_end_of_the_worker(
    api: Api, worker: Worker, own_server: dict[str, str], home: Path, tmp_path: Path
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
    goes_on(api, own_server, home, tmp_path, run)


@pytest.mark.timeout(3600)
def test_kill_of_the_server(
    api: Api, worker: Worker, own_server: dict[str, str], home: Path, tmp_path: Path
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
        for process in processes(
            "prefect server start", f"PREFECT_HOME={own_server['PREFECT_HOME']}"
        ):
            os.kill(process, signal.SIGKILL)
        time.sleep(100)
        start(Path(own_server["PREFECT_HOME"]))
        back = time.monotonic()
        while time.monotonic() - back < 160:
            assert api.run(run)["state_type"] == "RUNNING", api.run(run)["state"]
            time.sleep(2)
        assert not gone(flow) and not gone(child)
        worker.end()
        assert marked(api, run, time.monotonic()) < 150
        goes_on(api, own_server, home, tmp_path, run)
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
