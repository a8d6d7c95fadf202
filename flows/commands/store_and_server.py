"""Commands that look after the home: verify its artifacts, keep its server up."""

from __future__ import annotations

import os
import time
from typing import Any

from flows.commands import console
from flows.home import open_store, resolve_home
from flows.prefect_server import server, settings
from flows.prefect_server.rearm import rearm
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import RequestError, WorkError


def verify_artifacts(
    home: str | None, wanted: str | None, *, everything: bool, remove: bool, as_json: bool
) -> int:
    """Hashes artifacts' files again; returns 1 when something is damaged (and was not removed)."""
    if not wanted and not everything:
        raise RequestError(
            "Nothing was named to verify.",
            expected="an artifact (stage/key or its beginning) or --all",
        )
    store = open_store(resolve_home(home), writing=remove)
    refs = [
        ref
        for ref in store.artifacts.refs()
        if everything or f"{ref.stage}/{ref.key}".startswith(wanted or "")
    ]
    if not refs and wanted:
        known = sorted({ref.stage for ref in store.artifacts.refs()})
        raise RequestError(
            f"No artifact begins with {wanted!r}.",
            expected=f"stage/key, stages here: {', '.join(known) or 'none yet'}",
        )
    damaged = {_name(ref): found for ref in refs if (found := _verify(store, ref, remove))}
    if as_json:
        console.print_json(
            {"checked": len(refs), "damaged": damaged, "removed": sorted(damaged) if remove else []}
        )
    else:
        for name, found in damaged.items():
            print(f"{'removed' if remove else 'DAMAGED'}  {name}")
            print("".join(f"           {text}\n" for text in found[:5]), end="")
        print(
            f"{len(refs)} artifacts checked, {len(damaged)} "
            f"damaged{' and removed' if remove and damaged else ''}."
        )
        if damaged and not remove:
            print("`discern verify --all --remove` drops them; the next run makes them again.")
    return 1 if damaged and not remove else 0


def _verify(store: Store, ref: ArtifactRef, remove: bool) -> list[str]:
    found = store.verify(ref)
    if found and remove:
        store.artifacts.drop(ref)
    return found


def _name(ref: ArtifactRef) -> str:
    return f"{ref.stage}/{ref.key}/{ref.digest[:12]}"


def server_up(home: str | None, *, as_json: bool) -> int:
    """Starts the home's server and leaves a user that stays, so that it stays up."""
    folder = open_store(resolve_home(home)).home / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    if server.staying(folder) is None:
        server.stay(folder)
    deadline = time.monotonic() + server.START_SECONDS
    while (url := server.running(folder)) is None or server.staying(folder) is None:
        if time.monotonic() > deadline:
            raise WorkError(
                "The Prefect server did not come up.", remedy=f"its log is {folder / 'server.log'}"
            )
        time.sleep(0.3)
    user, _, password = settings.credentials(folder).partition(":")
    told: dict[str, Any] = {
        "url": url.removesuffix("/api"),
        "user": user,
        "password": password,
        "database": settings.database(folder),
    }
    if as_json:
        console.print_json(told)
    else:
        print(
            f"Prefect UI  {told['url']}\nsign in     {user}:{password}\ndatabase    "
            f"{told['database']}"
        )
        print(f"artifacts   {told['url']}/v2/artifacts\nstop        discern server stop")
    return 0


def server_down(home: str | None, *, as_json: bool) -> int:
    """Ends the user that stays; the server stops when no run uses it."""
    folder = open_store(resolve_home(home), writing=False).home / "prefect"
    stayed = server.stop_staying(folder)
    deadline = time.monotonic() + 15
    while (up := server.running(folder) is not None) and time.monotonic() < deadline:
        time.sleep(0.3)
    state = (
        "still used by a run; it stops with it"
        if up
        else "stopped"
        if stayed
        else "was not running"
    )
    if as_json:
        console.print_json({"state": state})
    else:
        print(f"The server {'is ' if up else '' if not stayed else 'is '}{state}.")
    return 0


def rearm_server(home: str | None, *, as_json: bool) -> int:
    """What has to happen to the server's database before a server starts on it
    (flows/prefect_server/rearm.py).

    A service that has read server.env names the database in its environment; else it is that of the
    home.
    """
    database = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL")
    if home or not database:
        folder = open_store(resolve_home(home)).home / "prefect"
        database = settings.server_environment(folder)["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
        if (url := server.running(folder)) is not None:
            raise RequestError(
                f"The server at {url} is up, and decides about its runs itself.",
                expected="a server that is about to be started",
                remedy="nothing has to be done: `discern server start` does this by itself",
            )
    count = rearm(database)
    if as_json:
        console.print_json({"waits": count})
    else:
        print(f"{count} waits for a sign of life begin anew with the server.")
    return 0
