"""Stages in child processes: a time limit, a killed child, a killed parent, an error from
inside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan_core.contract import ArtifactRef, StageInput, StageRequest
from gan_core.errors import DataError, TransientError, WorkError
from gan_core.pipeline import child_process as child
from gan_core.pipeline.child_process import run_child
from gan_core.progress import silent
from tests.stages.digits_artifacts import digits_crops

ROOT = Path(__file__).resolve().parents[2]


def train_request(folder: Path, kimg: float = 100_000.0, batch: int = 16) -> StageRequest:
    """A training of hours on a few digits."""
    crops = digits_crops(folder / "pack", count=80)
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    network = {"name": "dcgan32_svhn", "width": 0.125}
    return StageRequest(
        stage="train",
        node="train",
        key="0" * 32,
        part={
            "train": {"network": network, "kimg": kimg, "batch": batch},
            "seed": 0,
            "threads": 1,
            "image_size": 32,
        },
        inputs={
            "pack": [
                StageInput(ref=ArtifactRef(stage="pack", key="0" * 32, digest="0" * 64), path=crops)
            ]
        },
        context={"device": "cpu", "state": str(folder / "state")},
        work=work,
    )


def test_a_time_limit_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 3.0)
    started = time.monotonic()
    with pytest.raises(WorkError, match="time limit of 6 s") as caught:
        run_child(train_request(tmp_path), silent, time_limit=6.0)
    assert time.monotonic() - started < 60
    assert not caught.value.retryable and "continues" in caught.value.remedy
    assert not children()


def test_a_killed_child_is_worth_another_try(tmp_path: Path) -> None:
    def kill_once_it_trains(done: float, total: float, unit: str, **figures: float) -> None:
        for pid in children():
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(TransientError, match="signal 9") as caught:
        run_child(train_request(tmp_path), kill_once_it_trains, time_limit=300.0)
    assert caught.value.retryable


def test_an_error_from_inside_arrives_as_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="batch") as caught:
        run_child(train_request(tmp_path, batch=4096), silent, time_limit=300.0)
    assert caught.value.remedy and not caught.value.retryable


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from gan_core.pipeline.child_process import run_child\n"
        "from tests.faults.test_child_process import train_request, children\n"
        "def started(*a, **k): print(*children(), flush=True)\n"
        "run_child(train_request(Path(sys.argv[1])), started, time_limit=300.0)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert parent.stdout
    pid = int(parent.stdout.readline().split()[0])
    assert alive(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 120
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def children() -> list[int]:
    """Processes of `python -m gan_core` whose parent is this process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and b"gan_core" in command and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
