"""Makes one artifact: ask the store, take the key's lock, ask again, compute, publish.

Prefect's tasks, the command line and tests all come through here, so that there is one meaning of
"cached".
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gan_core.artifacts.manifest import Manifest, problems
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.errors import DiscernError, StoreError, TrainingDiverged, TransientError
from gan_core.pipeline.child_process import run_child
from gan_core.pipeline.data_growth import trajectory_of
from gan_core.pipeline.gpu_lock import exclusive_use, identities
from gan_core.pipeline.nodes import Node, key_of
from gan_core.progress import Progress, duration, silent
from gan_core.specs import StageSpec, spec_of

log = logging.getLogger(__name__)

# the mark of a refreshed training that is not complete, in its state folder
REFRESH_MARK = "refresh-incomplete"
# makes the shares of a request, perhaps on other machines; returns how many
MakeShares = Callable[[StageRequest], int]


class StageResult(BaseModel):
    """What came of one node: small, frozen, JSON; what tasks return."""

    model_config = ConfigDict(frozen=True)

    node: str
    ref: ArtifactRef | None
    cached: bool
    paused: bool = False
    waited_for: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    outcome: StageOutcome = StageOutcome()


def result_of(node: str, manifest: Manifest, *, cached: bool, waited_for: str = "") -> StageResult:
    """The result that an artifact in the store represents."""
    made = manifest.made
    return StageResult(
        node=node,
        ref=manifest.ref(),
        cached=cached,
        waited_for=waited_for,
        seconds=float(made.get("seconds", 0.0)),
        peak_memory_mb=float(made.get("peak_memory_mb", 0.0)),
        outcome=manifest.outcome,
    )


def summary_line(result: StageResult) -> str:
    """One line for a person: what came of a node, how long it took, and its counts."""
    if result.ref is None:
        return f"{result.node}: paused after {duration(result.seconds)}"
    if result.cached:
        waited = f", made by {result.waited_for} meanwhile" if result.waited_for else ""
        return f"{result.node}: cached {result.ref.digest[:12]}{waited}"
    counts = "".join(
        f", {count:,} {what.replace('_', ' ')}" for what, count in result.outcome.counts.items()
    )
    memory = f", {result.peak_memory_mb:,.0f} MiB" if result.peak_memory_mb else ""
    took = f"{result.seconds:.1f} s" if result.seconds < 60 else duration(result.seconds)
    return f"{result.node}: made {result.ref.digest[:12]} in {took}{counts}{memory}"


def execute(
    store: Store,
    node: Node,
    inputs: dict[str, ArtifactRef],
    *,
    who: str = "discern",
    progress: Progress = silent,
    refresh: bool = False,
    waiting: Callable[[str], None] | None = None,
    make_shares: MakeShares | None = None,
) -> StageResult:
    """Returns a node's artifact, computing it when the store has none.

    Args:
        inputs: node id to artifact, for every node that this one reads.
        who: name shown to a run that waits for this key.
        refresh: compute even when an artifact is there; it becomes another version under the key.
        waiting: called with the holder's words when another run is making the same artifact.
        make_shares: makes the shares of a stage that can be divided, before the stage itself
            publishes them.
    Raises:
        DiscernError: what went wrong, for people; OSErrors of a full disk or a folder without
            permission come as StoreError.
    """
    key = key_of(node, {name: ref.digest for name, ref in inputs.items()})
    held: list[str] = []

    def announce(holder: str) -> None:
        held.append(holder)
        log.info("%s: waiting for %s, which is making the same artifact", node.id, holder)
        if waiting:
            waiting(holder)

    try:
        if not refresh and (manifest := store.acquire(node.stage, key)):
            return result_of(node.id, manifest, cached=True)
        with store.lock(node.stage, key, who, announce):
            if (not refresh or held) and (manifest := store.acquire(node.stage, key)):
                return result_of(node.id, manifest, cached=True, waited_for=held[0] if held else "")
            return _make_alone(store, node, key, inputs, progress, who, refresh, make_shares)
    except OSError as error:
        raise explain_os_error(error, store.home) from error


def use_cached(store: Store, node: Node) -> StageResult:
    """The result of a node that the plan has pinned: its artifact as it is.

    Raises:
        StoreError: it is gone or damaged.
    """
    assert node.pinned is not None
    manifest = store.artifacts.get(node.pinned)
    whole = manifest is not None and store.artifacts.pin(node.pinned)
    if manifest is None or not whole or problems(store.path(node.pinned), manifest, deep=False):
        raise StoreError(
            f"The artifact {node.pinned.stage}/{node.pinned.key}, which {node.id} needs, is "
            "gone or damaged.",
            remedy="run the same command again: it makes a new plan",
        )
    return result_of(node.id, manifest, cached=True)


def _make_alone(
    store: Store,
    node: Node,
    key: str,
    inputs: dict[str, ArtifactRef],
    progress: Progress,
    who: str,
    refresh: bool,
    make_shares: MakeShares | None,
) -> StageResult:
    """Makes a node under the lock of its training's state folder, if it has one: trainings of
    several lengths share a folder.
    """
    if node.stage != "train" or "train" not in node.key_part:
        return _make(store, node, key, inputs, progress, who, make_shares)
    trajectory = trajectory_key(node, inputs)
    with store.lock(
        "trajectory",
        trajectory,
        who,
        lambda holder: log.info("%s: waiting for %s", node.id, holder),
    ):
        if not refresh:
            return _make(store, node, key, inputs, progress, who)
        with fresh_state(store.state("train", trajectory), node.id) as mark:
            result = _make(store, node, key, inputs, progress, who)
            if not result.paused:
                mark.unlink(missing_ok=True)
            return result


@contextlib.contextmanager
def fresh_state(state: Path, node: str) -> Iterator[Path]:
    """Removes the state of earlier trainings before a refreshed one, once; yields a mark in the
    state folder.

    The mark stays until the training is complete or has diverged, so that a retry of the task or of
    the run, or the same command after a kill or a time limit, continues the refreshed training.
    """
    mark = state / REFRESH_MARK
    if mark.exists():
        log.info("%s: continues the refreshed training", node)
    else:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        mark.touch()
    try:
        yield mark
    except TrainingDiverged:
        mark.unlink(missing_ok=True)
        raise


def _make(
    store: Store,
    node: Node,
    key: str,
    inputs: dict[str, ArtifactRef],
    progress: Progress,
    who: str,
    make_shares: MakeShares | None = None,
) -> StageResult:
    """Runs a node's stage on verified inputs and publishes what it wrote; a stage that paused
    publishes nothing.
    """
    spec = spec_of(node.stage)
    checked = {
        role: [_checked(store, inputs[name]) for name in ids] for role, ids in node.inputs.items()
    }
    processes = int(node.part.get("train", {}).get("processes", 1)) if node.stage == "train" else 1
    gpus = identities(str(node.context.get("device", "cpu")), processes) if spec.child else []
    with exclusive_use(
        gpus, who, lambda holder: log.info("%s: waiting for %s, which has the GPU", node.id, holder)
    ):
        request = StageRequest(
            stage=node.stage,
            node=node.id,
            key=key,
            part=node.part,
            inputs=checked,
            context={**node.context, **_context(store, node, inputs)},
            work=store.work(node.stage, key),
        )
        started = time.perf_counter()
        if spec.shares and make_shares is not None:
            request = request.model_copy(
                update={"context": {**request.context, "shares": make_shares(request)}}
            )
        outcome, peak = _run_stage(spec, request, progress, processes)
    seconds = time.perf_counter() - started
    if not outcome.complete:
        return StageResult(
            node=node.id, ref=None, cached=False, paused=True, seconds=seconds, outcome=outcome
        )
    manifest = Manifest(
        stage=node.stage,
        version=spec.version,
        key=key,
        digest="",
        node=node.id,
        part=node.key_part,
        inputs={role: [inputs[name] for name in ids] for role, ids in node.inputs.items()},
        outcome=outcome,
        made={
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "peak_memory_mb": round(peak, 1),
            "python": sys.version.split()[0],
            "device": node.context.get("device", "cpu"),
        },
    )
    ref, complete = store.publish(request.work, manifest, spec.content)
    return result_of(node.id, complete, cached=False)


def _run_stage(
    spec: StageSpec, request: StageRequest, progress: Progress, processes: int
) -> tuple[StageOutcome, float]:
    """Runs a stage in a child process or in this thread; returns its outcome and the peak memory in
    MiB.
    """
    if spec.child:
        return run_child(request, progress, spec.time_limit, processes)
    module = importlib.import_module(f"gan_core.stages.{spec.name}")
    with _peak_memory() as measured:
        outcome = module.run(request, progress)
    return outcome, measured[0]


def _checked(store: Store, ref: ArtifactRef) -> StageInput:
    """An input whose bytes agree with its manifest, so that damage does not pass on to what is made
    from it.

    Raises: StoreError: they do not.
    """
    manifest = store.artifacts.get(ref)
    wrong, path = ["its manifest is gone"], Path()
    if manifest is not None:
        # a local copy may be damaged where the object store's version is whole
        for fetch in (store.path, store.artifacts.refetch):
            path = fetch(ref)
            wrong = problems(path, manifest, deep=True, byproducts=False)
            if not wrong:
                break
    if wrong:
        raise StoreError(
            f"The artifact {ref.stage}/{ref.key}/{ref.digest[:12]} is damaged: "
            f"{'; '.join(wrong[:3])}.",
            expected="the bytes that its manifest names",
            remedy=(
                "discern verify --all --remove drops damaged artifacts; the next run makes "
                "them again"
            ),
        )
    return StageInput(ref=ref, path=path)


def _context(store: Store, node: Node, inputs: dict[str, ArtifactRef]) -> dict[str, Any]:
    """What a stage may use in addition to its work folder: folders that outlive an attempt, earlier
    artifacts.
    """
    if node.stage == "ingest":
        return {"state": str(store.state("ingest", str(node.part["source"]["name"])))}
    if node.stage == "crop":
        return {"earlier": _earlier(store, node)}
    if node.stage == "train" and "train" in node.key_part:
        return {"state": str(store.state("train", trajectory_key(node, inputs)))}
    return {}


def _earlier(store: Store, node: Node, most: int = 2) -> list[str]:
    """Folders of the newest artifacts of the same place and settings: their rows can be copied
    instead of read again.
    """
    found = []
    for ref in store.artifacts.refs(node.stage):
        manifest = store.artifacts.get(ref)
        same = (
            manifest
            and manifest.part == node.key_part
            and manifest.version == spec_of(node.stage).version
        )
        if manifest and same and manifest.node == node.id:
            found.append((str(manifest.made.get("at", "")), ref, manifest))
    chosen: list[str] = []
    for _, ref, manifest in sorted(found, key=lambda entry: entry[0], reverse=True):
        # pinned: rows are copied until the stage ends, and cleaning must leave it until then;
        # hashed: damage must not be copied with them
        if (
            len(chosen) < most
            and store.artifacts.pin(ref)
            and not problems(store.path(ref), manifest, deep=True, byproducts=False)
        ):
            chosen.append(str(store.path(ref)))
    return chosen


def trajectory_key(node: Node, inputs: dict[str, ArtifactRef]) -> str:
    """The key of a training's state: all that decides its weights but the length, so that a longer
    training continues from it.
    """
    digests = {role: [inputs[name].digest for name in ids] for role, ids in node.inputs.items()}
    return trajectory_of(spec_of(node.stage).version, node.key_part, digests)


@contextlib.contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Measures the peak resident memory (MiB) of this process over a block; the counter is reset
    first where Linux allows it.
    """
    measured = [0.0]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    try:
        yield measured
    finally:
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path("/proc/self/status").read_text().splitlines()
            measured[0] = (
                int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
            )


def explain_os_error(error: OSError, home: Path) -> DiscernError:
    """An operating-system error as an error for people: a full disk, a folder without permission, a
    system that ran out of a resource.
    """
    where = error.filename or home
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(
            f"No room is left while writing {where}: {error.strerror}.",
            expected=f"free space under {home}",
            remedy=(
                "free some space, or choose another disk with --home; what is finished is "
                "kept, the same command continues"
            ),
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreError(
            f"{where} cannot be written or read: {error.strerror}.",
            expected=f"a home that this user may write ({home})",
            remedy="choose another home with --home or DISCERN_HOME, or mend the permissions",
        )
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in (
        errno.EIO,
        errno.ESTALE,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    ):
        return TransientError(
            f"A disk or a connection failed: {error.strerror or error or type(error).__name__} "
            f"({where}).",
            remedy="the task is tried again",
        )
    if error.errno in (errno.ENOMEM, errno.EAGAIN, errno.EMFILE):
        return TransientError(
            f"The system ran out of a resource: {error.strerror} ({where}).",
            remedy="the task is tried again",
        )
    return StoreError(
        f"{where}: {error.strerror or error}.", expected="a file that can be read and written"
    )
