"""The Prefect server behind a run: the configured one, or the home's own on loopback, which runs
while a process uses it.

A supervisor process starts the home's server. Each process that uses the server holds a shared lock
on `<home>/prefect/users.lock`; the kernel frees it when the process dies. When no process holds it
the supervisor stops the server. So two runs share one server, a killed run leaves none behind, and
`discern server start` starts a process that holds the lock until `discern server stop`.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from flows.prefect_server.settings import (
    client_environment,
    ensure_server_file,
    free_port,
    is_free,
    read_file,
    server_environment,
    server_file,
)
from gan_core.artifacts.locks import file_lock
from gan_core.errors import WorkError
from gan_core.files import source_root, write_json

START_SECONDS = 300.0


def configured(name: str) -> str | None:
    """A setting of Prefect's from the user's environment or active Prefect profile, without
    importing Prefect.
    """
    if value := os.environ.get(name):
        return value
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    try:
        content = tomllib.loads((home / "profiles.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return None
    active = os.environ.get("PREFECT_PROFILE") or content.get("active")
    profile = content.get("profiles", {}).get(active, {}) if active else {}
    return profile.get(name) if isinstance(profile, dict) else None


def configured_api() -> str | None:
    """The API address that the user's environment or active Prefect profile names."""
    return configured("PREFECT_API_URL")


def external_api(folder: Path) -> str | None:
    """The configured API address where it is not that of the home's own server, else None."""
    url = configured_api()
    return None if url == read_file(server_file(folder)).get("PREFECT_API_URL") else url


def check_login(url: str, folder: Path) -> None:
    """Refuses a configured server that answers but refuses this login.

    Raises:
        WorkError: it requires a password, and none or another is set.
    """
    login = configured("PREFECT_API_AUTH_STRING")
    if configured("PREFECT_API_KEY"):
        return  # not signed in by password
    try:
        ask(url, "/admin/version", login)
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise WorkError(
                f"The Prefect server at {url} requires a password, and "
                + (
                    "does not take the one in PREFECT_API_AUTH_STRING."
                    if login
                    else "PREFECT_API_AUTH_STRING is not set."
                ),
                expected="the password of that server, as user:password",
                remedy=(
                    f"set -a; . {folder}/worker.env; set +a   (or the worker.env of the home "
                    "that the server belongs to)"
                ),
            ) from error
    except (OSError, ValueError):
        return  # `healthy` has said that it is up; what else is wrong is Prefect's to say


def healthy(url: str, login: str | None = None, timeout: float = 10.0) -> bool:
    """Whether a Prefect API answers at `url`; with a login, whether it is one that this login
    opens.

    Where nothing listens the answer is quick; a busy server is given time.
    """
    try:
        ask(url, "/health" if login is None else "/admin/version", login, timeout)
    except (OSError, urllib.error.URLError, ValueError):
        return False
    return True


def ask(
    url: str, path: str, login: str | None = None, timeout: float = 5.0, *, body: Any = None
) -> Any:
    """What a Prefect API answers to a GET, or with a body to a POST, without importing Prefect."""
    headers = (
        {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    )
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers |= {"Content-Type": "application/json", **_csrf(url, login, timeout)}
    with urllib.request.urlopen(
        urllib.request.Request(url + path, data=data, headers=headers), timeout=timeout
    ) as answer:
        return json.loads(answer.read())


def _csrf(url: str, login: str | None, timeout: float) -> dict[str, str]:
    """The token that a server with CSRF protection requires for a POST; empty without."""
    client = f"discern-{os.getpid()}"
    try:
        return {
            "Prefect-Csrf-Token": ask(url, f"/csrf-token?client={client}", login, timeout)["token"],
            "Prefect-Csrf-Client": client,
        }
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise
        return {}


def running(folder: Path) -> str | None:
    """The API address of the home's server if it is up; another home's server does not count."""
    settings = read_file(server_file(folder))
    url, login = settings.get("PREFECT_API_URL"), settings.get("PREFECT_SERVER_API_AUTH_STRING")
    return url if url and login and healthy(url, login) else None


def reachable(home: Path) -> str | None:
    """The API address of the server that a run of this home would use, if it is up now."""
    if (url := configured_api()) is not None:
        return url if healthy(url, configured("PREFECT_API_AUTH_STRING"), timeout=3) else None
    return running(home / "prefect")


def login_of(home: Path, url: str) -> str | None:
    """The 'user:password' for a server: the home's own, or the configured one."""
    own = read_file(server_file(home / "prefect"))
    if own.get("PREFECT_API_URL") == url:
        return own.get("PREFECT_SERVER_API_AUTH_STRING")
    return configured("PREFECT_API_AUTH_STRING")


def _nothing() -> None:
    pass


@contextlib.contextmanager
def prefect_server(home: Path, meanwhile: Callable[[], None] = _nothing) -> Iterator[str]:
    """The API address to use during a block; starts the home's own server when none is configured.

    Sets Prefect's environment variables in this process: import Prefect only inside the block.

    Args:
        meanwhile: called once before the block, while the server starts where it has to. What it
            raises is raised, and the server ends by itself.
    Raises:
        WorkError: the server does not come up, and the message names its log; or a configured one
            does not answer.
    """
    folder = home / "prefect"
    if (url := external_api(folder)) is not None:
        if not healthy(url):
            raise WorkError(
                f"The Prefect server at {url} does not answer.",
                expected="the server that PREFECT_API_URL or the active profile names",
                remedy="start it, or unset PREFECT_API_URL: the home's own server is then used",
            )
        check_login(url, folder)
        os.environ.setdefault("PREFECT_API_URL", url)
        meanwhile()
        yield url
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "users.lock", "a") as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        url = start(folder, meanwhile)
        os.environ.update(client_environment(folder, url))
        yield url


