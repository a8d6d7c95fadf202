"""A request run node by node in this process, without Prefect: what the Python API does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gan_core.artifacts.store import Store
from gan_core.errors import DataError, DiscernError, TrainingDiverged
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.preflight import check_before_starting
from gan_core.pipeline.request import RunRequest, prepare, replan, replan_after_ingest
from gan_core.pipeline.run_record import Run
from gan_core.pipeline.runner import execute, use_cached
from gan_core.pipeline.sources import fetch
from gan_core.progress import Progress, silent

ProgressOf = Callable[[str], Progress]


def run_request(
    request: RunRequest, store: Store, progress_of: ProgressOf = lambda node: silent
) -> dict[str, Any]:
    """Runs a request to its end; returns the run's record (`run.json`).

    Args:
        progress_of: from a node's id to what its progress is reported to.
    Raises:
        DiscernError: the first failure; the run's folder names the node and the reason.
    """
    prepared = prepare(request, store)
    if prepared.to_fetch:
        sources = {source.name: source for source in prepared.recipe.all_sources()}
        for name in prepared.to_fetch:
            fetch(sources[name], prepared.locations[name], progress_of(f"fetch:{name}"))
        prepared = prepare(request, store)
    check_before_starting(prepared)
    run = Run(store, prepared)
    try:
        _Sequence(store, run, progress_of).make_all()
    except BaseException as error:
        if isinstance(error, TrainingDiverged):
            run.report_divergence(error)
        reason = error.explain() if isinstance(error, DiscernError) else repr(error)
        run.finish("failed", reason)
        raise
    paused = any(result.paused for result in run.results.values())
    return run.finish("paused" if paused else "completed")


class _Sequence:
    """The nodes of a run's plan, one after the other."""

    def __init__(self, store: Store, run: Run, progress_of: ProgressOf) -> None:
        self._store, self._run, self._progress_of = store, run, progress_of

    def make_all(self) -> None:
        """Makes the plan, and plans again after ingest and, where asked for, after pack."""
        prepared = self._run.prepared
        if only := prepared.request.only:
            for status in prepared.statuses.values():
                if status.node.stage != only:
                    self._run.add(use_cached(self._store, replace(status.node, pinned=status.ref)))
            self._make(prepared.nodes)
            return
        self._make([node for node in prepared.nodes if node.stage == "ingest"])
        if any(not result.cached for result in self._run.results.values()):
            prepared, changed = replan_after_ingest(prepared, self._store)
            if changed:
                raise DataError(
                    f"The data of recipe {prepared.recipe.name} changed while they were read.",
                    expected="files that stay as they are while they are read",
                    remedy="run it again once copying has ended",
                )
            self._run.planned(prepared)
            check_before_starting(prepared)
        if prepared.undecided:
            end = next(i for i, node in enumerate(prepared.nodes) if node.stage == "pack")
            self._make(prepared.nodes[: end + 1])
            made = frozenset(one.ref.stage for one in self._run.results.values() if one.ref)
            prepared = replan(prepared, self._store, made)
            self._run.planned(prepared)
        self._make(prepared.nodes)

    def _make(self, nodes: list[Node]) -> None:
        """Makes nodes in order. What reads a paused training is left for another run."""
        settings, run = self._run.prepared.settings, self._run
        for node in nodes:
            if node.id in run.results:
                continue
            inputs = {name: run.results[name].ref for name in node.input_ids if name in run.results}
            there = {name: ref for name, ref in inputs.items() if ref is not None}
            if len(there) < len(set(node.input_ids)):
                continue
            if node.pinned is not None:
                run.add(use_cached(self._store, node))
                continue
            refresh = node.stage in settings.refresh or (settings.rehash and node.stage == "ingest")
            if node.stage == "report":
                node = run.report_node(node)
            run.begins(node, there)
            progress = self._progress_of(node.id)
            who = f"run {run.name}"
            run.add(execute(self._store, node, there, who=who, progress=progress, refresh=refresh))
