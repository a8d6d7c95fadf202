"""`--runner`: what is asked for, checked before anything starts. Imports neither Prefect nor Dask
nor Ray.
"""

from __future__ import annotations

import importlib.util

from gan_core.errors import RequestError, UnknownName

KINDS = ("threads", "dask", "ray")


def parse_runner(text: str) -> tuple[str, str]:
    """(kind, place) of 'threads', 'dask', 'dask:4' (processes) or 'dask:tcp://HOST:8786' (a cluster
    that is there); ray alike.

    Raises:
        RequestError: another kind, a number below 1, or the package behind it is not installed.
    """
    kind, _, place = text.partition(":")
    if kind not in KINDS:
        raise UnknownName(
            "runner",
            kind,
            KINDS,
            remedy="--runner dask, --runner dask:4 or --runner dask:tcp://HOST:8786",
        )
    if (kind == "threads" and place) or (place.lstrip("-").isdigit() and int(place) < 1):
        raise RequestError(
            f"--runner {text} cannot be meant.",
            expected="threads; dask or ray, with a number of processes or an address",
        )
    if kind != "threads" and importlib.util.find_spec(f"prefect_{kind}") is None:
        raise RequestError(
            f"--runner {kind} needs the package prefect-{kind}, which is not installed.",
            expected=f"discern-gan with its extra {kind!r}",
            remedy=(
                f"pip install --constraint requirements.lock -e '.[{kind}]'   (uv pip install "
                "takes the same words)"
            ),
        )
    return kind, place
