"""Progress of long work: a bar for each stage at work on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gan_core.progress import Display, Estimate, Progress, display, line

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

log = logging.getLogger("gan_core.progress")
LINE_SECONDS = 10.0  # between two plain lines of a stage


class Bars:
    """Bars of a `rich.progress.Progress`: name, share, rate and time left of each stage at work."""

    def __init__(self, progress: RichProgress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._estimates: dict[str, Estimate] = {}

    def begin(self, name: str) -> None:
        self._tasks[name] = self._progress.add_task(name, total=None, about="")
        self._estimates[name] = Estimate()

    def update(
        self, name: str, done: float, total: float, unit: str, figures: dict[str, float]
    ) -> None:
        if name not in self._tasks:
            self.begin(name)
        about = self._estimates[name].text(done, total, unit)
        self._progress.update(self._tasks[name], completed=done, total=total or None, about=about)

    def end(self, name: str) -> None:
        self._estimates.pop(name, None)
        if (task := self._tasks.pop(name, None)) is not None:
            self._progress.remove_task(task)


class Lines:
    """A plain line every `LINE_SECONDS` of each stage at work."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._estimates: dict[str, Estimate] = {}

    def begin(self, name: str) -> None:
        self._next[name] = time.monotonic() + LINE_SECONDS
        self._estimates[name] = Estimate()

    def update(
        self, name: str, done: float, total: float, unit: str, figures: dict[str, float]
    ) -> None:
        if name not in self._next:
            self.begin(name)
        text = self._estimates[name].text(done, total, unit)
        if time.monotonic() >= self._next[name]:
            self._next[name] = time.monotonic() + LINE_SECONDS
            log.info(line(name, text, figures))

    def end(self, name: str) -> None:
        self._next.pop(name, None)
        self._estimates.pop(name, None)


@contextlib.contextmanager
def shown() -> Iterator[Display]:
    """Shows the progress of the stages that are run within the block, on standard error.

    On a terminal the log's lines appear above the bars.
    """
    with contextlib.ExitStack() as stack:
        chosen: Display = stack.enter_context(_bars()) if sys.stderr.isatty() else Lines()
        token = display.set(chosen)
        try:
            yield chosen
        finally:
            display.reset(token)


def progress_of(shown_by: Display, name: str) -> Progress:
    """A `Progress` of the core that is shown as `name`."""

    def report(done: float, total: float, unit: str, **figures: float) -> None:
        shown_by.update(name, done, total, unit, figures)

    return report


@contextlib.contextmanager
def _bars() -> Iterator[Bars]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[about]}", markup=False),
        console=console,
        transient=True,
        refresh_per_second=4,
    )
    core = logging.getLogger("gan_core")
    before = core.handlers
    handler = _Above(console)
    handler.setFormatter(logging.Formatter("%(message)s"))
    core.handlers = [handler]
    try:
        with progress:
            yield Bars(progress)
    finally:
        core.handlers = before


class _Above(logging.Handler):
    """Prints log lines above the bars."""

    def __init__(self, console: Any) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record))
