"""Progress of long work on a terminal and elsewhere: share, rate, time left; one line per stage."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import pytest

from flows.commands import progress
from gan_core import progress as core
from gan_core.artifacts.manifest import ArtifactRef
from gan_core.contract import StageOutcome
from gan_core.pipeline.runner import StageResult, summary_line
from gan_core.progress import display
from tasks.base import TaskProgress


class Clock:
    """`time.monotonic` that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (core, progress):
        monkeypatch.setattr(module.time, "monotonic", made)
    return made


def test_rate_and_time_left_count_from_the_first_report(clock: Clock) -> None:
    estimate = core.Estimate()
    assert estimate.text(40, 100, "kimg") == "40 of 100 kimg"  # resumed at 40
    clock.now += 10
    assert estimate.text(60, 100, "kimg") == "60 of 100 kimg, 2 kimg/s, 20 s left"
    clock.now += 10
    assert estimate.text(100, 100, "kimg") == "100 of 100 kimg, 3 kimg/s"
    # other work of the same stage
    assert estimate.text(5, 5000, "pairs") == "5 of 5,000 pairs"
    clock.now += 1
    assert estimate.text(6, 5000, "pairs") == "6 of 5,000 pairs, 1 pairs/s, 1 h 23 min left"
    assert core.Estimate().text(7, 0, "files") == "7 files"


def test_elsewhere_there_is_a_plain_line_every_ten_seconds(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logger = logging.getLogger("gan_core")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])  # Prefect, once imported, has added its own
    with caplog.at_level(logging.INFO, "gan_core"), progress.shown() as shown:
        report = progress.progress_of(shown, "train")
        shown.begin("train")
        for second in range(1, 26):
            clock.now += 1
            report(second, 100, "kimg", loss_d=0.25)
        shown.end("train")
    assert [record.message for record in caplog.records] == [
        "train: 10 of 100 kimg, 1 kimg/s, 1 min 30 s left (loss d 0.25)",
        "train: 20 of 100 kimg, 1 kimg/s, 1 min 20 s left (loss d 0.25)",
    ]
    assert display.get() is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_for_each_stage_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    logger = logging.getLogger("gan_core")
    logger.setLevel(logging.INFO)
    before = logger.handlers
    with progress.shown() as shown:
        shown.begin("crop:[a] set")
        shown.begin("train")
        shown.update("crop:[a] set", 30, 120, "images", {})
        shown.update("train", 1, 4, "kimg", {})
        logger.info("hash: made 0123 in 2.0 s")
        progress_bars: Any = shown
        progress_bars._progress.refresh()
        shown.end("crop:[a] set")
        shown.end("train")
        progress_bars._progress.refresh()
    text = terminal.getvalue()
    assert "crop:[a] set" in text and "30 of 120 images" in text and " 25%" in text
    assert "1 of 4 kimg" in text and "hash: made 0123 in 2.0 s" in text
    assert logger.handlers is before


def test_a_task_reports_to_the_display_of_the_command_line() -> None:
    seen: list[tuple[Any, ...]] = []

    class Recorder:
        def begin(self, name: str) -> None: ...
        def end(self, name: str) -> None: ...
        def update(self, *given: Any) -> None:
            seen.append(given)

    token = display.set(Recorder())
    try:
        TaskProgress("train", after=60)(1, 2, "kimg", loss_d=0.5)
    finally:
        display.reset(token)
    assert seen == [("train", 1, 2, "kimg", {"loss_d": 0.5})]


def test_a_stage_ends_in_one_line() -> None:
    ref = ArtifactRef(stage="crop", key="k" * 32, digest="0123456789abcdef" * 4)
    outcome = StageOutcome(counts={"in": 1797, "ok": 1790})
    made = StageResult(
        node="crop:digits", ref=ref, cached=False, seconds=75.4, peak_memory_mb=812, outcome=outcome
    )
    assert summary_line(made) == (
        "crop:digits: made 0123456789ab in 1 min 15 s, 1,797 in, 1,790 ok, 812 MiB"
    )
    assert summary_line(made.model_copy(update={"cached": True})) == (
        "crop:digits: cached 0123456789ab"
    )
    paused = StageResult(node="train", ref=None, cached=False, paused=True, seconds=12)
    assert summary_line(paused) == "train: paused after 12 s"


def test_the_command_line_imports_prefect_only_once_its_server_is_set() -> None:
    """Prefect reads its settings when it is imported."""
    import subprocess

    code = "import sys, flows.commands.run, flows.commands.dedup; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
