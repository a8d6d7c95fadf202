"""`discern setup`: the settings files of the home's server, and what the server must hold. May be
repeated.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.home import checkout, deployments_file, open_store, resolve_home
from flows.prefect_server import server, settings
from gan_core.errors import RequestError

Step = tuple[str, str, str]


def setup(
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help="port of the home's server on loopback (a free one)", min=1, max=65535
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", help="runs at a time in the pool (1)")
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            "--notify", help="address that failures are posted to as JSON; 'none' removes it"
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> int:
    """Writes settings, makes pool, block and automations; says what it made, changed, and found as
    it was.
    """
    if slots is not None and slots < 1:
        raise RequestError(
            f"--slots is {slots}.", expected="1 run at a time, or one for each GPU of the machine"
        )
    store = open_store(resolve_home(home))
    folder = store.home / "prefect"
    external = server.external_api(folder)
    if port is not None and external:
        raise RequestError(
            f"--port {port} was given, and the configured server is {external}: its port is its "
            "operator's.",
            expected="--port with the home's own server only",
            remedy=(
                "leave --port out, or unset PREFECT_API_URL (and the active profile's) to set "
                "up the home's own server"
            ),
        )
    steps = [] if external else _files(folder, store.address, port)
    with server.prefect_server(store.home) as url:
        from flows import represent
        from flows.prefect_server.provision import provision

        steps += provision([*represent.ALL, "stage", "gc"], slots, notify)
    _print_steps(steps, url if external else None, str(folder), as_json)
    return 0


def _files(folder: Path, home: str, port: int | None) -> list[Step]:
    if port is not None and port != _port(folder):
        if server.running(folder):
            raise RequestError(
                f"The server is up on port {_port(folder)}, and --port {port} was asked for.",
                expected="a server that is stopped while its port changes",
                remedy="`discern server stop`, then the same command again",
            )
        if not settings.is_free(port):
            raise RequestError(f"Port {port} of loopback is taken.", expected="a free port")
    closed = settings.make_private(folder)
    steps: list[Step] = [
        ("results folder", "changed" if closed else "as it was", f"{folder}, closed to others")
    ]
    writers: list[tuple[Path, Callable[[], list[str]]]] = [
        (settings.server_file(folder), lambda: settings.ensure_server_file(folder, port)),
        (settings.worker_file(folder), lambda: settings.ensure_worker_file(folder, home)),
    ]
    before = {path: settings.read_file(path) for path, _ in writers}
    for path, write in writers:
        new = not before[path]
        write()
        written = [
            name
            for name, value in settings.read_file(path).items()
            if before[path].get(name) != value
        ]
        text = f"{len(written)} settings" if new else ", ".join(written) or "complete"
        steps.append(
            (path.name, "made" if new else "changed" if written else "as it was", f"{path}: {text}")
        )
    return steps


def _port(folder: Path) -> int | None:
    port = settings.read_file(settings.server_file(folder)).get("PREFECT_SERVER_API_PORT")
    return int(port) if port else None


def _print_steps(steps: list[Step], url: str | None, folder: str, as_json: bool) -> None:
    changed = [what for what, state, _ in steps if state in ("made", "changed", "removed")]
    if as_json:
        console.print_json(
            {
                "steps": [
                    dict(zip(("what", "state", "text"), step, strict=True)) for step in steps
                ],
                "changed": changed,
            }
        )
        return
    for what, state, text in steps:
        print(f"{state:<10} {what:<46} {text}")
    if url:
        print(
            f"\nDone on the configured server {url}; its settings are its operator's: none were "
            "written."
        )
    if not changed:
        print("\nNothing to change: everything is set up.")
        return
    file = "" if checkout() else f" --prefect-file {shlex.quote(str(deployments_file()))}"
    print(
        f"\nNext: discern server start\n      set -a; . {folder}/worker.env; set +a\n"
        f"      prefect --no-prompt deploy --all{file or '        (from the checkout)'}\n"
        "      prefect worker start --pool discern"
    )
