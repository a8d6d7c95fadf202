"""How long work reports its progress: one callback, called often, made cheap here.

The core knows nothing of bars, logs or Prefect; the caller of a stage passes what should happen
with a report.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """Called by long work.

    Args:
        done: units finished so far, counted from 0.
        total: units in all, or 0 when unknown.
        unit: what is counted, in the plural ('images', 'kimg').
        figures: numbers worth showing with it (images per second, losses).
    """

    def __call__(self, done: float, total: float, unit: str, **figures: float) -> None: ...


def silent(done: float, total: float, unit: str, **figures: float) -> None:
    """Progress that is not shown."""


class Throttled:
    """Passes on at most one report every `seconds`, and always the last one (done == total)."""

    def __init__(self, inner: Progress, seconds: float = 0.5) -> None:
        self._inner = inner
        self._seconds = seconds
        self._next = 0.0

    def __call__(self, done: float, total: float, unit: str, **figures: float) -> None:
        now = time.monotonic()
        if now >= self._next or (total and done >= total):
            self._next = now + self._seconds
            self._inner(done, total, unit, **figures)


class Display(Protocol):
    """Shows several stages at work at once."""

    def begin(self, name: str) -> None: ...

    def update(
        self, name: str, done: float, total: float, unit: str, figures: dict[str, float]
    ) -> None: ...

    def end(self, name: str) -> None: ...


# The display of the command line; None in a worker, where lines go to the run's page.
display: ContextVar[Display | None] = ContextVar("display", default=None)


class Estimate:
    """Rate and time left of one piece of work, from its reports."""

    def __init__(self) -> None:
        self._first: tuple[float, float, str] | None = None

    def text(self, done: float, total: float, unit: str) -> str:
        """'12 of 60 kimg, 0.5 kimg/s, 1 min 36 s left'; without what is not known yet.

        The rate counts from the first report of a unit on: resumed work does not begin at 0.
        """
        now = time.monotonic()
        if self._first is None or self._first[2] != unit or done < self._first[0]:
            self._first = (done, now, unit)
        first, begun, _ = self._first
        words = [f"{figure(done)} of {figure(total)} {unit}" if total else f"{figure(done)} {unit}"]
        seconds = now - begun
        if done > first and seconds > 0.5:
            rate = (done - first) / seconds
            words.append(f"{figure(rate)} {unit}/s")
            if total > done:
                words.append(f"{duration((total - done) / rate)} left")
        return ", ".join(words)


def figure(value: float) -> str:
    """Four digits, and never 6e+04."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """'12 s', '3 min 5 s' or '2 h 4 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def line(name: str, text: str, figures: Mapping[str, float]) -> str:
    """One line of progress: what is at work, how far it is, and its figures."""
    listed = ", ".join(
        f"{word.replace('_', ' ')} {figure(value)}" for word, value in figures.items()
    )
    return f"{name}: {text}" + (f" ({listed})" if listed else "")
