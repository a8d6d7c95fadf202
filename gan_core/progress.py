"""How long work says where it stands: one callback, called often, made cheap here.

The core knows nothing of bars, logs or Prefect; whoever calls a stage passes what should happen
with a report.
"""

from __future__ import annotations

import time
from typing import Protocol


class Progress(Protocol):
    """Called by long work.

    Args:
        done: units finished so far, counted from 0.
        total: units in all, or 0 when unknown.
        unit: what is counted, in the plural ('images', 'kimg').
        figures: numbers worth showing beside it (images per second, losses).
    """

    def __call__(self, done: float, total: float, unit: str, **figures: float) -> None: ...


def silent(done: float, total: float, unit: str, **figures: float) -> None:
    """Progress that nobody watches."""


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
