"""Discern as it is operated: a server with authentication, a pool, a worker; runs by schedule, by
hand, of one stage, and again.

Tests on one server, in the order of this file; what is slow in it (starting processes) is
started once.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.prefect_server import provision
from tests.pipelines.operating import (
    CHROMIUM,
    PREFECT,
    ROOT,
    Api,
    Browser,
    Worker,
    environment,
    goes_on,
    gone,
    marked,
    training,
)

CHAINS = {"represent", "prepare", "train", "extract", "evaluate", "inspect", "stage"}
DEPLOYMENTS = {*CHAINS, "gc"}
STAGES = 23  # task runs of digits at debug scale
WANTED = {"recipe": "digits", "scale": "debug"}


class Hook(http.server.BaseHTTPRequestHandler):
    """An address that receives notifications."""

    heard: list[str] = []

    def do_POST(self) -> None:
        self.heard.append(
            str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        )
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def hook() -> Iterator[str]:
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_port}/secret-path"
    listener.shutdown()


@pytest.fixture(scope="module")
def home(own_server: dict[str, str], finished: tuple[Path, dict[str, Any]]) -> Path:
    """The home of the server, holding what the command line has made in `finished`."""
    place = Path(own_server["PREFECT_HOME"]).parent
    for name in ("artifacts", "runs", "state"):
        shutil.copytree(finished[0] / name, place / name, symlinks=True, dirs_exist_ok=True)
    return place


@pytest.fixture(scope="module")
def shell(own_server: dict[str, str], home: Path) -> dict[str, str]:
    return environment(own_server, home)


@pytest.fixture(scope="module")
def api(own_server: dict[str, str]) -> Api:
    return Api(own_server)


def discern(shell: dict[str, str], *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words, "--json"],
        env=shell,
        capture_output=True,
        text=True,
        timeout=1500,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def operated(
    shell: dict[str, str], api: Api, hook: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """Set up, deployed, and with a worker: what docs/operations.md says, in its order."""
    made = discern(shell, "setup")
    assert "work pool discern" in made["changed"] and "block discern-notify" not in made["changed"]
    message = discern(shell, "setup", "--notify", hook)
    assert set(message["changed"]) == {
        "block discern-notify",
        *(f"automation {name!r}" for name in (provision.FAILED, provision.FELL)),
    }, "an unedited automation follows the request"
    assert "secret-path" not in json.dumps(message), "an address may be the secret"
    done = subprocess.run(
        [*PREFECT, "--no-prompt", "deploy", "--all"],
        env=shell,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    worker = Worker(shell, tmp_path_factory.mktemp("worker") / "operated.log")
    yield worker
    worker.end()


def test_setting_up_again_changes_nothing(
    operated: Worker, shell: dict[str, str], api: Api
) -> None:
    def there() -> Any:
        pool = api.ask("/work_pools/discern")
        automations = api.ask("/automations/filter", {})
        return pool["concurrency_limit"], {
            one["name"]: (one["id"], one["updated"]) for one in automations
        }

    before = there()
    assert before[0] == 1 and set(before[1]) == set(provision.WATCHES)
    assert discern(shell, "setup")["changed"] == []
    assert there() == before
    edited = next(
        one for one in api.ask("/automations/filter", {}) if one["name"] == provision.WAITED
    )
    edited["trigger"]["within"] = 7200
    body = {key: edited[key] for key in ("name", "description", "enabled", "trigger", "actions")}
    api.ask(f"/automations/{edited['id']}", body, "PUT")
    again = discern(shell, "setup", "--slots", "2")
    assert again["changed"] == ["work pool discern"] and there()[0] == 2
    assert {step["what"]: step["state"] for step in again["steps"]}[
        f"automation {provision.WAITED!r}"
    ] == "kept"
    assert api.ask(f"/automations/{edited['id']}")["trigger"]["within"] == 7200
    assert (
        discern(shell, "setup", "--slots", "1")["changed"] == ["work pool discern"]
        and there()[0] == 1
    )


def test_what_is_deployed(operated: Worker, shell: dict[str, str], api: Api, home: Path) -> None:
    found = {one["name"]: one for one in api.ask("/deployments/filter", {})}
    assert set(found) == DEPLOYMENTS
    for one in found.values():
        assert one["job_variables"]["env"]["DISCERN_HOME"] == str(home) and one["job_variables"][
            "working_dir"
        ] == str(ROOT)
    scheduled = {
        name: [(each["slug"], each["active"]) for each in one["schedules"]]
        for name, one in found.items()
    }
    assert scheduled.pop("represent") == [("nightly", True)] and scheduled.pop("gc") == [
        ("weekly", False)
    ]
    assert not any(scheduled.values())
    (nightly,) = found["represent"]["schedules"]
    assert nightly["schedule"]["cron"] == "0 3 * * *" and nightly["schedule"]["timezone"] == "UTC"
    api.no_schedules()
    server = api.ask("/admin/settings")["server"]
    assert server["concurrency"]["lease_storage"].endswith(".filesystem"), (
        "leases outlive a restart"
    )
    assert server["analytics_enabled"] is False and server["api"]["csrf_protection_enabled"] is True
    api.until(
        lambda: api.ask("/work_pools/discern")["status"], lambda status: status == "READY", 60
    )
    checks = {check["what"]: check["state"] for check in discern(shell, "doctor")["checks"]}
    wanted = ("pool", "worker", "deployed", "job home", "watched", "scheduler")
    assert {name: checks[name] for name in wanted} == dict.fromkeys(wanted, "ok")
    other = discern(
        {**shell, "DISCERN_HOME": f"{home}-other", "PREFECT_HOME": f"{home}-other"}, "doctor"
    )
    assert {check["what"]: check["state"] for check in other["checks"]}["job home"] == "warning", (
        "another home"
    )


def test_the_form_offers_what_there_is(operated: Worker, api: Api) -> None:
    from gan_core.recipes import recipe_names
    from gan_core.specs import STAGES as known

    for name in CHAINS:
        schema = api.deployment(name)["parameter_openapi_schema"]["properties"]
        assert all(entry.get("description") for entry in schema.values()), (
            f"{name}: a field without a sentence"
        )
        assert all("default" in entry for entry in schema.values()), (
            f"{name}: a field that must be filled"
        )
        assert schema["recipe"]["enum"] == recipe_names()
        assert {"auto", "debug", "small", "full"} <= set(schema["scale"]["enum"])
    schema = api.deployment("represent")["parameter_openapi_schema"]["properties"]
    assert schema["refresh"]["items"]["enum"] == list(known) and schema["only"]["enum"] == [
        "all",
        *known,
    ]
    assert api.deployment("stage")["parameter_openapi_schema"]["properties"]["stage"][
        "enum"
    ] == list(known)
    assert schema["runner"]["enum"] == ["threads", "dask", "ray"]
    assert {"max_seconds", "runner", "runner_place"} <= set(
        api.deployment("stage")["parameter_openapi_schema"]["properties"]
    )
    place = f"/deployments/{api.deployment('represent')['id']}/create_flow_run"
    assert "does not match" in api.refusal(place, {"parameters": {"overrides": ["trian.kimg=3"]}})
    assert "does not match" in api.refusal(place, {"parameters": {"runner_place": "0"}})
    assert "digits" in api.refusal(place, {"parameters": {"recipe": "digit"}})
    assert "minimum of 0" in api.refusal(place, {"parameters": {"max_seconds": -1}})


def test_three_ways_one_store(operated: Worker, home: Path, api: Api) -> None:
    """What the command line made is found by a run on a schedule and by one started by hand: the
    same keys, nothing computed.
    """

    def artifacts() -> set[str]:
        return {str(path.parent) for path in (home / "artifacts").glob("*/*/*/manifest.json")}

    plant_a_better_run(home)
    before = artifacts()
    deployment = api.deployment("represent")
    schedule = {"schedule": {"interval": 20}, "active": True, "parameters": WANTED, "slug": "soon"}
    (made,) = api.ask(f"/deployments/{deployment['id']}/schedules", [schedule])

    def begun() -> list[dict[str, Any]]:
        found = api.ask("/flow_runs/filter", {"deployments": {"id": {"any_": [deployment["id"]]}}})
        return [run for run in found if run["auto_scheduled"] and run["state_type"] != "SCHEDULED"]

    by_schedule = api.until(begun, bool, 120)[0]
    api.ask(f"/deployments/{deployment['id']}/schedules/{made['id']}", method="DELETE")
    by_hand = api.start("represent", **WANTED)
    for run in (by_schedule["id"], by_hand):
        ended = api.wait(run)
        assert ended["state_type"] == "COMPLETED" and ended["name"].startswith(
            "digits represent"
        ), ended
        tasks = api.tasks(run, STAGES)
        assert {task["state_name"] for task in tasks.values()} == {"Cached"} and len(
            tasks
        ) == STAGES
    first, second = (
        api.run(run)
        for run in sorted((by_schedule["id"], by_hand), key=lambda run: api.run(run)["start_time"])
    )
    assert first["end_time"] <= second["start_time"], "the pool has one slot"
    assert artifacts() == before, "computed once"
    found = api.artifacts(by_hand)
    assert {"report", "inspections", "stages", "training"} <= set(found)
    assert found["inspections"]["data"].count("data:image/") >= 5
    assert "Test accuracy" in found["report"]["data"] and "report.html" in found["report"]["data"]
    # Log lines travel in batches and may arrive after the run's end.
    assert api.until(
        lambda: api.logs(by_hand), lambda lines: any("gan_core" in line for line in lines), 30
    )
    message = api.until(lambda: [text for text in Hook.heard if "accuracy fell" in text], bool, 30)
    assert "was 110.0" in message[0]


def plant_a_better_run(home: Path) -> None:
    """A run of the same recipe whose features were better than any can be."""
    (run,) = (home / "runs").glob("digits-*")
    record = json.loads((run / "run.json").read_text())
    report = next(node for node in record["nodes"] if node["node"] == "report")
    ref = report["ref"]
    made = home / "artifacts" / "report" / ref["key"] / ref["digest"][:12]
    better = home / "artifacts" / "report" / ("0" * 32) / ref["digest"][:12]
    shutil.copytree(made, better)
    manifest = json.loads((better / "manifest.json").read_text())
    (better / "manifest.json").write_text(json.dumps({**manifest, "key": "0" * 32}))
    summary = json.loads((better / "summary.json").read_text())
    summary["headline"] |= {"mean": 1.1, "low": 1.05}
    (better / "summary.json").write_text(json.dumps(summary))
    ref["key"] = "0" * 32
    planted = home / "runs" / "digits-planted"
    shutil.copytree(run, planted)
    record["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    (planted / "run.json").write_text(json.dumps(record))


def test_one_stage_again(operated: Worker, api: Api) -> None:
    run = api.start("stage", stage="report", **WANTED)
    ended = api.wait(run)
    assert ended["state_type"] == "COMPLETED" and ended["name"].startswith("digits report alone"), (
        ended
    )
    tasks = api.tasks(run, 1)
    assert {name: task["state_name"] for name, task in tasks.items()} == {"report": "Completed"}


def test_a_failed_run_is_reported_and_goes_on_when_retried(
    operated: Worker, api: Api, tmp_path: Path
) -> None:
    """Wrong settings end a run before any task; a wrong file is mended, and the same run retried as
    the UI's button does it: what its first attempt has made is taken from the store, also what was
    to be refreshed."""
    options = {"counter": str(tmp_path / "counter"), "failures": 1, "kind": "crop"}
    source = {
        "name": "flaky",
        "dataset": "tests.pipelines.flaky_digits",
        "options": options,
        "limit": 200,
    }
    own = tmp_path / "own.yaml"
    own.write_text(
        json.dumps(
            {"name": "own", "about": "", "sources": {"train": [source]}, "hash": {"epochs": 1}}
        )
    )
    refused = api.start("represent", **WANTED, overrides=["train.kimgs=3"])
    failing = api.start("prepare", recipe_file=str(own), refresh=["ingest"])
    ended = api.wait(refused)
    assert ended["state_type"] == "FAILED" and "did you mean 'kimg'" in ended["state"]["message"]
    assert {"recipe:digits", "scale:debug", "stage:report"} <= set(ended["tags"])
    ended = api.wait(failing)
    assert ended["state_type"] == "FAILED" and "stays wrong" in ended["state"]["message"]
    api.until(
        lambda: [text for text in Hook.heard if "own prepare" in text and "stays wrong" in text],
        bool,
        30,
    )
    assert api.ask("/task_runs/count", {"flow_runs": {"id": {"any_": [refused]}}}) == 0
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    answer = api.ask(f"/flow_runs/{failing}/set_state", {"state": state})
    assert answer["status"] == "ACCEPT", answer
    api.until(lambda: api.run(failing), lambda found: found["run_count"] == 2, 60)
    assert api.wait(failing)["state_type"] == "COMPLETED"
    tasks = api.until(
        lambda: api.tasks(failing, 1),
        lambda found: found.get("pack", {}).get("state_type") == "COMPLETED",
    )
    assert {name: task["state_name"] for name, task in tasks.items()} == {
        "ingest:flaky": "Cached",
        **dict.fromkeys(("crop:flaky", "hash", "dedup", "pack"), "Completed"),
    }


@pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: the UI cannot be opened in a browser"
)
def test_in_a_browser(operated: Worker, api: Api, tmp_path: Path) -> None:
    """Run, artifact and form, signed in as a person is; the image decodes."""
    newest = {"flows": {"name": {"any_": ["represent"]}}, "sort": "START_TIME_DESC", "limit": 20}
    run = next(
        one
        for one in api.ask("/flow_runs/filter", newest)
        if one["state_type"] == "COMPLETED" and one["parameters"] != {}
    )
    figures = {
        one["key"]: one
        for one in api.ask("/artifacts/filter", {"limit": 200})
        if one["key"] in ("training", "inspections")
    }
    decoded = (
        "[...document.images].filter(i => i.src.startsWith('data:') && i.naturalWidth > 100).length"
    )
    text, form = "document.body.innerText", api.deployment("represent")["id"]
    pages = {
        f"/v2/runs/flow-run/{run['id']}": f"{text}.includes({json.dumps(run['name'])}) && "
        f"{text}.includes('Completed')",
        f"/v2/artifacts/artifact/{figures['training']['id']}": decoded,
        f"/v2/artifacts/artifact/{figures['inspections']['id']}": decoded,
        f"/v2/deployments/deployment/{form}/run": "['recipe', 'scale', 'refresh', "
        f"'Stages to run again'].every(word => {text}.includes(word))",
    }
    seen = Browser(api, tmp_path / "profile").open(
        pages, images=tmp_path if os.environ.get("DISCERN_SHOTS") else None
    )
    assert all(seen.values()) and len(seen) == 4


def test_only_who_signs_in(operated: Worker, api: Api, shell: dict[str, str], home: Path) -> None:
    """The shipped settings: the password is needed, no other origin is served, nothing that others
    on the machine may read.
    """

    def ask(path: str, method: str = "GET", **headers: str) -> int:
        request = urllib.request.Request(api.url + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    known = {"Authorization": f"Basic {api.login}"}
    assert (
        ask("/admin/version") == 401
        and ask("/admin/version", Authorization="Basic d3Jvbmc6bG9naW4=") == 401
    )
    assert ask("/admin/version", **known) == 200
    assert (
        ask("/flow_runs/filter", "POST", **known, **{"Content-Type": "application/json"}) == 403
    ), "no CSRF token"
    other_origin = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert ask("/flow_runs/filter", "OPTIONS", **other_origin) == 400
    assert (
        ask(
            "/flow_runs/filter",
            "OPTIONS",
            **{**other_origin, "Origin": api.url.removesuffix("/api")},
        )
        == 200
    )
    folder = home / "prefect"
    for path, mode in (
        (folder, 0o700),
        (folder / "storage", 0o700),
        (folder / "server.env", 0o600),
        (folder / "worker.env", 0o600),
    ):
        assert path.stat().st_mode & 0o777 == mode, path
    other_home = {**shell, "DISCERN_HOME": f"{home}-other", "PREFECT_HOME": f"{home}-other"}
    for words, change, message in (
        (["setup"], {"PREFECT_API_AUTH_STRING": ""}, "worker.env"),
        (["setup"], {"PREFECT_API_AUTH_STRING": "wrong:login"}, "worker.env"),
        (["setup", "--port", "4300"], {}, "its operator's"),
    ):
        command = [sys.executable, "-m", "flows.cli", *words]
        done = subprocess.run(
            command,
            env={**other_home, **change},
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=100,
        )
        assert (
            done.returncode in (1, 2) and message in done.stderr and "Traceback" not in done.stderr
        ), done.stderr
    port = int(api.url.split(":")[2].split("/")[0])
    tables = [
        table.read_text().splitlines()[1:]
        for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
        if table.exists()
    ]
    sockets = [line.split()[1:4:2] for lines in tables for line in lines]
    listening = [
        address
        for address, state in sockets
        if state == "0A" and int(address.rsplit(":", 1)[1], 16) == port
    ]
    assert listening == [f"0100007F:{port:04X}"], "127.0.0.1 alone"


def test_kill_of_the_flows_process(
    operated: Worker, api: Api, own_server: dict[str, str], home: Path, tmp_path: Path
) -> None:
    run, flow, child = training(api, operated)
    os.kill(flow, signal.SIGKILL)
    seconds = marked(api, run, time.monotonic())
    assert seconds < 60, "its worker sees it at once"
    assert gone(child), "the training dies with its task"
    api.until(
        lambda: api.tasks(run, 1), lambda tasks: tasks["train"]["state_type"] == "CRASHED", 30
    )
    operated.end()
    goes_on(api, own_server, home, tmp_path, run)
