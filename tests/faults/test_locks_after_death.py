"""A lock must not outlive its holder, however it died."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from gan_core.locks import file_lock, lease

HOLDER = """
import sys, time
from pathlib import Path
from gan_core.locks import file_lock
with file_lock(Path(sys.argv[1]), "the doomed run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_kill_9_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    told: list[str] = []

    def kill_when_waiting(who: str) -> None:
        told.append(who)
        holder.send_signal(signal.SIGKILL)

    started = time.monotonic()
    with file_lock(path, "the next run", kill_when_waiting):
        pass
    holder.wait()
    assert told == [f"the doomed run (process {holder.pid})"]
    assert time.monotonic() - started < 10


def test_a_dead_lease_is_taken_over() -> None:
    filesystem = fsspec.filesystem("memory")
    path = "/dead-lease.json"
    filesystem.pipe_file(path, b'{"who": "dead", "token": "x", "until": 1.0}')
    with lease(filesystem, path, "next"):
        assert b"next" in filesystem.cat_file(path)
    assert not filesystem.exists(path)


def test_a_living_lease_is_renewed() -> None:
    filesystem = fsspec.filesystem("memory")
    path = "/living-lease.json"
    with lease(filesystem, path, "me", seconds=0.6):
        time.sleep(1.5)
        other: list[str] = []
        with pytest.raises(RuntimeError), lease(filesystem, path, "other", lambda who: _refuse(other, who), seconds=0.6):
            pass
        assert other == ["me"]


def _refuse(told: list[str], who: str) -> None:
    told.append(who)
    raise RuntimeError("would wait")
