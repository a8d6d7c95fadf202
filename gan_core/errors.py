"""Every error that Discern raises on purpose.

    DiscernError
        RequestError          the request was wrong (exit code 2, never retried)
            UnknownName       a name that does not exist, with the nearest one that does
        WorkError             the work failed (exit code 1)
            DataError         too few images, one class only, a damaged file (never retried)
            StoreError        a damaged artifact, a home that cannot be written (never retried)
            TrainingDiverged  training has collapsed or met a NaN (never retried)
            TransientError    may be gone in a minute: a lost child, a full GPU (retried)

Each one says what was given, what was expected, and what to do next; `explain` puts that on a few
lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 40  # that an error lists


class DiscernError(Exception):
    """Base of all errors made for people.

    Args:
        message: what is wrong, in one sentence, with what was given.
        expected: what would have been right.
        remedy: what to do next, as a command or a setting where there is one.
    """

    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, expected: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.remedy = remedy

    def explain(self) -> str:
        """The error as lines of text: message, expectation, remedy."""
        lines = [self.message]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.remedy:
            lines.append(f"  remedy:   {self.remedy}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.explain()

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.expected, self.remedy))


def _rebuild(kind: type[DiscernError], message: str, expected: str, remedy: str) -> DiscernError:
    error: DiscernError = kind.__new__(kind)
    DiscernError.__init__(error, message, expected=expected, remedy=remedy)
    return error


class RequestError(DiscernError):
    """What was asked for cannot be meant: nothing has been computed."""

    exit_code = 2


class UnknownName(RequestError):
    """A name that is not known.

    Args:
        kind: what the name should have named ('recipe', 'network', 'setting of train').
        given: the name as given.
        known: the names that exist.
    """

    def __init__(self, kind: str, given: str, known: Iterable[str], *, remedy: str = "") -> None:
        names = sorted(known)
        near = nearest(given, names)
        more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
        listed = f"one of {', '.join(names[:MOST_NAMES])}{more}"
        expected = listed if names else "nothing of that kind exists here"
        super().__init__(
            f"There is no {kind} called {given!r}" + (f"; did you mean {near!r}?" if near else "."),
            expected=expected,
            remedy=remedy,
        )


class WorkError(DiscernError):
    """The request was fine and the work failed."""


class DataError(WorkError):
    """The data cannot serve for what was asked."""


class StoreError(WorkError):
    """The store cannot give or take an artifact."""


class TrainingDiverged(WorkError):
    """Training has met a NaN or collapsed; the message names the kimg and the sign that was
    seen.
    """


class TransientError(WorkError):
    """A failure that may not happen again; the only kind that a task retries."""

    retryable = True


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name closest to `given`, or None when nothing is close."""
    names = list(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    close = difflib.get_close_matches(
        given.lower().replace("-", "_"), list(folded), n=1, cutoff=0.5
    )
    return folded[close[0]] if close else None


def error_from_json(fields: dict[str, str]) -> DiscernError:
    """The error that a child put into words: {'kind', 'message', 'expected', 'remedy'}."""
    kind = globals().get(fields.get("kind", ""), WorkError)
    if not (isinstance(kind, type) and issubclass(kind, DiscernError)):
        kind = WorkError
    error: DiscernError = kind.__new__(kind)
    DiscernError.__init__(
        error,
        fields["message"],
        expected=fields.get("expected", ""),
        remedy=fields.get("remedy", ""),
    )
    return error
