"""One writer at a time: a lock that the kernel frees on death, and a lease for stores that are not
a local disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Waiting = Callable[[str], None]


def _holder_text(path: Path) -> str:
    try:
        holder = json.loads(path.read_text() or "{}")
    except (OSError, ValueError):
        holder = {}
    return f"{holder.get('who', 'another run')} (process {holder.get('pid', '?')})"


def _open(path: Path, public: bool) -> int:
    """Opens or makes a lock's file. A public one may be made by another user, in a folder where
    all may write: no link is followed.
    """
    known = os.O_RDWR | os.O_CLOEXEC | (os.O_NOFOLLOW if public else 0)
    # first without O_CREAT, which the kernel refuses for another user's file in such a folder
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, known)
    handle = os.open(path, known | os.O_CREAT, 0o644)
    if public:
        with contextlib.suppress(PermissionError):  # another user was quicker
            os.fchmod(handle, 0o666)
    return handle


@contextlib.contextmanager
def file_lock(
    path: Path, who: str, waiting: Waiting | None = None, *, poll: float = 0.2, public: bool = False
) -> Iterator[None]:
    """Holds an exclusive flock on `path`; waits while another process or thread has it.

    A process that dies, by kill -9 too, loses its locks at once. The file is left in place:
    removing it would let two writers hold "the same" lock on two files.

    Args:
        who: name shown to those who wait ('run cifar10-20261123-101500').
        waiting: called once, with the holder's words, if the lock is not free at once.
        public: other users of the machine may take it, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _open(path, public)
    try:
        announced = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waiting and not announced:
                    waiting(_holder_text(path))
                    announced = True
                time.sleep(poll)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"who": who, "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def shared_lock(path: Path, *, exclusive: bool = False) -> Iterator[None]:
    """Holds a flock on `path` together with others, or (`exclusive`) without any; waits for it. For
    short moments: no message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Acquires the lock of `file_lock` without waiting; yields whether it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether a living process holds a flock on `path`; False when there is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


@contextlib.contextmanager
def lease(
    filesystem: Any,
    path: str,
    who: str,
    waiting: Waiting | None = None,
    *,
    seconds: float = 60.0,
    poll: float = 0.5,
) -> Iterator[None]:
    """Holds a lease on an fsspec filesystem: a small file created only if absent, renewed by a
    thread, stale after `seconds`.

    Creation is conditional (`pipe_file(mode="create")`: If-None-Match on S3). A lease whose time is
    over is removed by a waiting run; the writer's clock decides, so clocks must agree to within a
    third of `seconds`.
    """
    token = uuid.uuid4().hex

    def body() -> bytes:
        return json.dumps({"who": who, "token": token, "until": time.time() + seconds}).encode()

    announced = False
    while True:
        try:
            filesystem.pipe_file(path, body(), mode="create")
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError, ValueError):
                held = json.loads(filesystem.cat_file(path))
                if waiting and not announced:
                    waiting(str(held.get("who", "another run")))
                    announced = True
                if held.get("until", 0) < time.time() and json.loads(filesystem.cat_file(path)).get(
                    "token"
                ) == held.get("token"):
                    filesystem.rm_file(path)
                    continue
            time.sleep(poll)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(seconds / 3):
            # any error of the store's client may pass: the next renewal is in time
            with contextlib.suppress(Exception):
                held = json.loads(filesystem.cat_file(path))
                if held.get("token") == token:
                    filesystem.pipe_file(path, body())
                else:  # only a warning: both runs will publish the same digest
                    log.warning(
                        "The lease on %s has run out and %s holds it now: two runs make the same "
                        "artifact.",
                        path,
                        held.get("who"),
                    )
                    return

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(FileNotFoundError, ValueError):
            if json.loads(filesystem.cat_file(path)).get("token") == token:
                filesystem.rm_file(path)
