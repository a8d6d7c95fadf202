"""Seconds per stage of `digits`, through Prefect with a running server and without Prefect,
interleaved in one call.

    python benchmarks/stages.py [--rounds 2] [--scale debug] [--write]

Each round runs the recipe twice in fresh homes: once as the flow `represent`, once by calling the
runner directly, in turn. What is reported is Prefect's share: (flow - direct) / flow, of whole
runs. `--write` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- benchmarks/stages.py -->"


def direct(home: Path, scale: str) -> tuple[float, dict[str, float]]:
    """The plan's nodes one after another through `gan_core.pipeline.runner`, as the flow orders
    them.
    """
    from gan_core.artifacts.store import Store
    from gan_core.pipeline.request import RunRequest, prepare
    from gan_core.pipeline.run_record import Run, versions
    from gan_core.pipeline.runner import execute

    started = time.perf_counter()
    store = Store(home)
    prepared = prepare(RunRequest(recipe="digits", scale=scale, home=str(home)), store)
    run = Run(store, prepared)
    seconds: dict[str, float] = defaultdict(float)
    for node in prepared.nodes:
        if node.stage == "report":
            node.context.update(
                artifacts=run.artifacts(), versions=versions(), run=run.name, command=""
            )
        inputs = {name: run.results[name].ref for ids in node.inputs.values() for name in ids}
        before = time.perf_counter()
        run.add(execute(store, node, inputs))  # type: ignore[arg-type]
        seconds[node.stage] += time.perf_counter() - before
    run.finish("completed")
    return time.perf_counter() - started, seconds


def through_prefect(home: Path, scale: str) -> tuple[float, dict[str, float]]:
    """The flow `represent` in this process, against the running server."""
    from flows.represent import represent
    from gan_core.files import read_json

    started = time.perf_counter()
    record = represent(recipe="digits", scale=scale, home=str(home))
    whole = time.perf_counter() - started
    seconds: dict[str, float] = defaultdict(float)
    for node in read_json(home / "runs" / record["run"] / "run.json")["nodes"]:
        seconds[node["ref"]["stage"]] += node["seconds"]
    return whole, seconds


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--scale", default="full")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "prefect"
        folder.mkdir(mode=0o700)
        with open(folder / "users.lock", "a") as user:
            fcntl.flock(user, fcntl.LOCK_SH)
            from flows.prefect_server.server import start
            from flows.prefect_server.settings import client_environment

            os.environ.update(client_environment(folder, start(folder)))
            os.environ["PREFECT_LOGGING_EXTRA_LOGGERS"] = "gan_core"
            # both kinds of run find it imported: its import is the process's, not the run's
            import prefect  # noqa: F401
            import torch  # noqa: F401

            runs: dict[str, list[tuple[float, dict[str, float]]]] = {"prefect": [], "direct": []}
            for number in range(options.rounds):
                runs["direct"].append(direct(Path(name) / f"direct-{number}", options.scale))
                runs["prefect"].append(
                    through_prefect(Path(name) / f"prefect-{number}", options.scale)
                )
    text = table(runs, options.scale)
    print(text)
    if options.write:
        write(text)


def table(runs: dict[str, list[tuple[float, dict[str, float]]]], scale: str) -> str:
    """The medians as Markdown."""
    whole = {
        kind: statistics.median(seconds for seconds, _ in found) for kind, found in runs.items()
    }
    lines = ["| stage | through Prefect, s | called directly, s |", "|---|---|---|"]
    for stage in runs["direct"][0][1]:
        medians = [
            statistics.median(found[stage] for _, found in runs[kind])
            for kind in ("prefect", "direct")
        ]
        lines.append(f"| {stage} | {medians[0]:.2f} | {medians[1]:.2f} |")
    lines.append(f"| **whole run** | **{whole['prefect']:.1f}** | **{whole['direct']:.1f}** |")
    share = 100 * (whole["prefect"] - whole["direct"]) / whole["prefect"]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    head = (
        f"`python benchmarks/stages.py --rounds {len(runs['direct'])} --scale {scale}`, "
        f"{datetime.now(UTC):%Y-%m-%d}, "
        f"commit {commit or 'unknown'}, {_processor()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; "
        f"medians of {len(runs['direct'])} interleaved rounds."
    )
    return (
        f"{head}\n\nPrefect's share of a whole run: **{share:.1f} %** (goal: below 10 %).\n\n"
        + "\n".join(lines)
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def write(text: str) -> None:
    """Replaces this benchmark's section of docs/benchmarks.md."""
    path = ROOT / "docs" / "benchmarks.md"
    content = path.read_text() if path.exists() else "# Benchmarks\n"
    section = (
        f"{MARK}\n\n## Seconds per stage of `digits`, with Prefect and without\n\n{text}\n\n{MARK}"
    )
    parts = content.split(MARK)
    content = (
        parts[0] + section + parts[2] if len(parts) == 3 else f"{content.rstrip()}\n\n{section}\n"
    )
    path.write_text(content)


if __name__ == "__main__":
    main()
