"""The folder that records one execution: what was asked, which artifacts came of it, whether its
process still lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gan_core.artifacts.locks import is_locked
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import TrainingDiverged
from gan_core.files import atomic_write_bytes, read_json, write_json
from gan_core.pipeline.nodes import Node, key_of
from gan_core.pipeline.request import Prepared
from gan_core.pipeline.runner import StageResult, summary_line, trajectory_key
from gan_core.recipes import dump_recipe

log = logging.getLogger(__name__)
LIVE_LOCK = "alive.lock"  # in a run's folder, held while its process is at work

RunState = Literal["running", "completed", "paused", "failed"]


class Run:
    """The folder of one execution: `recipe.yaml`, `run.json` (which artifacts, cached or made),
    `report.html`.
    """

    def __init__(
        self, store: Store, prepared: Prepared, *, flow_run: str | None = None, attempt: int = 1
    ) -> None:
        now = datetime.now(UTC)
        self.name = f"{prepared.recipe.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = store.home / "runs" / self.name
        self.store = store
        self.folder.mkdir(parents=True)
        self._alive = os.open(self.folder / LIVE_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._alive, fcntl.LOCK_EX)
        self.results: dict[str, StageResult] = {}
        self.made_before: frozenset[str] = frozenset()
        self.record: dict[str, Any] = {
            "run": self.name,
            "recipe": prepared.recipe.name,
            "scale": prepared.recipe.scale,
            "until": prepared.request.until,
            "only": prepared.request.only,
            "overrides": sorted(prepared.request.overrides),
            "data": {
                name: str(location.path)
                for name, location in prepared.locations.items()
                if location.path
            },
            "command": prepared.request.command,
            "started": now.isoformat(timespec="seconds"),
            "state": "running",
            "process": os.getpid(),
            "host": socket.gethostname(),
            "flow_run": flow_run,
            "attempt": attempt,
            "begun": [],
        }
        atomic_write_bytes(self.folder / "recipe.yaml", dump_recipe(prepared.recipe).encode())
        self.planned(prepared)

    def planned(self, prepared: Prepared) -> None:
        """Records a plan, the first or a later one: what it counts on, and what it
        decided.
        """
        self.prepared = prepared
        refs = [status.ref for status in prepared.statuses.values() if status.ref]
        self.record["plan"] = [ref.model_dump(include={"stage", "key", "digest"}) for ref in refs]
        start, artifacts = prepared.settings.start, (self.store.home / "artifacts").resolve()
        if start and start.path.resolve().is_relative_to(artifacts):
            stage, key, digest = start.path.resolve().relative_to(artifacts).parts[:3]
            self.record["start"] = {"stage": stage, "key": key, "digest": digest}
        if prepared.growth:
            self.record["growth"] = prepared.growth.as_json()
        self._write()

    def follows_up(self) -> None:
        """Records that the same flow run was tried before: what those attempts have made needs
        no refreshing again.
        """
        made: set[str] = set()
        for path in self.folder.parent.glob("*/run.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = read_json(path)
                if path.parent != self.folder and record["flow_run"] == self.record["flow_run"]:
                    made |= {
                        node["node"]
                        for node in record["nodes"]
                        if node["ref"] and not node["cached"]
                    }
        self.made_before = frozenset(made)

    def begins(self, node: Node, inputs: dict[str, ArtifactRef]) -> None:
        """Records that a node is about to be made: its unfinished work, and a training's states,
        are kept for as long as this run is.
        """
        entry: dict[str, Any] = {
            "stage": node.stage,
            "key": key_of(node, {name: ref.digest for name, ref in inputs.items()}),
        }
        if node.stage == "train" and "train" in node.key_part:
            states = [trajectory_key(node, inputs)]
            if "continues" in node.context:
                states.append(Path(node.context["continues"]["state"]).name)
            entry["trajectories"] = states
        self.record["begun"].append(entry)
        self._write()

    def add(self, result: StageResult) -> None:
        """Records what came of one node."""
        self.results[result.node] = result
        log.info("%s", summary_line(result))
        self._write()

    def finish(self, state: RunState, error: str = "") -> dict[str, Any]:
        """Ends the record and links the report, if there is one, next to it. Returns the record."""
        self.record.update(state=state, ended=datetime.now(UTC).isoformat(timespec="seconds"))
        self.record.pop("plan", None)
        if state == "completed":  # its artifacts say it all
            self.record.pop("begun", None)
        if error:
            self.record["error"] = error
        report = self.results.get("report")
        if report and report.ref:
            made = self.store.path(report.ref)
            # the page links to its numbers and cards
            for name in ("report.html", "summary.json", "model-card.md", "data-card.md"):
                if (made / name).exists():
                    _link(made / name, self.folder / name)
            if (made / "report.html").exists():
                self.record["report"] = str(self.folder / "report.html")
        self._write()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        return {**self.record, "nodes": self._nodes()}

    def report_divergence(self, error: TrainingDiverged) -> Path:
        """Writes `report.html` of a run whose training diverged, and says in the error where it is.
        Returns its path.
        """
        from gan_core.reporting.diverged import diverged_page
        from gan_core.reporting.run_info import RunFacts

        trajectory = next(
            entry["trajectories"][0]
            for entry in reversed(self.record["begun"])
            if "trajectories" in entry
        )
        folders: dict[str, list[Path]] = {}
        for result in self.results.values():
            if result.ref is not None:
                folders.setdefault(result.ref.stage, []).append(self.store.path(result.ref))
        context = {
            "artifacts": self.artifacts(),
            "versions": versions(),
            "run": self.name,
            "notes": self.prepared.notes,
        }
        facts = RunFacts.of({**context, "command": self.prepared.request.command})
        recipe = self.prepared.recipe.model_dump(mode="json")
        path = self.folder / "report.html"
        page = diverged_page(recipe, folders, self.store.state("train", trajectory), facts, error)
        atomic_write_bytes(path, page.encode())
        self.record["report"] = str(path)
        error.remedy += f"; what led to it: {path}"
        return path

    def artifacts(self) -> list[dict[str, Any]]:
        """What the report shows of every node: which artifact, cached or made, seconds, memory,
        counts.
        """
        listed = []
        for result in self.results.values():
            if result.ref is None:
                continue
            listed.append(
                {
                    "node": result.node,
                    **result.ref.model_dump(include={"stage", "key", "digest"}),
                    "path": str(self.store.path(result.ref)),
                    "cached": result.cached,
                    "seconds": result.seconds,
                    "peak_memory_mb": result.peak_memory_mb,
                    **result.outcome.model_dump(include={"counts", "summary", "warnings"}),
                }
            )
        return listed

    def report_node(self, node: Node) -> Node:
        """The report's node with what happened in this run (outside its key)."""
        about = {
            "artifacts": self.artifacts(),
            "versions": versions(),
            "run": self.name,
            "command": self.prepared.request.command,
            "notes": self.prepared.notes,
        }
        return replace(node, context={**node.context, **about})

    def _nodes(self) -> list[dict[str, Any]]:
        results = self.results.values()
        return [result.model_dump(mode="json", exclude={"outcome"}) for result in results]

    def _write(self) -> None:
        write_json(self.folder / "run.json", {**self.record, "nodes": self._nodes()})


