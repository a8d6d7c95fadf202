"""Commands on the home: verify its artifacts, start and stop its server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flows.commands import console
from flows.home import open_store, resolve_home
from flows.prefect_server import server, settings
from flows.prefect_server.past_runs import enter_past_runs
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import RequestError, WorkError

STOP_SECONDS = 15.0  # after which a server without users is not ours to stop


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


def start_server(home: str | None, *, as_json: bool) -> int:
    """Starts the home's server, which then runs until `discern server stop`."""
    place = open_store(resolve_home(home)).home
    folder = place / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    if server.holder(folder) is None:
        server.hold(folder)
    deadline = time.monotonic() + server.START_SECONDS
    while (url := server.running(folder)) is None or server.holder(folder) is None:
        if time.monotonic() > deadline:
            raise WorkError(
                "The Prefect server did not come up.", remedy=f"its log is {folder / 'server.log'}"
            )
        time.sleep(0.3)
    enter_past_runs(place, url, settings.credentials(folder))
    user, _, password = settings.credentials(folder).partition(":")
    started: dict[str, Any] = {
        "url": url.removesuffix("/api"),
        "user": user,
        "password": password,
        "database": settings.database(folder),
    }
    if as_json:
        console.print_json(started)
    else:
        print(
            f"Prefect UI  {started['url']}\nsign in     {user}:{password}\ndatabase    "
            f"{started['database']}"
        )
        print(f"artifacts   {started['url']}/v2/artifacts\nstop        discern server stop")
    return 0


def stop_server(home: str | None, *, as_json: bool) -> int:
    """Stops the home's server and waits until it has stopped; at once while a run uses it."""
    folder = open_store(resolve_home(home), writing=False).home / "prefect"
    state = _stop(folder) if folder.is_dir() else "not running"
    if as_json:
        console.print_json({"state": state})
    else:
        print(f"The server is {state}.")
    return 0


def _stop(folder: Path) -> str:
    held = server.release(folder)
    deadline = time.monotonic() + STOP_SECONDS
    while (usage := server.usage(folder)) != "used":
        if usage == "free" and server.running(folder) is None:
            return "stopped" if held else "not running"
        if usage == "free" and time.monotonic() > deadline:
            return "still up: another program started it, such as a service; stop it there"
        time.sleep(0.2)
    return "still used by a run; it stops with it"
