"""`discern gc`: the home cleaned down to the last runs of each kind, and Prefect's records of the
runs that went.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.home import is_writable, open_store, resolve_home
from flows.prefect_server.server import external_api, prefect_server
from flows.prefect_server.settings import database, server_file
from gan_core.artifacts.store import Store
from gan_core.pipeline.garbage_collection import Cleaning, clean
from gan_core.reporting.run_info import volume

_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_SHOWN = 20
LOGS_SECONDS = 60.0


def gc(
    keep: Annotated[int, typer.Option("--keep", help="completed runs of each kind to keep", min=1)],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="show what would be removed and how many bytes, remove nothing"
        ),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> int:
    """Cleans a home; returns the exit code."""
    store = open_store(resolve_home(home), writing=not dry_run)
    found = clean(store, keep, dry_run=dry_run)
    pruned = _prune(store, found, dry_run=dry_run)
    if as_json:
        console.print_json(
            {**_as_json(found), "prefect": {"flow_runs": pruned}, "dry_run": dry_run}
        )
        return 0
    verb = "would go" if dry_run else "removed"
    for ref in found.artifacts[:_SHOWN]:
        print(f"{verb}  {ref.stage}/{ref.key}/{ref.digest[:12]}")
    if len(found.artifacts) > _SHOWN:
        print(f"{verb}  ... and {len(found.artifacts) - _SHOWN} more (--json lists all)")
    for path in found.leftovers:
        print(f"{verb}  {path.relative_to(store.home)}")
    count = "an unknown number of" if pruned is None else str(pruned)
    print(
        f"{verb}: {len(found.artifacts)} artifacts, {len(found.removed)} runs, {count} flow runs "
        f"of Prefect: {volume(found.size)}."
    )
    print(f"kept: {len(found.kept)} runs, with all that they name.")
    if found.passed_over:
        print(
            f"{found.passed_over} more were passed over: a run that is going on uses or writes "
            "them."
        )
    return 0


def _as_json(found: Cleaning) -> dict[str, Any]:
    return {
        "kept": [run.folder.name for run in found.kept],
        "removed": [run.folder.name for run in found.removed],
        "artifacts": [f"{ref.stage}/{ref.key}/{ref.digest[:12]}" for ref in found.artifacts],
        "leftovers": [str(path) for path in found.leftovers],
        "bytes": found.size,
        "passed_over": found.passed_over,
    }


def _flow_runs(found: Cleaning) -> set[str]:
    """Prefect's names of the runs that go; a retried flow run may stand behind several, all of
    which have to go.
    """
    kept = {run.flow_run for run in found.kept}
    return {run.flow_run for run in found.removed if run.flow_run} - kept


def _prune(store: Store, found: Cleaning, *, dry_run: bool) -> int | None:
    """Deletes flow runs with their task runs, artifacts and logs; returns how many, None where
    the server cannot be asked.

    On the home's own server also those without a run's folder (refused before anything ran) that
    ended before the horizon. On another one, which may serve others, only those of the runs that
    went.
    """
    folder = store.home / "prefect"
    # a server is started, and used, under locks in this folder
    if dry_run and folder.exists() and not is_writable(folder):
        return None
    own = external_api(folder) is None
    linked = _flow_runs(found)
    if not (_has_tables(folder) if own else linked):
        return 0
    with prefect_server(store.home):
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            wanted = {UUID(name) for name in linked}
            if own and found.horizon:
                wanted |= _ended_before(client, found.horizon) - {
                    UUID(run.flow_run) for run in found.kept if run.flow_run
                }
            if dry_run:
                return len(wanted)
            deleted = [name for name in sorted(wanted) if _delete(client, name)]
            _await_logs(client, deleted)
            return len(deleted)


def _has_tables(folder: Path) -> bool:
    """Whether the home's own server has ever kept anything; one on PostgreSQL is asked."""
    if not server_file(folder).exists():
        return False
    place = database(folder)
    return "://" in place or Path(place).exists()


def _await_logs(client: Any, deleted: list[UUID]) -> None:
    """Waits until the logs are gone, too: the server deletes them a moment later, and may be
    stopped before that.
    """
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    deadline = time.monotonic() + LOGS_SECONDS
    for start in range(0, len(deleted), 100):
        of_these = LogFilter(flow_run_id=LogFilterFlowRunId(any_=deleted[start : start + 100]))
        while client.read_logs(log_filter=of_these, limit=1) and time.monotonic() < deadline:
            time.sleep(0.3)


def _ended_before(client: Any, horizon: float) -> set[UUID]:
    """Flow runs that ended before a time, also those that never began (cancelled, or crashed while
    they waited).
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterEndTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    before = FlowRunFilterEndTime(before_=datetime.fromtimestamp(horizon, UTC))
    ended = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[StateType(name) for name in _ENDED])
    )
    names: set[UUID] = set()
    while True:
        page = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(end_time=before, state=ended),
            limit=200,
            offset=len(names),
        )
        names |= {flow_run.id for flow_run in page}
        if len(page) < 200:
            return names


def _delete(client: Any, name: UUID) -> bool:
    """Deletes one flow run that has ended, its artifacts first; False when it is not there or has
    not ended.
    """
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.exceptions import ObjectNotFound

    try:
        flow_run = client.read_flow_run(name)
        if flow_run.state is None or flow_run.state.type.value not in _ENDED:
            return False
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[name]))
        while page := client.read_artifacts(artifact_filter=mine, limit=200):
            for artifact in page:
                client.delete_artifact(artifact.id)
        client.delete_flow_run(name)
    except ObjectNotFound:
        return False
    return True
