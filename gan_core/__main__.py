"""`python -m gan_core STAGE request.json`: one stage from a request file, without Prefect and without a store.

Progress, outcome or error go to standard output as JSON lines; logs go to standard error. With `--parent PID` the process
dies with that parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from gan_core.child import peak_memory_mb
from gan_core.errors import DiscernError
from gan_core.progress import Throttled
from gan_core.stages.contract import StageRequest
from gan_core.stages.specs import spec_of


def die_with_parent(parent: int) -> None:
    """Asks the kernel for SIGKILL when the parent dies (Linux), and ends at once if it is dead already."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _say(**message: Any) -> None:
    print(json.dumps(message), file=_channel, flush=True)


def main(arguments: list[str]) -> int:
    """Runs one stage; returns the exit code: 0, 1 (the work failed), 2 (the request was wrong)."""
    if len(arguments) not in (2, 4):
        print(__doc__, file=sys.stderr)
        return 2
    if len(arguments) == 4:
        die_with_parent(int(arguments[3]))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    def progress(done: float, total: float, unit: str, **figures: float) -> None:
        _say(progress={"done": done, "total": total, "unit": unit, "figures": figures})

    try:
        request = StageRequest.model_validate_json(Path(arguments[1]).read_bytes())
        module = importlib.import_module(f"gan_core.stages.{spec_of(arguments[0]).name}")
        outcome = module.run(request, Throttled(progress))
    except DiscernError as error:
        _say(error={"kind": type(error).__name__, "message": error.message, "expected": error.expected, "remedy": error.remedy})
        return error.exit_code
    except MemoryError:
        _say(error={"kind": "WorkError", "message": f"{arguments[0]} ran out of memory.", "remedy": "a smaller --scale"})
        return 1
    except OSError as error:
        from gan_core.runner import explain_os_error

        known = explain_os_error(error, Path(arguments[1]).parent)
        _say(error={"kind": type(known).__name__, "message": known.message, "expected": known.expected, "remedy": known.remedy})
        return 1
    except Exception as error:  # a bug: its traceback goes to the log, its last line to the parent
        traceback.print_exc(file=sys.stderr)
        message = f"{arguments[0]} met an error that it did not expect: {type(error).__name__}: {error}"
        _say(error={"kind": "WorkError", "message": message, "remedy": "the traceback is in the log above; please report it"})
        return 1
    _say(outcome=outcome.model_dump(mode="json"), peak_memory_mb=peak_memory_mb())
    return 0


# Libraries print to standard output too: the channel keeps the real one, and print() elsewhere lands among the logs.
_channel = os.fdopen(os.dup(1), "w")

if __name__ == "__main__":
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1:]))
