"""Detects that features have become clearly worse: an event that an automation of `discern setup`
waits for.

Triggers match names and not numbers, so what "fell" means is decided here: with the same recipe and
the same settings, the test accuracy of the last report's headline lies below the lower end of its
95 % interval then.
"""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

from prefect.events import emit_event

from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.pipeline.run_record import Run
from gan_core.reporting.sentences import around

log = logging.getLogger("gan_core.accuracy")
EVENT = "discern.accuracy.fell"


def report_accuracy_drop(run: Run) -> None:
    """Compares a finished run with the one before it of the same recipe; never ends a run that has
    done its work.
    """
    try:
        _compare(run)
    except Exception as error:
        log.warning("The run could not be compared with the one before it: %s", error)


def _compare(run: Run) -> None:
    report = run.results.get("report")
    earlier = previous_summary(run)
    if report is None or report.ref is None or earlier is None:
        return
    before, summary = earlier
    sentence = accuracy_drop(summary, _summary(run.store, report.ref) or {})
    if sentence:
        sentence = f"{run.record['recipe']}: {sentence} (run {run.name}, before: {before})"
        log.warning("%s", sentence)
        name = str(run.record["recipe"])
        resource = {"prefect.resource.id": f"discern.recipe.{name}", "prefect.resource.name": name}
        emit_event(
            EVENT,
            resource=resource,
            payload={"sentence": sentence, "run": run.name, "before": before},
        )


def accuracy_drop(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What fell between two summaries, as a sentence; '' when nothing did or they have no score in
    common.
    """
    names = ("source", "features", "probe", "labels")
    was = before.get("headline") or {}
    for score in now.get("scores") or []:
        if (
            was
            and all(score.get(name) == was.get(name) for name in names)
            and score["mean"] < was["low"]
        ):
            what = (
                f"{score['features']} features, {score['probe']}, {score['labels']} labels on "
                f"{score['source']}"
            )
            return (
                f"{what}: {100 * score['mean']:.1f} %, was {100 * was['mean']:.1f} ({around(was)})"
            )
    return ""


def previous_summary(run: Run) -> tuple[str, dict[str, Any]] | None:
    """Name and summary of the newest completed run before this one whose resolved recipe is the
    same.
    """
    recipe = (run.folder / "recipe.yaml").read_bytes()
    found = []
    for path in run.folder.parent.glob("*/run.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(path.read_text())
            same = (
                record["state"] == "completed"
                and (path.parent / "recipe.yaml").read_bytes() == recipe
            )
            if same and path.parent != run.folder and record["started"] <= run.record["started"]:
                found.append((record["started"], path.parent.name, record["nodes"]))
    for _, name, nodes in sorted(found, key=lambda one: one[:2], reverse=True):
        refs = [
            ArtifactRef.model_validate(node["ref"])
            for node in nodes
            if node["node"] == "report" and node["ref"]
        ]
        if refs and (summary := _summary(run.store, refs[0])):
            return name, summary
    return None


def _summary(store: Store, report: ArtifactRef) -> dict[str, Any] | None:
    """None where the report is not kept any more."""
    if store.artifacts.get(report) is None:
        return None
    return dict(json.loads((store.path(report) / "summary.json").read_text()))