def start(folder: Path, meanwhile: Callable[[], None] = _nothing) -> str:
    """Starts the home's server unless it runs, and waits until it answers. The caller holds the
    users' lock. Args: meanwhile: see `prefect_server`.
    """
    with file_lock(folder / "start.lock", "a starting server"):
        if (url := running(folder)) is None:
            _start_supervisor(folder)
            meanwhile()
            return _wait(folder)
    meanwhile()
    return url


def _start_supervisor(folder: Path) -> None:
    with open(_log(folder), "ab") as out:
        subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server.server", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": source_root()},
        )


def _wait(folder: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (url := running(folder)) is not None:
            return url
        time.sleep(0.2)
    raise WorkError(
        f"The Prefect server did not come up within {START_SECONDS:.0f} s.",
        expected="a server on loopback",
        remedy=f"its log is {_log(folder)}; `discern doctor` checks the pins that it needs",
    )


def _log(folder: Path) -> Path:
    return folder / "server.log"


def supervise(folder: Path) -> None:
    """Runs the server until no process holds the users' lock. Runs in a process of its own."""
    settings = server_environment(folder)
    if not is_free(int(settings["PREFECT_SERVER_API_PORT"])):
        if healthy(
            settings["PREFECT_API_URL"], settings["PREFECT_SERVER_API_AUTH_STRING"], timeout=60
        ):
            return  # it was only busy
        # another program has the port by now
        ensure_server_file(folder, free_port())
        settings = server_environment(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start"], env={**os.environ, **settings}
    )
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    time.sleep(2.0)
    idle = 0
    with open(folder / "users.lock", "a") as users:
        while process.poll() is None:
            time.sleep(0.5)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                idle = 0
                continue
            idle += 1
            if idle >= 3:
                # with the lock held: a new user waits for the server's end, and starts another
                break
            fcntl.flock(users, fcntl.LOCK_UN)
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def hold(folder: Path) -> int:
    """Starts a process that holds the users' lock until SIGTERM (`discern server start`); returns
    its process id.
    """
    command = [sys.executable, "-m", "flows.prefect_server.server", str(folder), "--hold"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": source_root()},
    )
    return process.pid


def _hold(folder: Path) -> None:
    with open(folder / "hold.lock", "a") as alone, open(folder / "users.lock", "a") as user:
        # held for life: a free lock means that there is no holder
        fcntl.flock(alone, fcntl.LOCK_EX)
        fcntl.flock(user, fcntl.LOCK_SH)
        write_json(folder / "hold.json", {"pid": os.getpid()})
        start(folder)
        signal.pause()


def holder(folder: Path) -> int | None:
    """The id of the process that `hold` started, while it lives (its lock says so)."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError),
        open(folder / "hold.lock", "a") as alone,
    ):
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(json.loads((folder / "hold.json").read_text())["pid"])
    return None


def release(folder: Path) -> bool:
    """Ends the process that `hold` started; False when there is none. The supervisor then stops the
    server unless a run still uses it.
    """
    pid = holder(folder)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    while holder(folder) == pid:
        time.sleep(0.05)
    return True


def usage(folder: Path) -> Literal["used", "free", "stopping"]:
    """Whether processes hold the users' lock, or the supervisor, which then stops the server."""
    with open(folder / "users.lock", "a") as user:
        try:
            fcntl.flock(user, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return "stopping"
        try:
            fcntl.flock(user, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "used"
    return "free"


if __name__ == "__main__":
    (_hold if "--hold" in sys.argv else supervise)(Path(sys.argv[1]))
