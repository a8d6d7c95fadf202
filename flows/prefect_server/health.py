"""What `discern doctor` asks the Prefect server: would a run that is scheduled be started, with
this home, and be watched?
"""

from __future__ import annotations

import urllib.error
from typing import Any

import yaml

from flows.home import checkout, deployments_file
from flows.prefect_server import server

Check = tuple[str, str, str]  # what, 'ok' | 'warning' | 'error', a sentence

DEPLOY = "set -a; . <home>/prefect/worker.env; set +a; prefect --no-prompt deploy --all"


def checks(url: str, login: str | None, home: str) -> list[Check]:
    """Pool, worker, deployments, automations and scheduler of a server that answers."""
    try:
        found = _pool(server.ask(url, "/work_pools/discern", login))
        deployments = server.ask(
            url, "/deployments/filter", login, body={"work_pools": {"name": {"any_": ["discern"]}}}
        )
        names = [one["name"] for one in deployments]
        found += (
            [_deployed(names), *_variables(deployments, home)]
            if deployments
            else [_deployed(names)]
        )
        found.append(_automations(server.ask(url, "/automations/filter", login, body={})))
        return found + _scheduler(url, login, deployments)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return [("pool", "ok", "none: `discern setup` prepares scheduled running")]
        text = (
            "the password is wrong: read worker.env of the home"
            if error.code == 401
            else f"the server says {error.code}"
        )
        return [("pool", "error", text)]
    except (OSError, ValueError) as error:
        return [("pool", "warning", f"could not be read: {error}")]


def _pool(pool: dict[str, Any]) -> list[Check]:
    limit = (
        f"{pool['concurrency_limit']} at a time"
        if pool["concurrency_limit"]
        else "no limit: `discern setup --slots 1`"
    )
    held = ", paused: prefect work-pool resume discern" if pool.get("is_paused") else ""
    sound = bool(pool["concurrency_limit"]) and not held
    online = pool.get("status") == "READY" or (held and pool.get("status") == "PAUSED")
    text = "a worker is online" if online else "none is online: prefect worker start --pool discern"
    return [
        ("pool", "ok" if sound else "warning", f"discern, {limit}{held}"),
        (
            "worker",
            "ok" if online else "warning",
            text if not held else "not known while the pool is paused",
        ),
    ]


def _deployed(names: list[str]) -> Check:
    file = deployments_file()
    if not file.is_file():
        return ("deployed", "ok", f"{len(names)} deployments: {', '.join(sorted(names))}")
    wanted = {str(one["name"]) for one in yaml.safe_load(file.read_text())["deployments"]}
    if missing := sorted(wanted - set(names)):
        return (
            "deployed",
            "warning",
            f"{', '.join(missing)} of prefect.yaml {'is' if len(missing) == 1 else 'are'} not: "
            f"{DEPLOY}",
        )
    return ("deployed", "ok", f"all {len(wanted)} of prefect.yaml")


def _variables(deployments: list[dict[str, Any]], home: str) -> list[Check]:
    """Where the deployments' runs would put what they make, and whose code they would run."""
    homes = {
        one["name"]: ((one.get("job_variables") or {}).get("env") or {}).get("DISCERN_HOME")
        for one in deployments
    }
    if wrong := {name: given for name, given in homes.items() if given != home}:
        name, given = sorted(wrong.items(), key=str)[0]
        text = (
            f"{name} has DISCERN_HOME {given!r}, and this home is {home!r} ({len(wrong)} "
            f"such): {DEPLOY}"
        )
        return [("job home", "error" if not given else "warning", text)]
    place = str(checkout() or "")
    folders = {(one.get("job_variables") or {}).get("working_dir") for one in deployments}
    if place and folders != {place}:
        return [
            (
                "job code",
                "warning",
                f"runs work in {sorted(map(str, folders))}, and this is {place}: {DEPLOY}",
            )
        ]
    return [
        ("job home", "ok", f"every deployment has this home{' and this checkout' if place else ''}")
    ]


def _automations(there: list[dict[str, Any]]) -> Check:
    from flows.prefect_server.provision import WATCHES  # it needs Prefect

    enabled = {str(one["name"]): bool(one["enabled"]) for one in there}
    if missing := [name for name in WATCHES if name not in enabled]:
        return (
            "watched",
            "warning",
            f"{len(missing)} automations are not there, such as {missing[0]!r}: discern setup",
        )
    if off := [name for name in WATCHES if not enabled[name]]:
        return ("watched", "warning", f"switched off: {', '.join(map(repr, off))}")
    return ("watched", "ok", f"all {len(WATCHES)} automations are there and on")


def _scheduler(url: str, login: str | None, deployments: list[dict[str, Any]]) -> list[Check]:
    """An active schedule must have runs that are waiting for their time; the server makes them,
    when its scheduler lives.
    """
    active = [
        one["id"]
        for one in deployments
        if not one.get("paused") and any(each["active"] for each in one.get("schedules") or [])
    ]
    if not active:
        return [("scheduler", "ok", "no schedule is active")] if deployments else []
    state = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    waiting = server.ask(
        url,
        "/flow_runs/count",
        login,
        body={"deployments": {"id": {"any_": active}}, "flow_runs": state},
    )
    if not waiting:
        text = (
            f"{len(active)} deployments have an active schedule, and no run is waiting for its "
            "time: ask again in two minutes"
        )
        return [("scheduler", "error", text)]
    return [("scheduler", "ok", f"{waiting} runs wait for their time")]
