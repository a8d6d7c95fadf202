"""One Prefect server for all pipeline tests, and finished runs of `digits` that tests may copy."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.prefect_server.server import client_environment, start

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ("run", "digits", "--scale", "debug", "--json")


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the session: one for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def serving(home: Path) -> Iterator[dict[str, str]]:
    """The environment of a client of a home's own Prefect server, which runs meanwhile."""
    folder = home / "prefect"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / "users.lock", "a") as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        yield client_environment(folder, start(folder))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Prefect server on loopback that all tests share: one that asks for a run names it."""
    with serving(shared_folder(tmp_path_factory) / "server") as environment:
        yield environment


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server of the module alone, for tests of a pool, a worker or `gc`."""
    with serving(tmp_path_factory.mktemp("own")) as environment:
        yield environment


@pytest.fixture(scope="session")
def command(server: dict[str, str]) -> Callable[..., Any]:
    """Starts `discern ARGUMENTS` with a home and the session's server; returns the process."""

    def begin(home: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "DISCERN_HOME"))
        }
        environment = {
            **clean,
            **server,
            "DISCERN_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=home.parent,
        )

    return begin


@pytest.fixture(scope="session")
def answer(command: Callable[..., Any]) -> Callable[..., Any]:
    """Runs `discern ARGUMENTS --json` to its end and returns what it printed; fails when its exit
    code is not `code`.
    """

    def ask(home: Path, *arguments: str, code: int = 0, **variables: str) -> Any:
        process = command(home, *arguments, **variables)
        out, err = process.communicate(timeout=1500)
        assert process.returncode == code, (
            f"exit code {process.returncode}\n{out[-3000:]}\n{err[-5000:]}"
        )
        return json.loads(out) if out.strip().startswith("{") else {"out": out, "err": err}

    return ask


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, answer: Callable[..., Any]
) -> tuple[Path, dict[str, Any]]:
    """A home with an undisturbed run of digits at debug scale, and what the command said. Not to be
    changed: copy it.
    """
    shared = shared_folder(tmp_path_factory)
    home, result = shared / "finished" / "home", shared / "finished" / "said.json"
    with open(shared / "finished.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            home.mkdir(parents=True)
            result.write_text(json.dumps(answer(home, *DIGITS)))
    return home, json.loads(result.read_text())


@pytest.fixture
def home(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the finished home."""
    target = tmp_path / "home"
    shutil.copytree(finished[0], target, symlinks=True)
    return target
