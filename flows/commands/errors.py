"""What the command line prints of an error, and the exit code."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.commands.console import print_json
from gan_core.errors import DiscernError, RequestError, WorkError
from gan_core.pipeline.runner import explain_os_error


def report(error: Exception) -> int:
    """Reports an error on standard error, with --json on standard output too; returns the exit
    code.
    """
    if callable(show := getattr(error, "show", None)) and hasattr(error, "exit_code"):
        if "--json" in sys.argv:
            verb = " ".join(word for word in sys.argv[1:2] if not word.startswith("-"))
            remedy = f"`discern {verb} --help`".replace("  ", " ")
            print_json({"error": str(error), "expected": "", "remedy": remedy})
        show()  # a usage error of click, which newer versions of typer carry inside
        return int(error.exit_code)
    known = _for_people(error)
    if known is None:
        traceback.print_exc()
        text = "This is a bug in Discern or in a plug-in; please report the lines above."
        sys.stderr.write(f"{text}\n")
        return 1
    if "--json" in sys.argv:
        print_json({"error": known.message, "expected": known.expected, "remedy": known.remedy})
    sys.stderr.write(f"discern: {known.explain()}\n")
    return known.exit_code


def _for_people(error: Exception) -> DiscernError | None:
    """An error that says what to do; None for a bug."""
    if isinstance(error, DiscernError):
        return error
    if isinstance(error, ValidationError):
        return _invalid_option(error.errors()[0])
    if isinstance(error, OSError):
        return explain_os_error(error, Path.cwd())
    if isinstance(error, MemoryError):
        remedy = "a smaller --scale, or a machine with more memory"
        return WorkError("Out of memory.", remedy=remedy)
    return None


def _invalid_option(first: Any) -> DiscernError:
    """For a value that the request's model refuses; its fields are named as the options are."""
    option = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "run")
    return RequestError(
        f"{option} is {first.get('input')}.",
        expected=first["msg"].removeprefix("Input should be "),
        remedy=f"leave {option} out, or see `discern {verb} --help`",
    )