DIED = (
    "Its process ended without a message: it was killed (by a signal, or for lack of memory), or "
    "the machine went down."
)


def dead_runs(home: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Folder and record of each run of this machine that says it is running, and whose process is
    gone.

    A run holds its lock from before its record is there until after the record says how it ended.
    Runs of other machines on a shared disk are left out: not every such disk shows one machine what
    another has locked.
    """
    found = []
    for path in sorted((home / "runs").glob("*/run.json")):
        with contextlib.suppress(OSError, ValueError):
            if _running_here(read_json(path)) and not is_locked(path.parent / LIVE_LOCK):
                record = read_json(path)  # as it was left: it may have ended between the two checks
                if _running_here(record):
                    found.append((path.parent, record))
    return found


def _running_here(record: dict[str, Any]) -> bool:
    return record.get("state") == "running" and record.get("host") == socket.gethostname()


def record_death(folder: Path, record: dict[str, Any]) -> None:
    """Records that a run of `dead_runs` has failed. What it had started stays in the record for
    `discern gc`.
    """
    write_json(
        folder / "run.json",
        {
            **record,
            "state": "failed",
            "error": DIED,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _link(source: Path, target: Path) -> None:
    """A hard link where the disk has them, else a copy."""
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def versions() -> dict[str, str]:
    """Versions of Discern and of what its results depend on, read from package metadata (nothing is
    imported).
    """
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in (
        "discern-gan",
        "torch",
        "numpy",
        "opencv-python-headless",
        "faiss-gpu",
        "faiss-cpu",
        "pyarrow",
        "scikit-learn",
        "prefect",
    ):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
