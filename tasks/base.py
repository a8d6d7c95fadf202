"""What every stage task has in common: a look-up in the store first, a state that shows its result,
retries of transient errors, progress.

A task returns a small frozen `StageResult`. What the store already has ends in the state `Cached`;
training that a time limit ended ends in `Paused`. Prefect's own result cache is not used: the store
decides (docs/architecture.md says why).
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel, ConfigDict

from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import DiscernError
from gan_core.pipeline import interruption
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.runner import StageResult, execute, use_cached
from gan_core.progress import Estimate, display, line
from tasks.shares import share_maker

log = logging.getLogger("gan_core.tasks")

Publish = Callable[[StageResult, Path], None]
# From store, node and inputs to a function that is called while the work goes on.
MonitorOf = Callable[[Store, Node, dict[str, ArtifactRef]], Callable[[], None] | None]


class StageCall(BaseModel):
    """What a stage task is given."""

    model_config = ConfigDict(frozen=True)

    home: str
    local: str
    node: Node
    who: str
    refresh: bool = False


def retryable(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: only errors that say so. Wrong input stays wrong."""
    try:
        state.result()
    except DiscernError as error:
        return error.retryable
    except (TimeoutError, ConnectionError):
        return True
    except Exception:
        return False
    return False


def artifact_key(*names: str) -> str:
    """A key that Prefect accepts: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(names).lower()).strip("-")


class TaskProgress:
    """Shows progress as a Prefect artifact: made when work lasts, renewed every two seconds at
    most; and on the display of the command line, if there is one.
    """

    def __init__(
        self,
        node: str,
        *,
        after: float = 5.0,
        every: float = 2.0,
        monitor: Callable[[], None] | None = None,
    ) -> None:
        self._node = node
        self._monitor = monitor
        self._next = time.monotonic() + after
        self._every = every
        self._artifact: UUID | None = None
        self._estimate = Estimate()

    def __call__(self, done: float, total: float, unit: str, **figures: float) -> None:
        shown = display.get()
        if shown is not None:
            shown.update(self._node, done, total, unit, figures)
        about = self._estimate.text(done, total, unit)
        if not total or (time.monotonic() < self._next and not (self._artifact and done >= total)):
            return
        self._next = time.monotonic() + self._every
        share = min(100.0, 100.0 * done / total)
        text = line(self._node, about, figures)
        if shown is None:
            log.info(text)
        with contextlib.suppress(Exception):  # a display must never end the work
            if self._artifact is None:
                key = artifact_key("progress", self._node)
                made = create_progress_artifact(progress=share, key=key, description=text)
                self._artifact = made  # type: ignore[assignment]
            else:
                update_progress_artifact(self._artifact, progress=share, description=text)
            if self._monitor:
                self._monitor()

    def remove(self) -> None:
        """Removes the progress artifact of a stage that is complete; that of a paused or failed one
        stays.
        """
        if self._artifact is not None:
            with contextlib.suppress(Exception), get_client(sync_client=True) as client:
                client.delete_artifact(self._artifact)


@contextlib.contextmanager
def _shown(node: str) -> Iterator[None]:
    """A stage is at work, for the display of the command line."""
    shown = display.get()
    if shown is None:
        yield
        return
    shown.begin(node)
    try:
        yield
    finally:
        shown.end(node)


def stage_task(
    stage: str,
    *,
    retries: int = 2,
    publish: Publish | None = None,
    monitor: MonitorOf | None = None,
) -> Task[Any, State[StageResult]]:
    """The Prefect task of a stage.

    Args:
        retries: tries after the first, for transient errors; the waits double, with jitter.
        publish: shows the artifact in the Prefect UI; called for cached artifacts, too.
        monitor: makes a function that shows the work in the Prefect UI while it goes on.
    """

    def run(call: StageCall, inputs: dict[str, StageResult]) -> State[StageResult]:
        store = Store(call.home, Path(call.local))
        refs = {name: result.ref for name, result in inputs.items() if result.ref is not None}
        # a pinned artifact is used whatever its inputs are, and shown as any other
        if call.node.pinned is not None:
            result = use_cached(store, call.node)
        else:
            progress = TaskProgress(
                call.node.id, monitor=monitor(store, call.node, refs) if monitor else None
            )
            work = interruption.current.get()
            with work.thread() if work else contextlib.nullcontext(), _shown(call.node.id):
                result = execute(
                    store,
                    call.node,
                    refs,
                    who=call.who,
                    progress=progress,
                    refresh=call.refresh,
                    make_shares=share_maker(),
                )
            if not result.paused:
                progress.remove()
        if result.ref is not None and publish is not None:
            _publish(result, store.path(result.ref), publish)
        if result.paused:
            return Completed(
                name="Paused",
                message="Ended by its time limit; the next run continues.",
                data=result,
            )
        if result.cached:
            waited = f" after waiting for {result.waited_for}" if result.waited_for else ""
            return Completed(name="Cached", message=f"The store has it{waited}.", data=result)
        return Completed(message=f"Made in {result.seconds:.1f} s.", data=result)

    return Task(
        fn=run,
        name=stage,
        tags={f"stage:{stage}"},
        task_run_name=_run_name,
        retries=retries,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=retryable,
        # No `timeout_seconds`: `run_child` ends stages in child processes; of a call in a thread
        # Prefect only reports afterwards that it took too long, with a warning for each task.
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def _run_name() -> str:
    from prefect.runtime import task_run

    call = task_run.parameters.get("call")
    return call.node.id if isinstance(call, StageCall) else str(task_run.task_name)


def _publish(result: StageResult, folder: Path, publish: Publish) -> None:
    """A display must never end the work."""
    try:
        publish(result, folder)
    except Exception as error:
        log.warning("%s: its figures could not be shown in the Prefect UI: %s", result.node, error)
