"""`discern run` and its shorter forms: plan first, and start Prefect only when something has to be made."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import console
from flows.home import open_store
from flows.settings import HEARTBEAT_SECONDS
from gan_core.recipes import dump_recipe
from gan_core.runner import result_of
from gan_core.runs import Prepared, Run, RunRequest, prepare, refuse_before_starting
from gan_core.store import Store

_FLOWS = {"report": "represent", "pack": "prepare"}


def run_command(request: RunRequest, *, dry_run: bool, as_json: bool, verbose: bool) -> int:
    """Runs a request; returns the exit code."""
    console.log_to_stderr(verbose)
    store = open_store(request.home)
    prepared = prepare(request, store)
    for note in prepared.notes:
        console.say(note)
    if dry_run:
        return _show_plan(prepared, as_json)
    if not any(node.stage == (request.only or request.until) for node in prepared.nodes):
        console.say(f"There is nothing to {request.only or request.until}: the sources have no labels to evaluate with.")
    if prepared.to_do or prepared.to_fetch:
        refuse_before_starting(prepared)
        record = _through_prefect(request, store, verbose)
    else:
        record = _nothing_to_do(store, prepared)
    _show_outcome(store, record, as_json)
    return 0


def _show_plan(prepared: Prepared, as_json: bool) -> int:
    from gan_core.estimates import estimate

    rough = estimate(prepared.recipe, prepared.settings.device, rows=0) if prepared.to_do else None
    if as_json:
        console.print_json(
            {
                "plan": console.plan_rows(prepared.standings),
                "download": prepared.to_fetch,
                "estimate": asdict(rough) if rough else None,
                "recipe": prepared.recipe.model_dump(mode="json"),
            }
        )
        return 0
    console.print_plan(prepared)
    if rough:
        minutes = rough.training_seconds / 60
        told = f"{minutes:,.0f} minutes" if minutes >= 1 else "less than a minute"
        print(
            f"\nRoughly: {told} of training on {prepared.settings.device} ({rough.gflop_per_image:.2f} GFLOP an image), "
            f"{rough.features:,} features for each picture."
        )
    print("\n# the recipe, every default written out\n" + dump_recipe(prepared.recipe))
    return 0


def _nothing_to_do(store: Store, prepared: Prepared) -> dict[str, Any]:
    """Records a run in which the store had everything."""
    run = Run(store, prepared)
    for name, standing in prepared.standings.items():
        assert standing.manifest is not None
        run.results[name] = result_of(name, standing.manifest, cached=True)
    return {**run.finish("completed"), "computed": []}


def _through_prefect(request: RunRequest, store: Store, verbose: bool) -> dict[str, Any]:
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "gan_core")
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_SECONDS))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL")
    from flows.server import prefect_server

    with prefect_server(store.home) as url:
        console.say(f"[dim]Prefect at {url.removesuffix('/api')}[/]")
        console.log_to_stderr(verbose)
        from flows import represent

        flow = represent.ALL[_FLOWS.get(request.until, request.until)]
        represent.typed.set(request.command)
        record = flow(**represent.parameters_of(request))
    return {**record, "computed": _computed(store, record)}


def _computed(store: Store, record: dict[str, Any]) -> list[str]:
    from gan_core.files import read_json

    nodes = read_json(store.home / "runs" / record["run"] / "run.json")["nodes"]
    return [node["node"] for node in nodes if not node["cached"]]


def _show_outcome(store: Store, record: dict[str, Any], as_json: bool) -> None:
    from gan_core.files import read_json

    folder = store.home / "runs" / record["run"]
    nodes = read_json(folder / "run.json")["nodes"]
    report = next((node for node in nodes if node["node"] == "report" and node["ref"]), None)
    summary = None
    if report:
        ref = report["ref"]
        summary = console.read_summary(store.home / "artifacts" / ref["stage"] / ref["key"] / ref["digest"][:12])
    if as_json:
        console.print_json({**record, "folder": str(folder), "nodes": nodes, "summary": summary})
        return
    computed = record["computed"]
    if record["state"] == "paused":
        console.say("[yellow]Training was ended by its time limit, cleanly. The same command continues it.[/]")
    elif not computed:
        console.say("Nothing to do: the store has every stage of this run.")
    else:
        console.say(f"Made {len(computed)} of {len(nodes)} artifacts; the rest were cached.")
    if summary:
        console.print_scores(summary)
    for node in nodes:
        if node["node"].startswith("extract:") and node["ref"] and node["node"].rsplit(":", 1)[1] not in ("pixels", "random"):
            ref = node["ref"]
            print(
                f"features  {_short(store.home / 'artifacts' / ref['stage'] / ref['key'] / ref['digest'][:12])}/features-*.parquet"
            )
    print(f"run       {_short(folder)}")
    if record.get("report"):
        print(f"report    {_short(Path(record['report']))}")


def _short(path: Path) -> str:
    """The path as a person would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
