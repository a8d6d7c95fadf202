"""Runs that had no server to be recorded by: fully cached ones, which start none, and runs of the
Python API. They are entered as soon as a server is up, through its API, without importing Prefect.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from flows.prefect_server.server import ask
from gan_core.artifacts.locks import file_lock
from gan_core.files import read_json, write_json

log = logging.getLogger("gan_core.run")
_FLOWS = {"report": "represent", "pack": "prepare"}
_STATES = {"completed": "COMPLETED", "failed": "FAILED", "paused": "COMPLETED"}


def flow_of(until: str) -> str:
    """The flow whose chain ends with a stage."""
    return _FLOWS.get(until, until)


def enter_past_runs(home: Path, url: str, login: str | None) -> int:
    """Enters the home's ended runs that no server knows; returns how many. It never ends a run."""
    count = 0
    try:
        with file_lock(home / "prefect" / "past_runs.lock", "entering runs"):
            for path in sorted((home / "runs").glob("*/run.json")):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    record = read_json(path)
                    if record.get("flow_run") or record["state"] not in _STATES:
                        continue
                    name = _enter(home, record, url, login)
                    write_json(path, {**record, "flow_run": name})
                    count += 1
    except Exception as error:
        log.warning("Earlier runs could not be entered in the Prefect UI: %s", error)
    return count


def _enter(home: Path, record: dict[str, Any], url: str, login: str | None) -> str:
    """Makes the flow run of a record, with its last state, and its report. The server sets the time
    of entering; when the run was is in its name and its state.
    """

    def post(path: str, **body: Any) -> Any:
        return ask(url, path, login, 30, body=body)

    stage = record["only"] or record["until"]
    flow = "stage" if record["only"] else flow_of(record["until"])
    cached = all(node["cached"] for node in record["nodes"])
    made = sum(not node["cached"] for node in record["nodes"])
    when = record["started"][:16].replace("T", " ")
    kind = _STATES[record["state"]]
    what = (
        "The store has every stage" if cached else f"Run by the Python API, {made} artifacts made"
    )
    run = post(
        "/flow_runs/",
        flow_id=post("/flows/", name=flow)["id"],
        name=f"{record['recipe']} {flow} {when}",
        parameters={
            "recipe": record["recipe"],
            "scale": record["scale"],
            "overrides": record["overrides"],
            "data": [f"{name}={place}" for name, place in record["data"].items()],
        },
        tags=[f"recipe:{record['recipe']}", f"scale:{record['scale']}", f"stage:{stage}"],
        state={
            "type": kind,
            "name": "Cached" if cached and kind == "COMPLETED" else record["state"].capitalize(),
            "message": record.get("error")
            or f"{what}; from {record['started']} to {record['ended']}.",
        },
    )["id"]
    _enter_report(home, record, run, post)
    return str(run)


def _enter_report(home: Path, record: dict[str, Any], run: str, post: Any) -> None:
    from gan_core.reporting.summary import summary_markdown  # brings OpenCV

    node = next((node for node in record["nodes"] if node["node"] == "report"), None)
    if node is None or not node["ref"]:
        return
    ref = node["ref"]
    folder = home / "artifacts" / "report" / ref["key"] / ref["digest"][:12]
    with contextlib.suppress(OSError, ValueError):  # a home on an object store
        summary = read_json(folder / "summary.json")
        page = str(home / "runs" / record["run"] / "report.html")
        post(
            "/artifacts/",
            key="report",
            type="markdown",
            data=summary_markdown(summary, page),
            description=f"Report: {summary.get('title') or record['run']}",
            flow_run_id=run,
        )
