"""What a report says of the run itself: when, where, how long, with what. None of it is content: it
changes from run to run.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gan_core.devices import cpu_cores, cuda_count, memory_bytes
from gan_core.specs import STAGES


@dataclass(frozen=True)
class RunFacts:
    """From the request's context; every field may be empty.

    Attributes:
        artifacts: [{node, stage, key, digest, path, cached, seconds, peak_memory_mb, counts,
            summary, warnings}].
        versions: package to version.
        run: the run's name.
        notes: what the plan reports to the user (a smaller scale without a GPU, ...).
        command: what was typed.
        made: when the page was written, UTC.
    """

    artifacts: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    run: str = ""
    notes: list[str] = field(default_factory=list)
    command: str = ""
    made: str = ""
    machine: str = ""

    @staticmethod
    def of(context: Mapping[str, Any]) -> RunFacts:
        """From a run's record (artifacts, versions, run, notes, command), clock and machine."""
        command = context.get("command") or ""
        return RunFacts(
            artifacts=[dict(entry) for entry in context.get("artifacts") or []],
            versions={str(name): str(text) for name, text in context.get("versions", {}).items()},
            run=str(context.get("run") or ""),
            notes=[str(text) for text in context.get("notes") or []],
            command=command if isinstance(command, str) else " ".join(map(str, command)),
            made=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
            machine=describe_machine(),
        )

    def of_stage(self, stage: str) -> list[dict[str, Any]]:
        """The artifacts of a stage, in the order of the run."""
        return [entry for entry in self.artifacts if entry.get("stage") == stage]

    def warnings(self) -> list[tuple[str, str]]:
        """(node, sentence) of every warning."""
        return [
            (str(entry.get("node", "")), str(text))
            for entry in self.artifacts
            for text in entry.get("warnings") or []
        ]


def describe_machine() -> str:
    """This machine in words: processor, cores, memory, GPUs."""
    cpu = _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    gpus = [_line(path, "Model") for path in Path("/proc/driver/nvidia/gpus").glob("*/information")]
    names = " and ".join(filter(None, gpus)) or "a GPU"
    return (
        f"{re.sub(r' *[(](R|TM)[)]', '', cpu)}, {cpu_cores()} cores, "
        f"{memory_bytes() / 2**30:.0f} GiB, {names if cuda_count() else 'no GPU'}"
    )


def _line(path: str | Path, name: str) -> str:
    """What a file of lines 'name: value' says of `name`; '' where it says nothing."""
    try:
        found = re.search(rf"^{name}\s*:\s*(.+?)\s*$", Path(path).read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


@dataclass(frozen=True)
class StageCost:
    """Seconds and memory of a stage over all its artifacts; `share` is of the longest stage."""

    stage: str
    made: int
    cached: int
    seconds: float
    share: float
    peak_memory_mb: float


def costs(artifacts: list[dict[str, Any]]) -> list[StageCost]:
    """One row for each stage, in the pipeline's order."""
    stages: dict[str, list[dict[str, Any]]] = {stage: [] for stage in STAGES}
    for entry in artifacts:
        stages.setdefault(entry["stage"], []).append(entry)
    stages = {stage: entries for stage, entries in stages.items() if entries}
    sums = {stage: seconds_of(entries) for stage, entries in stages.items()}
    longest = max(sums.values(), default=0.0) or 1.0
    rows = []
    for stage, entries in stages.items():
        cached = sum(bool(entry.get("cached")) for entry in entries)
        peak = max(float(entry.get("peak_memory_mb") or 0) for entry in entries)
        made, seconds = len(entries) - cached, sums[stage]
        rows.append(StageCost(stage, made, cached, seconds, seconds / longest, peak))
    return rows


def seconds_of(artifacts: Iterable[dict[str, Any]]) -> float:
    """Computing time of artifacts in seconds."""
    return sum(float(entry.get("seconds") or 0) for entry in artifacts)


def duration(seconds: float) -> str:
    """0.02 is 'under 0.1 s', 0.42 is '0.4 s', 75 is '1 min 15 s', 4000 is '1 h 07 min'."""
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    whole = round(seconds / 60)
    return f"{whole // 60:,} h {whole % 60:02d} min"


def memory(megabytes: float) -> str:
    """512 is '512 MiB', 3000 is '2.9 GiB'; '' for nothing measured."""
    if megabytes <= 0:
        return ""
    return f"{megabytes:.0f} MiB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GiB"


def volume(size: int) -> str:
    """Bytes as '12.3 MB'."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return (
                f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
            )
        value /= 1000
    return f"{value:.1f} TB"


def grids(folders: Iterable[Path], most: int = 6, kind: str = "grid") -> list[tuple[float, Path]]:
    """Image grids of a training, (kimg, file), thinned evenly to at most `most` with the first and
    the last kept. Args: kind: how the files' names begin; 'grid': samples.
    """
    found = []
    for folder in folders:
        for path in sorted(folder.glob(f"{kind}-*.png")):
            # 'grid-000060_250': at 60.25 kimg
            number = path.stem.removeprefix(f"{kind}-").replace("_", ".")
            if number.replace(".", "").isdigit():
                found.append((float(number), path))
    if len(found) <= most:
        return found
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]
