"""Cleaning a home: what the last runs of each kind name stays, the rest goes. Safe during runs that
are going on.

Runs are of one kind when the same was asked for: recipe, scale, settings, data, and up to which
stage. So a run at debug scale, or of one stage alone, never takes the place of a whole one.

What protects a run that is going on:

* Each run holds a lock on its folder for as long as it lives (the kernel drops it on death), and
  its record names what it has made and what its plan counts on.
* Whoever takes an artifact from the store marks it as used, under a lock that cleaning holds alone
  while it decides (`Store.acquire`). What was made or used since the oldest living run began stays.
* A key that a run is writing under is locked; it is skipped.

What goes is first renamed into the trash and then deleted, so that a cleaning that is killed
leaves no half artifact: the next one empties the trash. Each cleaning moves things into a
folder of its own, while it decides alone; what lies there already when it begins is no run's any
more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gan_core.artifacts.locks import is_locked, try_lock
from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import LocalArtifacts, Store
from gan_core.contract import ArtifactRef
from gan_core.errors import RequestError
from gan_core.files import read_json
from gan_core.pipeline.data_growth import state_folder
from gan_core.pipeline.run_record import LIVE_LOCK

log = logging.getLogger(__name__)

PIN = "keep"  # a file of this name in a run's folder keeps the run for good
_Name = tuple[str, str, str]


@dataclass(frozen=True)
class RunRecord:
    """A run's folder as cleaning sees it.

    Attributes:
        kind: what was asked for; '' when the record cannot be read.
        live: its process is at work; pinned: it is to be kept for good.
        names: artifacts that it names, that of `train.start` among them.
        begun: keys (stage, key) that it began to make, and ('trajectory', name) of its trainings;
            None in a record without the field.
    """

    folder: Path
    kind: str
    state: str
    started: float
    live: bool
    pinned: bool
    names: frozenset[_Name]
    begun: frozenset[tuple[str, str]] | None
    flow_run: str | None


@dataclass
class Cleaning:
    """What cleaning keeps and removes; paths are below the home.

    Attributes:
        kept, removed: runs.
        artifacts: versions that go; leftovers: work folders and training states that nothing kept
            needs.
        size: bytes of all that goes.
        passed_over: artifacts that could go but are being written or were used by a run that is
            going on.
        horizon: a moment (time.time); what no run accounts for goes when it is older than this.
    """

    kept: list[RunRecord] = field(default_factory=list)
    removed: list[RunRecord] = field(default_factory=list)
    artifacts: list[ArtifactRef] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)
    size: int = 0
    passed_over: int = 0
    horizon: float = 0.0


def clean(store: Store, keep: int, *, dry_run: bool) -> Cleaning:
    """Removes what the last `keep` completed runs of each kind do not name.

    Failed and paused runs of a kind stay when they are newer than the oldest of those. Imported
    snapshots, pinned runs and runs that are going on always stay.

    Raises:
        RequestError: `keep` below 1, or a home on an object store, where runs of other machines
            cannot be seen.
    """
    if keep < 1:
        raise RequestError(
            f"--keep {keep} would remove every run.",
            expected="a number from 1 on",
            remedy="discern gc --keep 3",
        )
    artifacts = store.artifacts
    if not isinstance(artifacts, LocalArtifacts):
        raise RequestError(
            f"gc cannot clean {store.address}: which runs of other machines use it cannot be seen "
            "from here.",
            expected="a home on a local disk",
            remedy="a lifecycle rule of the object store, or remove keys' folders by hand",
        )
    if dry_run:
        return _decide(store, artifacts, keep)
    trash = store.home / "trash"
    removed = trash / uuid.uuid4().hex
    with artifacts.exclusive():
        # of a cleaning that was killed, or is deleting it at this moment
        abandoned = list(trash.glob("*"))
        found = _decide(store, artifacts, keep)
        for ref in found.artifacts:
            if not _move_to_trash(artifacts, ref, removed):
                found.passed_over += 1
        for run in found.removed:
            _move(run.folder, removed)
        for path in found.leftovers:
            with _left_over(store, path, _protected_since(found)) as still:
                if still:
                    _move(path, removed)
    for folder in [*abandoned, removed]:
        shutil.rmtree(folder, ignore_errors=True)
    with artifacts.exclusive(), contextlib.suppress(OSError):
        trash.rmdir()
    return found


def read_runs(home: Path) -> list[RunRecord]:
    """Every run of the home, the oldest first. A folder without a readable record counts as failed
    when it was last written.
    """
    runs = [_read_run(path) for path in sorted((home / "runs").glob("*")) if path.is_dir()]
    return sorted(runs, key=lambda run: (run.started, run.folder.name))


def _read_run(folder: Path) -> RunRecord:
    live, pinned = is_locked(folder / LIVE_LOCK), (folder / PIN).exists()
    try:
        record: dict[str, Any] = read_json(folder / "run.json")
        started = datetime.fromisoformat(record["started"]).timestamp()
        refs = [node["ref"] for node in record["nodes"] if node.get("ref")]
        refs += record.get("plan", []) if live else []
        refs += [record["start"]] if "start" in record else []
        names = frozenset((ref["stage"], ref["key"], ref["digest"][:12]) for ref in refs)
        kind, state, begun = _kind(record), str(record["state"]), _begun(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return RunRecord(
            folder, "", "failed", last_write(folder), live, pinned, frozenset(), None, None
        )
    return RunRecord(
        folder, kind, state, started, live, pinned, names, begun, record.get("flow_run")
    )


def _kind(record: dict[str, Any]) -> str:
    """What was asked for. Older records without these fields are alike when the same command was
    typed.
    """
    fields = ("until", "only", "overrides", "data") if "until" in record else ("command",)
    return json.dumps([record.get(name) for name in ("recipe", "scale", *fields)], sort_keys=True)


def _begun(record: dict[str, Any]) -> frozenset[tuple[str, str]] | None:
    if "begun" not in record:
        return None
    keys = {(one["stage"], one["key"]) for one in record["begun"]}
    return frozenset(
        keys
        | {("trajectory", name) for one in record["begun"] for name in one.get("trajectories", [])}
    )


def choose(runs: list[RunRecord], keep: int) -> tuple[list[RunRecord], list[RunRecord], float]:
    """(kept, removed, horizon) of runs in the order of their beginning."""
    horizon = _horizon(runs, keep)
    chosen = {
        run.folder
        for run in runs
        if run.live or run.pinned or (not run.kind and run.started >= horizon)
    }
    for kind in {run.kind for run in runs} - {""}:
        own = [run for run in runs if run.kind == kind]
        completed = [run for run in own if run.state == "completed"][-keep:]
        first = completed[0] if len(completed) == keep else own[0]
        chosen |= {run.folder for run in own[own.index(first) :]}
    return (
        [run for run in runs if run.folder in chosen],
        [run for run in runs if run.folder not in chosen],
        horizon,
    )


def _horizon(runs: list[RunRecord], keep: int) -> float:
    """When the last `keep` completed runs of all kinds together began, but before every run that is
    going on.

    It moves on with every run. What a kept run accounts for stays whatever its age, so that an old
    run that is kept (pinned, or the last of its kind) holds nothing else.
    """
    known = [run for run in runs if run.kind and not run.pinned]
    completed = [run for run in known if run.state == "completed"][-keep:]
    first = completed[:1] if len(completed) == keep else known[:1]
    return min((run.started for run in [*first, *(run for run in runs if run.live)]), default=0.0)


def _protected_since(found: Cleaning) -> float:
    """Leftovers written since then stay: also those of kept runs that were not completed and do not
    record what they began.
    """
    silent = (
        run.started
        for run in found.kept
        if run.state != "completed" and run.begun is None and run.kind
    )
    return min([found.horizon, *silent])


def _decide(store: Store, artifacts: LocalArtifacts, keep: int) -> Cleaning:
    found = Cleaning()
    found.kept, found.removed, found.horizon = choose(read_runs(store.home), keep)
    named = frozenset[_Name]().union(*(run.names for run in found.kept))
    since = min((run.started for run in found.kept if run.live), default=None)
    begun = frozenset[tuple[str, str]]().union(*(run.begun or () for run in found.kept))
    needed = {_place(store, stage, name) for stage, name in begun}
    seen: set[tuple[int, int]] = set()
    for ref in artifacts.refs():
        manifest = artifacts.get(ref)
        name = (ref.stage, ref.key, ref.digest[:12])
        if name in named or (
            manifest is not None and "snapshot" in manifest.part and ref.stage == "train"
        ):
            if manifest is not None:
                needed |= _states(store, manifest)
        elif since is not None and artifacts.last_use(ref) >= since:
            found.passed_over += 1
        else:
            found.artifacts.append(ref)
            found.size += size_of(artifacts.folder(ref), seen)
    found.leftovers = list(_leftovers(store, _protected_since(found), needed))
    for path in [*(run.folder for run in found.removed), *found.leftovers]:
        found.size += size_of(path, seen)
    return found


def _place(store: Store, stage: str, name: str) -> Path:
    """Where an attempt leaves what it has done so far."""
    return (
        store.home / "state" / "train" / name
        if stage == "trajectory"
        else store.home / "artifacts" / stage / name / ".work"
    )


def _states(store: Store, manifest: Manifest) -> set[Path]:
    return (
        {state_folder(store, manifest)}
        if manifest.stage == "train" and "train" in manifest.part
        else set()
    )


def _leftovers(store: Store, since: float, needed: set[Path]) -> Iterator[Path]:
    """Work folders of attempts that died and states of trainings that no kept run needs, last
    written before `since`.
    """
    for folder in [*store.home.glob("artifacts/*/*/.work"), *store.home.glob("state/train/*")]:
        # Checking makes no lock file: the home may be one that this user only reads. Before a
        # folder goes, its lock is taken.
        if (
            folder not in needed
            and not is_locked(_lock_of(store, folder))
            and last_write(folder) < since
        ):
            yield folder


@contextlib.contextmanager
def _left_over(store: Store, folder: Path, since: float) -> Iterator[bool]:
    """Whether no run has written here since and none is about to: as long as the context lasts,
    its lock is held.
    """
    with try_lock(_lock_of(store, folder)) as free:
        yield free and last_write(folder) < since


def _lock_of(store: Store, folder: Path) -> Path:
    place = folder.parent if folder.name == ".work" else folder
    stage = place.parent.name if folder.name == ".work" else "trajectory"
    return store.home / "locks" / f"{stage}-{place.name}.lock"


def _move_to_trash(artifacts: LocalArtifacts, ref: ArtifactRef, removed: Path) -> bool:
    """Moves a version away; False when a run is writing under its key."""
    with try_lock(artifacts.home / "locks" / f"{ref.stage}-{ref.key}.lock") as free:
        if not free:
            return False
        # first: a key without a version is a cache miss, half a version would be damage
        artifacts.unlink_current(ref)
        folder = artifacts.folder(ref)
        _move(folder, removed)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
    return True


def _move(path: Path, removed: Path) -> None:
    removed.mkdir(parents=True, exist_ok=True)
    try:
        path.rename(removed / f"{path.name.lstrip('.')}-{uuid.uuid4().hex[:8]}")
    except FileNotFoundError:
        if path.exists():
            raise


def _all_below(folder: Path) -> Iterator[Path]:
    """The folder and everything in it; folders that vanish meanwhile are skipped (`rglob`
    would raise).
    """
    yield folder
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def last_write(folder: Path) -> float:
    """The newest time of change of anything in a folder (time.time)."""
    newest = 0.0
    for path in _all_below(folder):
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, path.stat().st_mtime)
    return newest


def size_of(folder: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes of a folder's files; a file that has several names counts once. `seen`: (device, inode)
    of those counted before.
    """
    total = 0
    for path in _all_below(folder):
        with contextlib.suppress(FileNotFoundError):
            known = path.stat()
            if path.is_file() and (known.st_dev, known.st_ino) not in seen:
                seen.add((known.st_dev, known.st_ino))
                total += known.st_size
    return total
