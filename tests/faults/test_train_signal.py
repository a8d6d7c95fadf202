"""A training that gets a signal to end: its state is saved first, and the sender decides what that
means.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.errors import DiscernError, TransientError, WorkError
from gan_core.pipeline import child_process as child
from gan_core.progress import silent
from gan_core.training import checkpoint as state
from tests.stages.digits_artifacts import digits_crops


def request(folder: Path) -> StageRequest:
    digits_crops(folder / "pack", count=80)
    (folder / "work").mkdir()
    train = {
        "network": {"name": "dcgan32_svhn", "width": 0.125},
        "batch": 16,
        "kimg": 4000,
        "log_kimg": 0.1,
        "state_kimg": 4000,
    }
    return StageRequest(
        stage="train",
        node="train",
        key="0" * 32,
        part={"train": train, "seed": 0, "threads": 1, "image_size": 32},
        inputs={
            "pack": [
                StageInput(
                    ref=ArtifactRef(stage="pack", key="0" * 32, digest="0" * 64),
                    path=folder / "pack",
                )
            ]
        },
        context={"device": "cpu", "state": str(folder / "state")},
        work=folder / "work",
    )


def reached(folder: Path) -> int:
    """Images at the last line of statistics."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(
            json.loads((folder / "state" / "stats.jsonl").read_text().splitlines()[-1])["images"]
        )
    return 0


def expected(
    folder: Path, tell: Callable[[int], None], limit: float = 300.0
) -> tuple[int, BaseException | StageOutcome]:
    """Runs a training in a child and, once it is at work, tells its process something. Returns: how
    far it was by then, what came of it.
    """
    came: list[BaseException | StageOutcome] = []

    def run() -> None:
        try:
            came.append(child.run_child(request(folder), silent, limit)[0])
        except DiscernError as error:
            came.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        deadline = time.monotonic() + 1500
        while (images := reached(folder)) < 500:
            assert thread.is_alive() and time.monotonic() < deadline, came
            time.sleep(0.05)
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(folder / "work").encode() in (place / "cmdline").read_bytes():
                    tell(int(place.name))
    finally:
        thread.join(200)
    return images, came[0]


def saved(folder: Path) -> int:
    found = state.load_state(folder / "state", 10**9)
    return found[0].images if found else 0


def test_whoever_ends_the_training_alone_has_it_tried_again(tmp_path: Path) -> None:
    """A run that went on without it would end as a success, without features."""
    images, error = expected(tmp_path, lambda process: os.kill(process, signal.SIGTERM))
    assert (
        isinstance(error, TransientError)
        and "ended by a signal; its state is saved" in error.message
    )
    assert saved(tmp_path) >= images


class Timer:
    """In the place of threading.Timer: the time is over when a test says so, however slow the
    machine.
    """

    made: ClassVar[list[Timer]] = []

    def __init__(
        self, seconds: float, function: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        self.over = partial(function, *args)
        self.made.append(self)

    def start(self) -> None:
        pass

    def cancel(self) -> None:
        pass


@pytest.mark.parametrize("grace", [child.GRACE_SECONDS, 0.0])
def test_the_time_limit_is_the_reason_that_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace: float
) -> None:
    """The state is saved first; what takes longer than the grace period is killed."""
    monkeypatch.setattr(child, "GRACE_SECONDS", grace)
    monkeypatch.setattr(child.threading, "Timer", Timer)
    images, error = expected(tmp_path, lambda process: Timer.made.pop().over(), limit=1234.0)
    assert (
        isinstance(error, WorkError)
        and not isinstance(error, TransientError)
        and "time limit of 1234 s" in error.message
    )
    assert not grace or saved(tmp_path) >= images
