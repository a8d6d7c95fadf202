"""How a process ends: with the one that started it, and, when it is asked to, at a place where
nothing is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from types import FrameType

_told = threading.Event()


def die_with_parent(parent: int) -> None:
    """Asks the kernel for SIGKILL when the parent dies (Linux), and ends at once if it is dead
    already.

    Args:
        parent: process id of the one that started this process.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def stop_on_signal(*, alone: bool) -> None:
    """SIGTERM and SIGINT (Ctrl-C) are remembered from now on: a caller of `stop_requested` saves
    its work and ends by itself.

    Args:
        alone: no parent sends SIGKILL when that takes too long
            (gan_core/pipeline/child_process.py): a second signal then ends the process as ever.
    """
    _told.clear()

    def remember(number: int, frame: FrameType | None) -> None:
        _told.set()
        if alone:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)


def stop_requested() -> bool:
    """Whether this process was asked to end since `stop_on_signal`."""
    return _told.is_set()
