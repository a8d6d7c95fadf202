"""What a report says of the run itself: when, where, how long, with what. None of it is content: it
changes from run to run.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gan_core.contract import StageRequest

STAGE_ORDER = (
    "ingest",
    "crop",
    "hash",
    "dedup",
    "pack",
    "train",
    "extract",
    "evaluate",
    "inspect",
    "report",
)


@dataclass(frozen=True)
class RunFacts:
    """From the request's context; every field may be empty.

    Attributes:
        artifacts: [{node, stage, key, digest, path, cached, seconds, peak_memory_mb, counts,
            summary, warnings}].
        versions: package to version.
        run: the run's name.
        notes: what the run's planner told the person (a smaller scale for want of a GPU, ...).
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
    def of(request: StageRequest) -> RunFacts:
        """From the report stage's context, the clock, and this machine."""
        return RunFacts.told(request.context)

    @staticmethod
    def told(context: Mapping[str, Any]) -> RunFacts:
        """From what a run tells of itself (artifacts, versions, run, notes, command), the clock,
        and this machine.
        """
        run = context.get("run") or ""
        return RunFacts(
            artifacts=[dict(entry) for entry in context.get("artifacts") or []],
            versions={
                str(name): str(version) for name, version in (context.get("versions") or {}).items()
            },
            run=str(run.get("name") or run.get("id") or "") if isinstance(run, dict) else str(run),
            notes=[str(text) for text in context.get("notes") or []],
            command=_words(context.get("command")),
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


def _words(command: Any) -> str:
    if isinstance(command, str):
        return command
    return " ".join(str(part) for part in command) if isinstance(command, Iterable) else ""


def describe_machine() -> str:
    """This machine in words: processor, cores, memory, GPU."""
    from gan_core.devices import cpu_cores, cuda_count, memory_bytes

    parts = [_processor(), f"{cpu_cores()} cores", f"{memory_bytes() / 2**30:.0f} GiB"]
    parts.append(" and ".join(gpu_names()) if cuda_count() else "no GPU")
    return ", ".join(part for part in parts if part)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            found = next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")),
                "",
            )
    except OSError:
        found = ""
    return " ".join(
        (found or platform.processor() or platform.machine())
        .replace("(R)", "")
        .replace("(TM)", "")
        .split()
    )


def gpu_names() -> list[str]:
    """Names of the CUDA devices as the driver gives them; nothing without a driver."""
    import ctypes

    from gan_core.devices import cuda_count

    names = []
    for number in range(cuda_count()):
        device, text = ctypes.c_int(0), ctypes.create_string_buffer(128)
        cuda = ctypes.CDLL("libcuda.so.1")
        if (
            cuda.cuDeviceGet(ctypes.byref(device), number) == 0
            and cuda.cuDeviceGetName(text, 128, device) == 0
        ):
            names.append(text.value.decode(errors="replace"))
    return names


@dataclass(frozen=True)
class StageCost:
    """Seconds and memory of a stage over all its artifacts."""

    stage: str
    made: int
    cached: int
    seconds: float
    share: float
    peak_memory_mb: float
    nodes: list[dict[str, Any]]


def costs(artifacts: list[dict[str, Any]]) -> list[StageCost]:
    """One row for each stage, in the pipeline's order. `share`: of the longest stage, for a bar."""
    stages = sorted(
        {str(entry.get("stage", "")) for entry in artifacts},
        key=lambda s: (STAGE_ORDER + (s,)).index(s),
    )
    sums = {
        stage: sum(
            float(entry.get("seconds") or 0) for entry in artifacts if entry.get("stage") == stage
        )
        for stage in stages
    }
    longest = max(sums.values(), default=0.0) or 1.0
    rows = []
    for stage in stages:
        own = [entry for entry in artifacts if entry.get("stage") == stage]
        cached = sum(bool(entry.get("cached")) for entry in own)
        peak = max((float(entry.get("peak_memory_mb") or 0) for entry in own), default=0.0)
        rows.append(
            StageCost(
                stage, len(own) - cached, cached, sums[stage], sums[stage] / longest, peak, own
            )
        )
    return rows


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


def grids(folders: Iterable[Path], most: int = 6) -> list[tuple[float, Path]]:
    """Sample grids of a training, (kimg, file), thinned evenly to at most `most` with the first and
    the last kept.
    """
    found = []
    for folder in folders:
        for path in sorted(folder.glob("grid-*.png")):
            number = path.stem.removeprefix("grid-").replace(
                "_", "."
            )  # 'grid-000060_250': at 60.25 kimg
            if number.replace(".", "").isdigit():
                found.append((float(number), path))
    if len(found) <= most:
        return found
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]
