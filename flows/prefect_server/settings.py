"""Settings of the home's Prefect server and of its clients: two files in `<home>/prefect`, one
source of truth.

`server.env` is what the server is started with, by `discern server start`, by a run that finds no
server, or by hand (`set -a; . server.env; prefect server start`). `worker.env` is what workers and
shells need to reach it. Both hold the generated password and can be read by their user only. What a
person changes or adds in `server.env` stays.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gan_core.artifacts.locks import file_lock
from gan_core.errors import RequestError, WorkError
from gan_core.files import atomic_write_bytes, source_root

# A run that is silent for `flows/prefect_server/provision.py: SILENCE` is taken for dead; Prefect's
# own 180 s would leave one beat for that.
HEARTBEAT_SECONDS = 60

Environment = dict[str, str]


def server_file(folder: Path) -> Path:
    """The server's settings under `<home>/prefect`."""
    return folder / "server.env"


def worker_file(folder: Path) -> Path:
    """The settings of workers and shells under `<home>/prefect`."""
    return folder / "worker.env"


def server_environment(folder: Path) -> Environment:
    """The settings that the home's server is started with; written first when missing."""
    ensure_server_file(folder)
    return read_file(server_file(folder))


def client_environment(folder: Path, url: str) -> Environment:
    """Settings of a process that talks to the home's own server."""
    return {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_URL": url,
        "PREFECT_API_AUTH_STRING": credentials(folder),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def credentials(folder: Path) -> str:
    """The home's 'user:password' for its server."""
    return server_environment(folder)["PREFECT_SERVER_API_AUTH_STRING"]


def database(folder: Path) -> str:
    """Where the server keeps its tables, without a password."""
    url = server_environment(folder)["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    if url.startswith("sqlite"):
        return unquote(urlsplit(url).path[1:])  # sqlite+aiosqlite:////an/absolute/path
    return re.sub(r"(://[^:@/]*):[^@]*@", r"\1:***@", url)


def ensure_server_file(folder: Path, port: int | None = None) -> list[str]:
    """Writes `server.env`, or adds what it lacks; a person's changes stay. `port` moves the server.

    Returns: the names of the settings that were written; none when the file was complete.
    Raises:
        WorkError: no port is free.
    """
    make_private(folder)
    with file_lock(folder / "settings.lock", "settings"):
        path = server_file(folder)
        present = read_file(path)
        at = port or int(present.get("PREFECT_SERVER_API_PORT") or 0) or free_port()
        wanted = _server_defaults(folder, at)
        moved = _address(at) if port else {}
        changes = {name: value for name, value in wanted.items() if name not in present}
        changes.update({name: value for name, value in moved.items() if present.get(name) != value})
        _update_file(path, changes, _SERVER_HEAD)
    with contextlib.suppress(FileNotFoundError):
        _update_file(
            worker_file(folder),
            {"PREFECT_API_URL": wanted["PREFECT_API_URL"]} if moved else {},
            "",
            must_exist=True,
        )
    return list(changes)


def ensure_worker_file(folder: Path, home: str) -> list[str]:
    """Writes `worker.env`; returns the names of the settings that were written."""
    server = server_environment(folder)
    wanted = {
        **client_environment(folder, server["PREFECT_API_URL"]),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "gan_core",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DISCERN_HOME": home,
        "DISCERN_CHECKOUT": source_root(),
    }
    path = worker_file(folder)
    present = read_file(path)
    changes = {name: value for name, value in wanted.items() if present.get(name) != value}
    _update_file(path, changes, _WORKER_HEAD)
    return list(changes)


def make_private(folder: Path) -> bool:
    """Closes Prefect's folder and its results to others (a result that others may write is code);
    returns whether it had to.
    """
    changed = False
    for place in (folder, folder / "storage"):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.stat().st_mode & 0o077:
            place.chmod(0o700)
            changed = True
    return changed


def read_file(path: Path) -> Environment:
    """The settings of an environment file; none when there is no file.

    Raises:
        RequestError: a line that a shell would not read as NAME=VALUE.
    """
    found: Environment = {}
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return found
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        try:
            words = shlex.split(value, comments=True)
        except ValueError:
            words = ["", ""]
        if not equals or not name.isidentifier() or len(words) > 1:
            raise RequestError(
                f"Line {number} of {path} is no setting: {line!r}.",
                expected="NAME=VALUE, quoted as in a shell",
            )
        found[name] = words[0] if words else ""
    return found


def free_port() -> int:
    """A port of loopback that is free.

    Raises:
        WorkError: there is none.
    """
    if port := _bound(0):
        return port
    raise WorkError("No port is free on loopback.")


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback."""
    return _bound(port) is not None


def _bound(port: int) -> int | None:
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])
    return None


def _address(port: int) -> Environment:
    origin = f"http://127.0.0.1:{port}"
    return {
        # not `--port`: the UI would go on calling port 4200
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": f"{origin}/api",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origin,
    }


def _server_defaults(folder: Path, port: int) -> Environment:
    login = f"discern:{secrets.token_urlsafe(18)}"
    present = read_file(server_file(folder))
    login = (
        present.get("PREFECT_SERVER_API_AUTH_STRING")
        or present.get("PREFECT_API_AUTH_STRING")
        or login
    )
    return {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        **_address(port),
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_API_AUTH_STRING": login,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        # the recorder takes task runs one by one otherwise: half a minute behind after a thousand
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        # in memory, a slot whose holder died stays taken for ever after a restart of the server
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
    }


_SERVER_HEAD = """\
# Settings of this home's Prefect server, used by `discern server start`; by hand:
# `set -a; . server.env; set +a; prefect server start`. Change or add what you like: `discern setup`
# only adds what is missing. Holds the password: keep it to yourself (mode 0600).
"""
_WORKER_HEAD = """\
# Settings of workers and shells that use this home's Prefect server:
# `set -a; . worker.env; set +a`. `discern setup` writes it from server.env. Holds the password:
# keep it to yourself (mode 0600).
"""


def _update_file(path: Path, changes: Environment, head: str, *, must_exist: bool = False) -> None:
    """Changes or adds lines of an environment file, and leaves the others as they are."""
    if must_exist:
        path.stat()
    if not changes and path.exists():
        path.chmod(0o600)  # the folder is closed to others, so that no moment is lost before this
        return
    lines = path.read_text().splitlines() if path.exists() else head.splitlines()
    rest = dict(changes)
    for number, line in enumerate(lines):
        name = line.strip().removeprefix("export ").partition("=")[0]
        if name in rest:
            lines[number] = f"{name}={shlex.quote(rest.pop(name))}"
    lines += [f"{name}={shlex.quote(value)}" for name, value in rest.items()]
    atomic_write_bytes(path, ("\n".join(lines) + "\n").encode())
    path.chmod(0o600)
