"""Ends the stages of a run that work in other threads: one of them failed, or the user stops them.

A stage in a child process gets TERM, which lets a training save its state; a stage in a thread of
this process gets a KeyboardInterrupt at its next line of Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0


class Work:
    """The stages of one run that are at work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._processes: dict[subprocess.Popen[str], str] = {}
        self.ended = False

    @contextlib.contextmanager
    def thread(self) -> Iterator[None]:
        """A stage works in the current thread."""
        name = threading.get_ident()
        with self._lock:
            self._threads.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._threads.discard(name)

    @contextlib.contextmanager
    def process(self, child: subprocess.Popen[str], note: str) -> Iterator[None]:
        """A stage works in a child, for which the current thread waits.

        Args:
            note: logged when the child is asked to end.
        Raises:
            KeyboardInterrupt: the work was ended meanwhile.
        """
        name = threading.get_ident()
        with self._lock:
            self._threads.discard(name)
            self._processes[child] = note
            if self.ended:
                child.terminate()
        try:
            yield
            if self.ended:
                raise KeyboardInterrupt
        finally:
            with self._lock:
                self._processes.pop(child, None)
                self._threads.add(name)

    def end(self) -> None:
        """Ends all that is at work; children that stay past a grace period are killed.

        Interrupted itself, it kills them at once.
        """
        with self._lock:
            self.ended = True
            children = list(self._processes)
            for child, note in self._processes.items():
                if child.poll() is None:
                    log.info("%s", note)
                    child.terminate()
            for name in self._threads:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(name), ctypes.py_object(KeyboardInterrupt)
                )
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()


current: ContextVar[Work | None] = ContextVar("work", default=None)
