"""How a flow runs the nodes of its plan: each as soon as its inputs and the machine allow it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture
from prefect.runtime import flow_run

from flows.accuracy import report_accuracy_drop
from flows.home import open_store
from flows.hooks import close_dead_runs, close_leftover_task_runs
from flows.publish import publish_run, tag_run
from flows.resources import Needs, fits, needs_of
from flows.runners import parse_runner
from gan_core.artifacts.store import Store
from gan_core.errors import DataError, DiscernError, TrainingDiverged
from gan_core.pipeline import interruption
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.preflight import check_before_starting
from gan_core.pipeline.request import (
    Prepared,
    RunRequest,
    prepare,
    replan,
    replan_after_ingest,
)
from gan_core.pipeline.run_record import Run
from gan_core.pipeline.runner import StageResult, use_cached
from tasks.base import StageCall
from tasks.fetch import fetch_source
from tasks.shares import using_cluster

log = logging.getLogger("gan_core.pipeline.run_record")

Made = frozenset[str]  # ids of the nodes that a stage has in this run
StageTask = Task[Any, State[StageResult]]
FLOWS = ("represent", "prepare", "train", "extract", "evaluate", "inspect", "stage")
_MOST_INGESTS = 3

# The plan that the command line has made of the same request, for the flow that it starts.
planned: ContextVar[Prepared | None] = ContextVar("planned", default=None)


class FlowRun:
    """One run of a plan: stages are called in order, and their nodes start when they can.

    Attributes:
        results, states: node id to what came of it, as a result and as Prefect's state.
        record: of the run that has ended (`run.json`).
    """

    def __init__(self, store: Store, prepared: Prepared, run: Run) -> None:
        self.store, self.prepared, self.run = store, prepared, run
        self.results = run.results
        self.record: dict[str, Any] = {}
        self.states: dict[str, State[StageResult] | StageResult] = {}
        self._waiting: dict[str, tuple[StageTask, Node]] = {}
        self._working: dict[concurrent.futures.Future[Any], tuple[Node, Needs]] = {}
        self._futures: dict[str, PrefectConcurrentFuture[Any]] = {}
        self._ingests = 0

    def __call__(self, task: StageTask, *given: Made) -> Made:
        """Starts a stage's nodes of the plan that have no result yet, now or when they can.

        Args:
            given: what the stage reads; what else the plan names for it is a fault of the flow.
        Returns: the ids of the stage's nodes.
        """
        nodes = [node for node in self.prepared.nodes if node.stage == task.name]
        known = {*self.results, *(name for made in given for name in made)}
        for node in nodes:
            if node.id in self.results:
                continue
            missing = [name for name in node.input_ids if name not in known]
            assert not missing, f"the flow gives {node.id} no {', '.join(missing)}"
            self._waiting[node.id] = (task, node)
        self._start_ready()
        return frozenset(node.id for node in nodes)

    def sources_changed(self) -> bool:
        """Plans again once the sources are ingested: their labels decide what is evaluated.

        Returns: whether files have changed meanwhile, so that they have to be ingested again.
        Raises:
            DataError: they keep changing.
        """
        ingests = [one for one in self.prepared.statuses.values() if one.node.stage == "ingest"]
        if self.prepared.request.only or all(one.state == "cached" for one in ingests):
            return False
        self.finish()
        self._ingests += 1
        self.prepared, changed = replan_after_ingest(self.prepared, self.store)
        self.run.planned(self.prepared)
        if not changed:
            check_before_starting(self.prepared)
            return False
        if self._ingests == _MOST_INGESTS:
            raise DataError(
                f"The data of recipe {self.prepared.recipe.name} changed while it was read, "
                f"{_MOST_INGESTS} times over.",
                expected="files that stay as they are while they are read",
                remedy="run the same command again once copying has ended",
            )
        for name in changed:
            self.results.pop(name, None)
        return True

    def training_set_decides(self) -> bool:
        """Plans again once the training set is packed, where its growth decides about training."""
        if not self.prepared.undecided:
            return False
        self.finish()
        made = frozenset(result.ref.stage for result in self.results.values() if result.ref)
        notes = self.prepared.notes
        self.prepared = replan(self.prepared, self.store, made)
        for note in self.prepared.notes[len(notes) :]:
            log.info("%s", note)
        self.run.planned(self.prepared)
        return True

    def finish(self) -> None:
        """Waits until nothing is at work. What reads a paused node is left for another run."""
        while self._working:
            done, _ = concurrent.futures.wait(
                self._working, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                self._complete(future)
            self._start_ready()

    def use_inputs(self) -> None:
        """For one stage alone: its inputs are used as they are, without tasks of their own."""
        for name, status in self.prepared.statuses.items():
            if status.node.stage != self.prepared.request.only and status.manifest:
                result = use_cached(self.store, replace(status.node, pinned=status.ref))
                self.states[name] = result
                self.run.add(result)

    def _start_ready(self) -> None:
        for name, (task, node) in list(self._waiting.items()):
            if any(other not in self.results for other in node.input_ids):
                continue
            if any(self.results[other].ref is None for other in node.input_ids):
                continue
            needs = self._needs(node)
            if fits(needs, [held for _, held in self._working.values()]):
                del self._waiting[name]
                self._start(task, node, needs)

    def _needs(self, node: Node) -> Needs:
        status = self.prepared.statuses[node.id]
        if status.state == "cached" and node.stage not in self.prepared.settings.refresh:
            return Needs()
        return needs_of(node, self.prepared.recipe.threads, self.results)

    def _start(self, task: StageTask, node: Node, needs: Needs) -> None:
        settings = self.prepared.settings
        refresh = node.stage in settings.refresh or (settings.rehash and node.stage == "ingest")
        if node.stage == "report":
            node = self.run.report_node(node)
        if node.pinned is None:
            refs = {name: self.results[name].ref for name in node.input_ids}
            self.run.begins(node, {name: ref for name, ref in refs.items() if ref})
        call = StageCall(
            home=self.store.address,
            local=str(self.store.home),
            node=node,
            who=f"run {self.run.name}",
            refresh=refresh and node.id not in self.run.made_before,
        )
        future = task.submit(call, {name: self.states[name] for name in node.input_ids})
        assert isinstance(future, PrefectConcurrentFuture)  # of the flow's thread pool
        self._futures[node.id] = future
        self._working[future.wrapped_future] = (node, needs)

    def _complete(self, wrapped: concurrent.futures.Future[Any]) -> None:
        node, _ = self._working.pop(wrapped)
        future = self._futures.pop(node.id)
        result = future.result()
        self.states[node.id] = future.state
        self.run.add(result)


@contextlib.contextmanager
def flow_run_of(request: RunRequest) -> Iterator[FlowRun]:
    """A request as a run: planned, recorded, and ended with its record.

    Raises:
        DiscernError: the first failure; the run's folder says which node and why.
    """
    runner = parse_runner(request.runner)
    core = logging.getLogger("gan_core")
    core.setLevel(core.level or logging.INFO)  # in a worker its lines go to the run's page
    store = open_store(request.home)
    if flow_run.id:
        close_dead_runs(store.home)
        close_leftover_task_runs([*FLOWS])
    stage = request.only or request.until
    if flow_run.id:  # a run that ends before it is planned has tags too
        tag_run(Path(request.recipe).stem, request.scale or "auto", stage)
    prepared = _fetched(request, store)
    if flow_run.id:
        tag_run(prepared.recipe.name, prepared.recipe.scale, stage)
    check_before_starting(prepared)
    run = Run(store, prepared, flow_run=flow_run.id, attempt=flow_run.run_count or 1)
    if flow_run.run_count > 1:
        run.follows_up()
    work = interruption.Work()
    token = interruption.current.set(work)
    try:
        running = FlowRun(store, prepared, run)
        if request.only:
            running.use_inputs()
        with using_cluster(*runner):
            yield running
            running.finish()
    except BaseException as error:
        work.end()
        if isinstance(error, TrainingDiverged):
            _report_divergence(run, error)
        with contextlib.suppress(OSError):  # on a full disk the first error counts
            run.finish("failed", _in_words(error))
        publish_run(run)
        raise
    finally:
        interruption.current.reset(token)
    paused = any(result.paused for result in run.results.values())
    running.record = run.finish("paused" if paused else "completed")
    publish_run(run)
    report_accuracy_drop(run)


def _fetched(request: RunRequest, store: Store) -> Prepared:
    """The request planned, after what has to be downloaded was."""
    given = planned.get()
    if given is not None and given.request == request and flow_run.run_count <= 1:
        prepared = given
    else:
        prepared = prepare(request, store)
    if not prepared.to_fetch:
        return prepared
    sources = {source.name: source for source in prepared.recipe.all_sources()}
    for name in prepared.to_fetch:
        fetch_source(sources[name], str(prepared.locations[name].path))
    return prepare(request, store)


def _in_words(error: BaseException) -> str:
    if isinstance(error, DiscernError):
        return error.explain()
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _report_divergence(run: Run, error: TrainingDiverged) -> None:
    """The report of a run that ends here, as a page and in short in the UI; a page that cannot be
    made must not hide the error.
    """
    try:
        path = run.report_divergence(error)
        text = (
            f"# The training diverged\n\n{error.message}\n\n"
            f"What led to it, with samples and curves, is one file: `{path}`"
        )
        create_markdown_artifact(key="report", markdown=text, description="Report: diverged")
    except Exception as other:
        log.warning("The report of the diverged training could not be written: %s", other)
