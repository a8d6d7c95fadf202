"""`discern doctor`: what is installed, which known traps it falls into, and what this machine
offers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from importlib import metadata

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.home import open_store, resolve_home
from flows.prefect_server import health, server, settings
from gan_core.devices import bf16_units, cpu_cores, cuda_count, memory_bytes
from gan_core.errors import DiscernError

Check = tuple[str, str, str]  # what, 'ok' | 'warning' | 'error', a sentence


def doctor(home: HomeOption = None, as_json: JsonOption = False) -> int:
    """Prints the checks; returns 1 when one of them is an error."""
    checks = [*_packages(), *_machine(), *_home(home)]
    if as_json:
        console.print_json(
            {
                "checks": [
                    {"what": what, "state": state, "text": text} for what, state, text in checks
                ]
            }
        )
    else:
        marks = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}
        for what, state, text in checks:
            print(f"{marks[state]}  {what:<10} {text}")
    return 1 if any(state == "error" for _, state, _ in checks) else 0


def _version(name: str) -> tuple[int, ...] | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        parts = metadata.version(name).split("+")[0].split(".")
        return tuple(int(part) for part in parts if part.isdigit())
    return None


def _packages() -> Iterator[Check]:
    for name in ("torch", "torchvision", "pyarrow", "scikit-learn", "prefect"):
        if _version(name):
            yield name, "ok", metadata.version(name)
        else:
            yield name, "error", "is missing; run `make setup`"
    if (prefect := _version("prefect")) and prefect < (3, 9):
        if (_version("fastapi") or (0,)) >= (0, 151):
            text = "Prefect 3.8's server does not start; install fastapi<0.151"
            yield "fastapi", "error", f"{metadata.version('fastapi')}: {text}"
        if (_version("sqlalchemy") or (0,)) >= (2, 1):
            text = "schedules never fire; install sqlalchemy<2.1"
            yield "sqlalchemy", "error", f"{metadata.version('sqlalchemy')}: {text}"
    faiss = [name for name in ("faiss-gpu", "faiss-cpu") if _version(name)]
    state = "ok" if len(faiss) == 1 else "warning"
    yield "faiss", state, " and ".join(faiss) or "missing: dedup by radius and kNN need it"
    names = ("opencv-python-headless", "opencv-python", "opencv-contrib-python")
    opencv = [name for name in names if _version(name)]
    if not opencv:
        yield "opencv", "error", "is missing"
    elif len(opencv) > 1:
        text = "lie over each other; keep opencv-python-headless alone"
        yield "opencv", "warning", f"{' and '.join(opencv)} {text}"
    elif (_version(opencv[0]) or (0,)) >= (5,):
        text = "face crops do not work; install opencv-python-headless<5"
        yield "opencv", "warning", f"version 5 has no CascadeClassifier: {text}"
    else:
        yield "opencv", "ok", f"{opencv[0]} {metadata.version(opencv[0])}"


def _machine() -> Iterator[Check]:
    gpus, memory = cuda_count(), memory_bytes() / 2**30
    text = f"{gpus} CUDA device{'s' if gpus != 1 else ''}"
    none = "none: recipes run at scale small where they have it, on the CPU"
    yield "gpu", "ok", text if gpus else none
    units = "bf16 units" if bf16_units("cpu") else "no bf16 units"
    yield "cpu", "ok", f"{cpu_cores()} cores, {memory:.0f} GiB of memory, {units}"


def _home(home: str | None) -> list[Check]:
    place = resolve_home(home)
    try:
        store = open_store(place)
    except DiscernError as error:
        return [("home", "error", error.message)]
    free = shutil.disk_usage(store.home).free / 2**30
    checks: list[Check] = [
        ("home", "ok" if free > 5 else "warning", f"{place}, {free:.0f} GiB free")
    ]
    folder = store.home / "prefect"
    if folder.exists() and stat.S_IMODE(os.stat(folder).st_mode) & 0o077:
        checks.append(
            (
                "results",
                "warning",
                f"{folder} can be read by others: chmod 700 it (Prefect's results are code)",
            )
        )
    if (url := server.external_api(folder)) is not None:
        up = server.healthy(url)
        text = "answers" if up else "does not answer; start it or unset PREFECT_API_URL"
        checks.append(("server", "ok" if up else "error", f"{url} {text}"))
        login = server.configured("PREFECT_API_AUTH_STRING")
        return checks + (health.checks(url, login, store.address) if up else [])
    url = server.running(folder)
    state, text = "ok", f"the home's own at {url}"
    if url is None and (own := server.configured_api()):
        text = "does not answer: discern server start, or start its service"
        state, text = "error", f"{own} {text} (log: {folder}/server.log)"
    elif url is None:
        text = f"none configured: a run starts one (log: {folder}/server.log)"
    checks.append(("server", state, text))
    return checks + (health.checks(url, settings.credentials(folder), store.address) if url else [])
