"""`discern server start` and `stop`: the home's own Prefect server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.home import open_store, resolve_home
from flows.prefect_server import server, settings
from flows.prefect_server.past_runs import enter_past_runs
from gan_core.errors import WorkError

STOP_SECONDS = 15.0  # after which a server without users is not ours to stop
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.command("start", help="Start the home's Prefect server and keep it running.")
def start_server(home: HomeOption = None, as_json: JsonOption = False) -> int:
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


@app.command(
    "stop", help="Stop the server; returns when it has stopped, or at once while a run uses it."
)
def stop_server(home: HomeOption = None, as_json: JsonOption = False) -> int:
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
