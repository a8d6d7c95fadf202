"""The shares of crop and extract as Prefect tasks on Dask or Ray: each in a process of its own,
perhaps on another machine.

A share leaves its finished pieces in the artifact's work folder, as a killed run does; the stage
then collects and publishes them. So the digest does not depend on who made the shares, the stage
itself makes a share that dies, and the one stage task holds the key's lock. Other machines have to
see the home and the images under the same paths.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from gan_core.contract import StageRequest
from gan_core.devices import cpu_cores
from gan_core.errors import WorkError
from gan_core.pipeline.child_process import run_child
from gan_core.pipeline.runner import MakeShares
from gan_core.progress import silent
from gan_core.specs import spec_of

log = logging.getLogger("gan_core.tasks")

MOST_SHARES = 50
_START_SECONDS = 120
_CHECK_SECONDS = 10.0  # between checks whether Dask has workers
_current: ContextVar[MakeShares | None] = ContextVar("make_shares", default=None)


@task(
    name="share",
    task_run_name="{node} share {number} of {of}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def make_share(node: str, request: str, number: int, of: int) -> int:
    """Makes one share of a stage's work. Args: request: a StageRequest as JSON; number: from 1 to
    `of`.
    """
    whole = StageRequest.model_validate_json(request)
    part = whole.model_copy(update={"context": {**whole.context, "share": [number - 1, of]}})
    run_child(part, silent, spec_of(whole.stage).time_limit)
    return number


def share_maker() -> MakeShares | None:
    """What makes shares in this run; None when stages do all their work themselves."""
    return _current.get()


@contextlib.contextmanager
def using_cluster(kind: str, place: str = "") -> Iterator[None]:
    """Divides the stages of a block into shares. The first stage that has any starts the cluster;
    the end of the block stops it.

    Args:
        kind: threads (no shares), dask or ray.
        place: a number of local processes, or the address of a cluster that is there; empty: as
            many as there are cores.
    """
    if kind == "threads":
        yield
        return
    with contextlib.ExitStack() as stack:
        cluster = _Cluster(kind, place, stack)
        token = _current.set(cluster)
        try:
            yield
        finally:
            _current.reset(token)


class _Cluster:
    """Prefect's task runner, started at the first call."""

    def __init__(self, kind: str, place: str, stack: contextlib.ExitStack) -> None:
        self._kind, self._place, self._stack = kind, place, stack
        self._runner: Any = None
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, request: StageRequest) -> int:
        with self._lock:  # stages that run at once share one cluster
            if self._runner is None:
                self._start()
        node, text = request.node, request.model_dump_json()
        log.info("%s: in %d shares on %s", node, self._count, self._kind)
        futures = [
            self._runner.submit(
                make_share, {"node": node, "request": text, "number": number, "of": self._count}
            )
            for number in range(1, self._count + 1)
        ]
        for number, future in enumerate(futures, 1):
            problem = self._wait(future)
            if problem:
                log.warning(
                    "%s: share %d was not made (%s); the stage makes it itself",
                    node,
                    number,
                    problem,
                )
        return self._count

    def _wait(self, future: Any) -> str:
        """Waits for a share; '' when it was made, else what went wrong. Dask would wait for ever
        once all its workers are gone.
        """
        asked = time.monotonic()
        while self._kind == "dask" and not future.wrapped_future.done():
            time.sleep(0.1)
            if time.monotonic() - asked > _CHECK_SECONDS:
                asked = time.monotonic()
                if not self._runner.client.scheduler_info(n_workers=-1)["workers"]:
                    return "no worker is left"
        try:
            future.wait()
            return (
                ""
                if future.state.is_completed()
                else str(future.state.message or future.state.name)
            )
        except Exception as error:  # whatever happened on the cluster: the stage does what is left
            return f"{type(error).__name__}: {error}"

    def _start(self) -> None:
        try:
            runner, count = (_dask if self._kind == "dask" else _ray)(self._place, self._stack)
        except Exception as error:  # Ray raises plain Exceptions when its node does not come up
            raise WorkError(
                f"The {self._kind} cluster could not be reached or started: {error}.",
                expected="an address where one listens, or room for its processes here",
                remedy="--runner threads does the same work without one",
            ) from error
        self._runner, self._count = runner, max(1, min(MOST_SHARES, count))


def _dask(place: str, stack: contextlib.ExitStack) -> tuple[Any, int]:
    from prefect_dask import DaskTaskRunner

    if place and not place.isdigit():
        runner = stack.enter_context(DaskTaskRunner(address=place))
        runner.client.wait_for_workers(1, timeout=_START_SECONDS)
        return runner, len(runner.client.scheduler_info(n_workers=-1)["workers"])
    count = int(place) if place else cpu_cores()
    kwargs = {
        "n_workers": count,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": None,
    }
    runner = stack.enter_context(DaskTaskRunner(cluster_kwargs=kwargs))
    runner.client.wait_for_workers(count, timeout=_START_SECONDS)
    return runner, count


def _ray(place: str, stack: contextlib.ExitStack) -> tuple[Any, int]:
    import ray
    from prefect_ray import RayTaskRunner

    if place and not place.isdigit():
        runner = stack.enter_context(RayTaskRunner(address=place))
        return runner, int(ray.cluster_resources().get("CPU", 1))
    count = int(place) if place else cpu_cores()
    kwargs = {"num_cpus": count, "include_dashboard": False, "log_to_driver": False}
    return stack.enter_context(RayTaskRunner(init_kwargs=kwargs)), count
