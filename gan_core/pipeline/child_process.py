"""A stage in a process of its own: request as a JSON file, progress and outcome as JSON lines,
death with its parent.

A child can be stopped at a time limit, gives its GPU memory back, and is out of reach of what the
parent's libraries do to forked processes.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from typing import IO

from gan_core.contract import StageOutcome, StageRequest
from gan_core.errors import DiscernError, TransientError, WorkError, error_from_json
from gan_core.files import atomic_write_bytes, source_root
from gan_core.pipeline.interruption import GRACE_SECONDS, current
from gan_core.progress import Progress

log = logging.getLogger(__name__)

_TAIL_LINES = 30


def run_child(
    request: StageRequest, progress: Progress, time_limit: float, processes: int = 1
) -> tuple[StageOutcome, float]:
    """Runs a stage as `python -m gan_core STAGE request.json` and waits for it.

    Args:
        processes: above 1 torchrun starts this many; all die with this process, and the loss of
            one is one error.
        time_limit: seconds; after it the child gets TERM, and KILL when it is still there after a
            grace period.
    Returns: the outcome, and the child's peak resident memory in MiB.
    Raises:
        DiscernError: the child's own error, as raised there.
        WorkError: the time limit was reached.
        TransientError: the child died without a message (killed, out of memory).
    """
    process = _start(request, processes)
    tail: list[str] = []
    # In the caller's context, so that a log handler there knows which run a line belongs to.
    inside = contextvars.copy_context()
    reader = threading.Thread(
        target=inside.run, args=(_forward_log, process.stderr, request.node, tail), daemon=True
    )
    reader.start()
    expired = threading.Event()
    timer = threading.Timer(time_limit, _end, (process, expired))
    timer.daemon = True
    timer.start()
    state = ", and saves its state first" if request.stage == "train" else ""
    note = f"{request.node}: is asked to end{state}."
    work = current.get()
    try:
        with work.process(process, note) if work else contextlib.nullcontext():
            outcome, error, peak = _listen(process.stdout, progress)
            code = process.wait()
    except BaseException:
        if process.poll() is None:
            log.info("%s", note)
        _terminate(process)
        if request.stage == "train" and process.returncode == -signal.SIGKILL:
            log.warning(
                "%s: did not end by itself and was killed: it goes on from its last saved state.",
                request.node,
            )
        raise
    finally:
        timer.cancel()
        reader.join(timeout=5)
    if expired.is_set():
        raise WorkError(
            f"{request.node} was ended after its time limit of {time_limit:.0f} s.",
            remedy="run the same command again: it continues; or split the work with --max-seconds",
        )
    if error is not None:
        raise error
    if outcome is None or code != 0:
        raise _died(request.node, code, tail)
    return outcome, peak


def _start(request: StageRequest, processes: int) -> subprocess.Popen[str]:
    """Writes the request as a file and starts the child."""
    share = "-{}-of-{}".format(*request.context["share"]) if "share" in request.context else ""
    path = request.work / "scratch" / f"request{share}.json"
    atomic_write_bytes(path, request.model_dump_json().encode())
    command = [
        sys.executable,
        "-m",
        "gan_core",
        request.stage,
        str(path),
        "--parent",
        str(os.getpid()),
    ]
    if processes > 1:
        command += ["--processes", str(processes)]
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",  # see flows/__init__.py
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(source_root()), os.environ.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep),
    }
    # In a session of its own: a terminal's Ctrl-C reaches this process alone, which then sends the
    # child one signal.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _died(node: str, code: int, tail: list[str]) -> TransientError:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return TransientError(
        f"The process of {node} died ({how}) without an error message.",
        expected="enough memory, and a process that is not killed",
        remedy="run the same command again: it continues. Its last lines: "
        + (" | ".join(tail[-3:]) or "none"),
    )


def _listen(
    stream: IO[str] | None, progress: Progress
) -> tuple[StageOutcome | None, DiscernError | None, float]:
    outcome: StageOutcome | None = None
    errors: list[DiscernError] = []
    peak = 0.0
    for line in stream or []:
        try:
            message = json.loads(line)
        except ValueError:
            log.info("%s", line.rstrip())
            continue
        if "progress" in message:
            report = message["progress"]
            progress(report["done"], report["total"], report["unit"], **report.get("figures", {}))
        elif "error" in message:
            errors.append(error_from_json(message["error"]))
        elif "outcome" in message:
            outcome = StageOutcome.model_validate(message["outcome"])
            peak = float(message.get("peak_memory_mb", 0.0))
    # Of several processes one reports the cause; the others lost contact with it, and report errors
    # that may be retried.
    causes = [error for error in errors if not error.retryable]
    return outcome, next(iter(causes or errors[::-1]), None), peak


def _forward_log(stream: IO[str] | None, node: str, tail: list[str]) -> None:
    for line in stream or []:
        text = line.rstrip()
        if text:
            tail.append(text)
            del tail[:-_TAIL_LINES]
            log.info("%s", text if text.startswith(node) else f"{node}: {text}")


def _end(process: subprocess.Popen[str], expired: threading.Event) -> None:
    expired.set()
    _terminate(process)


def _terminate(process: subprocess.Popen[str]) -> None:
    """TERM, a grace period, KILL; the latter at once on a second signal to this
    process.
    """
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MiB (ru_maxrss is in KiB on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
