"""`python -m gan_core STAGE request.json`: one stage from a request file, without Prefect and
without a store.

Progress, outcome or error go to standard output as JSON lines; logs go to standard error. With
`--parent PID` the process dies with that parent. With `--processes N` the stage runs in N processes
that torchrun starts, and dies with this one; on several machines start torchrun by hand: `torchrun
--nnodes=2 ... -m gan_core train request.json`. Among several processes the first reports; each may
say an error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from gan_core.contract import StageRequest
from gan_core.errors import DiscernError, TransientError, WorkError
from gan_core.pipeline.child_process import peak_memory_mb
from gan_core.pipeline.runner import explain_os_error
from gan_core.progress import Throttled, silent
from gan_core.signals import die_with_parent, stop_on_signal, stop_requested
from gan_core.specs import spec_of

CONTINUE = "run the same command again: it continues from the last saved state"


def _say(**message: Any) -> None:
    print(json.dumps(message), file=_channel, flush=True)


def _report(error: DiscernError) -> int:
    """Writes an error for the parent process; returns the exit code."""
    fields = {"message": error.message, "expected": error.expected, "remedy": error.remedy}
    _say(error={"kind": type(error).__name__, **fields})
    return error.exit_code


def _for_people(error: Exception, given: argparse.Namespace) -> DiscernError:
    """An error of a stage as one that says what to do; the traceback of a bug goes to the log."""
    if isinstance(error, DiscernError):
        return error
    if isinstance(error, MemoryError):
        return WorkError(f"{given.stage} ran out of memory.", remedy="a smaller --scale")
    if isinstance(error, OSError):
        return explain_os_error(error, given.request.parent)
    if lost_contact(error):
        message = f"Process {rank()} of {given.stage} lost contact with another one: {error}"
        return TransientError(message, remedy=CONTINUE)
    traceback.print_exception(error, file=sys.stderr)
    return WorkError(
        f"{given.stage} met an error that it did not expect: {type(error).__name__}: {error}",
        remedy="the traceback is in the log above; please report it",
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line. Ends the process with code 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m gan_core", description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("request", type=Path)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args(arguments)


def rank() -> int:
    """This process's number among those that torchrun started; 0 when it did not."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def start_processes(given: argparse.Namespace) -> int:
    """Runs the stage in several processes by torchrun, which ends all of them when one is lost;
    returns the exit code.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # torchrun's own default, without its warning; the stage sets torch's threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = [
        "--standalone",
        f"--nproc-per-node={given.processes}",
        "--module",
        "gan_core",
        given.stage,
        str(given.request),
    ]
    try:
        torchrun([*command, "--parent", str(os.getpid())])
    except ChildFailedError as error:
        # The process that was killed is the cause: others that lost contact with it end in
        # consequence.
        number, failure = min(
            error.failures.items(),
            key=lambda one: (_consequence(one[1].exitcode), one[1].timestamp),
        )
        how = (
            f"was killed by signal {-failure.exitcode}"
            if failure.exitcode < 0
            else f"ended with code {failure.exitcode}"
        )
        message = (
            f"Process {number} of the {given.processes} of {given.stage} {how}; the others "
            "were stopped."
        )
        expected = "processes that are not killed"
        return _report(TransientError(message, expected=expected, remedy=CONTINUE))
    except SignalException as signalled:
        return 128 + int(signalled.sigval)
    return 0


def _consequence(code: int) -> int:
    """0 for death by a signal, 1 for an exit code, 2 for an abort, which threads of the
    communication sometimes cause.
    """
    return 2 if code == -signal.SIGABRT else 1 if code >= 0 else 0


def lost_contact(error: Exception) -> bool:
    """Whether an error only says that another process is gone, which reports the cause itself."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or not isinstance(error, RuntimeError):
        return False
    return type(error).__name__.startswith("Dist") or any(
        word in str(error).lower() for word in ("gloo", "nccl", "closed by peer")
    )


def main(given: argparse.Namespace) -> int:
    """Runs one stage; returns the exit code: 0, 1 (the work failed), 2 (the request was wrong)."""
    if given.parent is not None:
        die_with_parent(given.parent)
    # Further processes repeat what the first one logs, all but their own warnings.
    logging.basicConfig(
        level=logging.WARNING if rank() else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    if given.processes > 1:
        return start_processes(given)

    def progress(done: float, total: float, unit: str, **figures: float) -> None:
        _say(progress={"done": done, "total": total, "unit": unit, "figures": figures})

    if given.stage == "train":
        stop_on_signal(alone=given.parent is None)
    try:
        request = StageRequest.model_validate_json(given.request.read_bytes())
        module = importlib.import_module(f"gan_core.stages.{spec_of(given.stage).name}")
        outcome = module.run(request, silent if rank() else Throttled(progress))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _report(_for_people(error, given))
    if stop_requested() and not outcome.complete:
        message = f"{given.stage} was ended by a signal; its state is saved."
        return _report(TransientError(message, remedy=CONTINUE))
    if rank():
        return 0
    _say(outcome=outcome.model_dump(mode="json"), peak_memory_mb=peak_memory_mb())
    return 0


# Libraries print to standard output too: the channel keeps the real one, and print() elsewhere
# lands among the logs.
_channel = os.fdopen(os.dup(1), "w")

if __name__ == "__main__":
    _given = parse(sys.argv[1:])
    if _given.processes == 1:  # torchrun passes its standard output on to its processes
        os.dup2(2, 1)
    _code = main(_given)
    if _code and "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stderr.flush()
        os._exit(_code)  # threads that wait for a process that is gone abort an ordinary exit
    sys.exit(_code)
