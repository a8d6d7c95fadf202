"""What a run shows in the Prefect UI: few artifacts, the report first; tags; cached runs too; and
an external server.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.prefect_server.past_runs import enter_past_runs
from flows.prefect_server.server import healthy
from flows.prefect_server.settings import free_port
from tests.pipelines.conftest import DIGITS
from tests.pipelines.operating import Api

Finished = tuple[Path, dict[str, Any]]
Ask = Callable[..., Any]


@pytest.fixture
def api(server: dict[str, str]) -> Api:
    return Api(server)


def record_of(home: Path, result: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads((home / "runs" / result["run"] / "run.json").read_text()))


def test_a_run_has_few_artifacts_and_the_report_first(finished: Finished, api: Api) -> None:
    home, result = finished
    body = {
        "artifacts": {"flow_run_id": {"any_": [result["flow_run"]]}},
        "sort": "CREATED_DESC",
        "limit": 200,
    }
    found = api.ask("/artifacts/filter", body)
    keys = [one["key"] for one in found]
    assert keys == ["report", "inspections", "stages", "training"]
    assert all(one["description"][0].isupper() for one in found)
    data = {one["key"]: one["data"] for one in found}
    assert str(home / "runs" / result["run"] / "report.html") in data["report"]
    assert data["inspections"].count("data:image/") >= 5
    assert len(data["inspections"]) < 260_000 and "data:image/svg" in data["training"]
    rows = {row["stage"]: row for row in json.loads(data["stages"])}
    assert rows.keys() == {node["node"] for node in result["nodes"]}
    assert rows["crop:digits"]["counts"].startswith("1,272 ")
    assert "%" in rows["evaluate:digits:pixels:linear_svm"]["accuracy"]


def test_runs_and_tasks_are_tagged(finished: Finished, api: Api) -> None:
    run = api.run(finished[1]["flow_run"])
    assert {"recipe:digits", "scale:debug", "stage:report"} <= set(run["tags"])
    tasks = api.tasks(run["id"], 15)
    assert tasks["crop:digits"]["tags"] == ["stage:crop"]


def test_the_log_of_a_run_links_its_report(finished: Finished, api: Api) -> None:
    lines = api.logs(finished[1]["flow_run"])
    (line,) = [line for line in lines if "Report: /" in line]
    assert "report.html" in line and "/artifacts/artifact/" in line
    made = line.rsplit("/", 1)[1]
    assert api.ask(f"/artifacts/{made}")["key"] == "report"


def test_a_cached_run_is_entered(home: Path, answer: Ask, api: Api) -> None:
    result = answer(home, *DIGITS)
    assert result["computed"] == []
    run = api.run(record_of(home, result)["flow_run"])
    assert (run["state_type"], run["state_name"]) == ("COMPLETED", "Cached")
    assert result["started"] in run["state"]["message"]
    assert {"recipe:digits", "scale:debug"} <= set(run["tags"])
    assert run["name"].startswith("digits represent 20")
    assert list(api.artifacts(run["id"])) == ["report"]


def test_a_run_without_a_server_is_entered_once_one_is_up(
    home: Path, discern: Ask, server: dict[str, str], api: Api
) -> None:
    result = discern(*DIGITS, home=home).json
    assert result["computed"] == [] and record_of(home, result)["flow_run"] is None
    login = server["PREFECT_API_AUTH_STRING"]
    assert enter_past_runs(home, server["PREFECT_API_URL"], login) == 1
    assert enter_past_runs(home, server["PREFECT_API_URL"], login) == 0
    assert api.run(record_of(home, result)["flow_run"])["state_name"] == "Cached"


@pytest.fixture
def external(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A second real server, started as its operator would, with a password."""
    port = free_port()
    login = "operator:secret"
    place = tmp_path / "external"
    place.mkdir()
    settings = {
        "PREFECT_HOME": str(place),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start"],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    client = {
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": login,
        "PREFECT_HOME": str(tmp_path / "client"),
    }
    try:
        deadline = time.monotonic() + 240
        while not healthy(client["PREFECT_API_URL"], login):
            assert time.monotonic() < deadline, (place / "log").read_text()[-2000:]
            time.sleep(0.5)
        yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.mark.slow
def test_an_external_server_is_used(
    home: Path, discern: Ask, external: dict[str, str], api: Api
) -> None:
    """Computed and cached runs go to the server of PREFECT_API_URL; the home starts none."""
    result = discern(*DIGITS, "--set", "report.title=Elsewhere", home=home, **external)
    assert result.code == 0, result.err
    assert result.json["computed"] == ["report"]
    there = Api(external)
    run = there.run(result.json["flow_run"])
    assert run["state_type"] == "COMPLETED" and "recipe:digits" in run["tags"]
    assert there.artifacts(run["id"])["report"]["description"] == "Report: Elsewhere"
    again = discern(*DIGITS, "--set", "report.title=Elsewhere", home=home, **external)
    name = record_of(home, again.json)["flow_run"]
    assert there.run(name)["state_name"] == "Cached"
    assert not (home / "prefect" / "server.env").exists()
    assert base64.b64decode(there.login).decode() == "operator:secret"
    refused = discern(
        *DIGITS,
        "--set",
        "report.title=Third",
        home=home,
        **{**external, "PREFECT_API_AUTH_STRING": "operator:wrong"},
    )
    assert refused.code == 1 and "does not take" in refused.err
