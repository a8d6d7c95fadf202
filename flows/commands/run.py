"""`discern run` and its shorter forms: plan first, and start Prefect only when something has to be
made.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from flows.commands import console, outcome, progress
from flows.home import open_store
from flows.prefect_server import past_runs
from flows.prefect_server.server import login_of, reachable
from flows.prefect_server.settings import HEARTBEAT_SECONDS
from flows.runners import parse_runner
from gan_core.artifacts.store import Store
from gan_core.features.external.preflight import Checked
from gan_core.pipeline.preflight import FailedCheck, check_before_starting, failed_checks
from gan_core.pipeline.request import Prepared, RunRequest, images_expected, prepare
from gan_core.pipeline.run_record import Run
from gan_core.pipeline.runner import result_of
from gan_core.recipes import dump_recipe

# stages whose counts are printed where there is no report
_COUNTED = {"ingest", "crop", "dedup", "pack"}
_MOST_WARNINGS = 8  # on a terminal


def run_command(request: RunRequest, *, dry_run: bool, as_json: bool, verbose: bool) -> int:
    """Runs a request; returns the exit code."""
    console.log_to_stderr(verbose)
    parse_runner(request.runner)
    store = open_store(request.home, writing=not dry_run)
    prepared = prepare(request, store, planning=dry_run)
    for note in prepared.notes:
        console.say(note)
    if dry_run:
        return _show_plan(prepared, as_json)
    if prepared.to_do or prepared.to_fetch:
        record = _through_prefect(prepared, store, verbose)
    else:
        record = _nothing_to_do(store, prepared) or _through_prefect(prepared, store, verbose)
    _show_outcome(store, record, as_json)
    names = [node["node"] for node in record["nodes"]]
    if (request.only or request.until) == "evaluate" and not any(
        name.startswith("evaluate:") for name in names
    ):
        features = any(name.startswith("extract:") for name in names)
        console.say(
            "There are no scores: the sources have no labels to evaluate with. "
            + (
                "The features are there all the same."
                if features
                else "`discern extract` makes features without labels."
            )
        )
    return 0


def _show_plan(prepared: Prepared, as_json: bool) -> int:
    """The plan, what it would take, and what would be refused; the exit code is not 0 where it can
    never run.
    """
    from gan_core.pipeline.estimates import needs

    failures = list(failed_checks(prepared))
    for_good = [failed.error for failed in failures if failed.for_good]
    outside = (
        _inspect_external(prepared)
        if prepared.external and prepared.to_do and not for_good
        else None
    )
    rough = None
    if prepared.to_do and not prepared.external and not for_good:
        rough = needs(prepared.recipe, prepared.settings.device, images_expected(prepared))
    if as_json:
        console.print_json(
            {
                "plan": console.plan_rows(prepared.statuses),
                "download": prepared.to_fetch,
                "estimate": asdict(rough) if rough else None,
                "features": asdict(outside) if outside else None,
                "refused": [_failed_row(failed) for failed in failures],
                "recipe": prepared.recipe.model_dump(mode="json"),
            }
        )
    else:
        console.print_plan(prepared)
        if outside:
            print("\n" + "\n".join([*outside.assumed, f"{outside.length} values for each image"]))
        if rough:
            print(
                "\nRoughly, each within a factor of three:\n"
                + "\n".join(f"  {line}" for line in rough.lines())
            )
        print("\n# the recipe, every default written out\n" + dump_recipe(prepared.recipe))
        for failed in failures:
            how = "This cannot run: " if failed.for_good else "Here this run would be refused: "
            console.say(how + failed.error.explain(), "yellow")
    return max((error.exit_code for error in for_good), default=0)


def _failed_row(failed: FailedCheck) -> dict[str, Any]:
    error = failed.error
    return {
        "error": error.message,
        "expected": error.expected,
        "remedy": error.remedy,
        "for_good": failed.for_good,
    }


def _inspect_external(prepared: Prepared) -> Checked:
    from gan_core.features.external.preflight import inspect_network

    assert prepared.external is not None
    return inspect_network(prepared.recipe.extract, prepared.external, prepared.recipe.crop.size)


def _nothing_to_do(store: Store, prepared: Prepared) -> dict[str, Any] | None:
    """Records a run in which the store had everything; None when `discern gc` took some of it away
    after the plan was made.
    """
    run = Run(store, prepared)
    for name, status in prepared.statuses.items():
        assert status.manifest is not None
        if not store.artifacts.pin(status.manifest.ref()):
            run.finish(
                "failed", f"{name} was removed while the run was planned; it is planned again"
            )
            return None
        run.results[name] = result_of(name, status.manifest, cached=True)
    record = {**run.finish("completed"), "computed": []}
    if (url := reachable(store.home)) is not None:
        past_runs.enter_past_runs(store.home, url, login_of(store.home, url))
    return record


def _through_prefect(prepared: Prepared, store: Store, verbose: bool) -> dict[str, Any]:
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "gan_core")
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_SECONDS))
    os.environ.setdefault(
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "CRITICAL"
    )
    from flows.prefect_server.server import prefect_server

    # Both take seconds: the server starts, and the checks import torch.
    with prefect_server(store.home, partial(check_before_starting, prepared)) as url:
        console.say(f"Prefect at {url.removesuffix('/api')}", "dim")
        past_runs.enter_past_runs(store.home, url, login_of(store.home, url))
        console.log_to_stderr(verbose)
        from flows import represent, run_plan

        request = prepared.request
        run_plan.planned.set(prepared)
        flow = represent.ALL[past_runs.flow_of(request.until)]
        represent.typed.set(request.command)
        with progress.shown():
            record = flow(**represent.parameters_of(request))
    computed = [node["node"] for node in record["nodes"] if not node["cached"]]
    return {**record, "computed": computed}


def _show_outcome(store: Store, record: dict[str, Any], as_json: bool) -> None:
    folder = store.home / "runs" / record["run"]
    nodes = record["nodes"]
    report = next((node for node in nodes if node["node"] == "report" and node["ref"]), None)
    summary = None
    if report:
        summary = console.read_summary(outcome.folder_of(store, report))
    made = outcome.feature_sets(store, nodes)
    scored = [] if summary else outcome.scores(store, nodes)
    warned = outcome.warnings(store, nodes)
    if as_json:
        extra = {"features": made, **({"scores": scored} if scored else {}), "warnings": warned}
        console.print_json(
            {**record, "folder": str(folder), "nodes": nodes, "summary": summary, **extra}
        )
        return
    computed = record["computed"]
    if record["state"] == "paused":
        console.say(
            "Training was ended by its time limit, cleanly. The same command continues it.",
            "yellow",
        )
    elif not computed:
        console.say("Nothing to do: the store has every stage of this run.")
    else:
        rest = "; the rest were cached" if len(computed) < len(nodes) else ""
        console.say(f"Made {len(computed)} of {len(nodes)} artifacts{rest}.")
    if not report:
        for counted in outcome.counts(
            store, [node for node in nodes if node["node"].partition(":")[0] in _COUNTED]
        ):
            numbers = sorted(counted["counts"].items(), key=lambda one: one[0] != "in")
            print(
                f"{counted['node']}  " + ", ".join(f"{number:,} {what}" for what, number in numbers)
            )
    _show_warnings(warned, outcome.ignored(store, nodes))
    if summary:
        console.print_scores(summary)
    elif scored:
        console.print_scores({"scores": scored})
    for features in made:
        print(
            "".join(f"          {sentence}\n" for sentence in features.get("assumed", [])), end=""
        )
        print(f"values    {features['length']} for each image")
        print(f"features  {_short(Path(features['folder']))}/features-*.parquet")
    print(f"run       {_short(folder)}")
    if record.get("report"):
        print(f"report    {_short(Path(record['report']))}")


def _show_warnings(warned: list[dict[str, str]], ignored: dict[str, dict[str, int]]) -> None:
    for source, files in ignored.items():
        console.say(
            f"ignored   in {source}: "
            + ", ".join(f"{count:,} {what}" for what, count in files.items())
        )
    kinds: dict[str, list[str]] = {}
    for one in warned:
        line = f"{one['node']}: {one['warning']}"
        # one of many cells: they differ in features, probe and labels
        cell = re.fullmatch(r"[^:]+ at .+ labels: (.*)", one["warning"])
        kind = re.sub(r" \([^)]*\)", "", cell[1]) if cell else line
        kinds.setdefault(kind, []).append(line)
    for kind, lines in [*kinds.items()][:_MOST_WARNINGS]:
        console.say(
            lines[0] if len(lines) == 1 else f"{len(lines)} times in evaluate: {kind}", "yellow"
        )
    if len(kinds) > _MOST_WARNINGS:
        console.say(
            f"... and {len(kinds) - _MOST_WARNINGS} more, in the report and with --json", "yellow"
        )


def _short(path: Path) -> str:
    """The path as a person would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
