"""Ten flow runs at once on one Prefect server: SQLite and PostgreSQL, interleaved in one call.

    python benchmarks/orchestration.py \\
        --postgres postgresql+asyncpg://discern:PASSWORD@127.0.0.1:5432/bench \\
        [--rounds 2] [--runs 10] [--tasks 20] [--write PAGE]

Each round starts a server of its own with the settings that Discern ships (recorder in batches,
database timeout 60 s), first over one database, then over the other. Ten processes import Prefect,
wait for each other, and then each runs one flow of twenty tasks; a task hashes 2 MB and publishes a
table, as a stage task does. Measured from the common start: seconds until the last flow has ended,
until the server shows every task run as completed, flows that failed, and lines of the server's log
with "database is locked". `--write PAGE` puts the table between the two marks of a page
(docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- benchmarks/orchestration.py -->"


def worker(ready: Path, go: Path, tasks: int) -> None:
    """One process: a flow of its own once everybody is there."""
    import hashlib

    from prefect import flow, task
    from prefect.artifacts import create_table_artifact

    @task(name="piece")
    def piece(number: int) -> str:
        found = hashlib.sha256(bytes([number % 256]) * 2_000_000).hexdigest()
        create_table_artifact(key=f"piece-{number}", table=[{"what": "sha256", "value": found}])
        return found

    @flow(name="orchestration-benchmark")
    def chain(count: int) -> int:
        for number in range(count):
            piece(number)
        return count

    ready.touch()
    while not go.exists():
        time.sleep(0.02)
    chain(tasks)


def one_round(url: str | None, runs: int, tasks: int) -> dict[str, Any]:
    """A server over `url` (None: SQLite in a fresh folder), ten flows, and what came of them."""
    from flows.prefect_server.server import healthy
    from flows.prefect_server.settings import ensure_server_file, server_environment

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "prefect"
        folder.mkdir(mode=0o700)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ensure_server_file(folder, port)
        environment = {**os.environ, **server_environment(folder), "PYTHONPATH": str(ROOT)}
        if url:
            environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
        log = Path(scratch) / "server.log"
        with open(log, "wb") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start"],
                env=environment,
                stdout=out,
                stderr=out,
            )
        try:
            while not healthy(environment["PREFECT_API_URL"]):
                if server.poll() is not None:
                    sys.exit(f"the server did not start:\n{log.read_text()[-3000:]}")
                time.sleep(0.2)
            before = completed(environment)
            go = Path(scratch) / "go"
            flows = []
            for number in range(runs):
                ready = Path(scratch) / f"ready-{number}"
                command = [
                    sys.executable,
                    __file__,
                    "--worker",
                    str(ready),
                    str(go),
                    "--tasks",
                    str(tasks),
                ]
                with open(Path(scratch) / f"errors-{number}", "wb") as errors:
                    flows.append(
                        subprocess.Popen(
                            command, env=environment, stdout=subprocess.DEVNULL, stderr=errors
                        )
                    )
            while len(list(Path(scratch).glob("ready-*"))) < runs:
                time.sleep(0.1)
            started = time.perf_counter()
            go.touch()
            ended = []
            waiting = list(flows)
            while waiting:
                for process in [process for process in waiting if process.poll() is not None]:
                    waiting.remove(process)
                    ended.append(time.perf_counter() - started)
                time.sleep(0.02)
            failed = sum(process.returncode != 0 for process in flows)
            deadline = time.perf_counter() + 180
            while (
                completed(environment) - before < (runs - failed) * tasks
                and time.perf_counter() < deadline
            ):
                time.sleep(0.25)
            shown = time.perf_counter() - started
            missing = (runs - failed) * tasks - (completed(environment) - before)
        finally:
            server.terminate()
            server.wait(timeout=60)
        reasons = [
            last_line(Path(scratch) / f"errors-{number}")
            for number, process in enumerate(flows)
            if process.returncode
        ]
        locked = sum(
            "database is locked" in line for line in log.read_text(errors="replace").splitlines()
        )
    return {
        "first": min(ended),
        "last": max(ended),
        "shown": shown,
        "failed": failed,
        "missing": missing,
        "locked": locked,
        "reasons": reasons,
    }


def last_line(path: Path) -> str:
    """Why a flow failed, as its process said at its end."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def completed(environment: dict[str, str]) -> int:
    """Task runs of this benchmark that the server shows as completed."""
    import base64
    import json

    state = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}, "name": {"like_": "piece"}}}
    token = base64.b64encode(environment["PREFECT_SERVER_API_AUTH_STRING"].encode()).decode()
    base, headers = (
        environment["PREFECT_API_URL"],
        {"Authorization": f"Basic {token}", "Content-Type": "application/json"},
    )
    client = {"Prefect-Csrf-Client": "benchmark"}
    ask = urllib.request.Request(f"{base}/csrf-token?client=benchmark", headers=headers)
    with urllib.request.urlopen(ask, timeout=60) as answer:
        client["Prefect-Csrf-Token"] = json.load(answer)["token"]
    request = urllib.request.Request(
        f"{base}/task_runs/count", json.dumps(state).encode(), {**headers, **client}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(json.load(answer))


def table(results: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace) -> str:
    """The results as a Markdown table with what they were measured on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    load = os.getloadavg()[0]
    lines = [
        f"{arguments.runs} flows of {arguments.tasks} tasks at once, {arguments.rounds} rounds "
        "each, interleaved; "
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}, {os.cpu_count()} cores, "
        f"{platform.machine()}, no GPU; "
        f"load average {load:.1f} at the end (medians, every round in brackets).",
        "",
        "| database | first flow done, s | last, s | all task runs shown, s | flows failed | task "
        "runs missing | 'database is locked' |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rounds in results.items():
        cells = []
        for key in ("first", "last", "shown"):
            values = [entry[key] for entry in rounds]
            cells.append(
                f"{statistics.median(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"
            )
        cells += [
            ", ".join(str(entry[key]) for entry in rounds)
            for key in ("failed", "missing", "locked")
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--postgres", help="SQLAlchemy address of an empty PostgreSQL database")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument(
        "--write",
        type=Path,
        metavar="PAGE",
        help="a page with two lines of the mark between which the table goes",
    )
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        ready, go = arguments.worker
        worker(ready, go, arguments.tasks)
        return
    databases: dict[str, str | None] = {"SQLite": None}
    if arguments.postgres:
        databases["PostgreSQL"] = arguments.postgres
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in databases}
    for number in range(arguments.rounds):
        for name, url in databases.items():
            results[name].append(one_round(url, arguments.runs, arguments.tasks))
            print(number + 1, name, results[name][-1], flush=True)
    text = table(results, arguments)
    print(text)
    if arguments.write:
        page = arguments.write
        head, mark, rest = page.read_text().partition(MARK)
        if not mark:
            sys.exit(f"{page} has no line {MARK}")
        _, _, tail = rest.partition(MARK)
        page.write_text(f"{head}{MARK}\n{text}\n{MARK}{tail}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
