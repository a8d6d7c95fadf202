"""A lock must not outlive its holder, however it died."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest

from gan_core.artifacts.locks import file_lock, lease
from gan_core.devices import cuda_count
from gan_core.pipeline.gpu_lock import identities

HOLDER = """
import sys, time
from pathlib import Path
from gan_core.devices import cuda_count
from gan_core.pipeline.gpu_lock import identities
from gan_core.artifacts.locks import file_lock
with file_lock(Path(sys.argv[1]), "the doomed run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_kill_9_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    message: list[str] = []

    def kill_when_waiting(who: str) -> None:
        message.append(who)
        holder.send_signal(signal.SIGKILL)

    started = time.monotonic()
    with file_lock(path, "the next run", kill_when_waiting):
        pass
    holder.wait()
    assert message == [f"the doomed run (process {holder.pid})"]
    assert time.monotonic() - started < 10


GPU_USER = """
import sys, time
from pathlib import Path
from gan_core.pipeline import gpu_lock as gpus
gpus.PLACE = Path(sys.argv[1])
def waiting(holder):
    print("waits for", holder, flush=True)

with gpus.exclusive_use(sys.argv[3:], sys.argv[2], waiting):
    print("has it", flush=True)
    time.sleep(60)
"""


def test_a_gpu_belongs_to_one_run_until_it_dies(tmp_path: Path) -> None:
    def use(who: str, *devices: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", GPU_USER, str(tmp_path), who, *devices]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def says(process: subprocess.Popen[str]) -> str:
        assert process.stdout
        return process.stdout.readline()

    assert identities("cpu", 4) == [], "on a CPU no process waits"
    users = [use("run first", "b", "a")]
    assert says(users[0]) == "has it\n"
    users += [use("run second", "a", "b"), use("run other", "c"), use("run on the CPU")]
    assert says(users[1]) == f"waits for run first (process {users[0].pid})\n"
    assert says(users[2]) == says(users[3]) == "has it\n", "another device has its own lock"
    users[0].kill()
    assert says(users[1]) in ("has it\n", f"waits for run first (process {users[0].pid})\n")
    assert (tmp_path / "discern-gpu-a.lock").stat().st_mode & 0o777 == 0o666, (
        "another user may wait for it, too"
    )
    for user in users:
        user.kill()
        user.communicate()


@pytest.mark.skipif(not cuda_count(), reason="no GPU here")
def test_a_gpu_is_known_by_its_uuid() -> None:
    (name,) = identities("cuda")
    assert len(name) == 32 and identities("cuda:0") == [name]


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
        with (
            pytest.raises(RuntimeError),
            lease(filesystem, path, "other", lambda who: _refuse(other, who), seconds=0.6),
        ):
            pass
        assert other == ["me"]


def _refuse(message: list[str], who: str) -> None:
    message.append(who)
    raise RuntimeError("would wait")
