"""What a run shows on its page in the Prefect UI once it has ended: few artifacts, the report
first, and tags.

Long stages show their progress while they are at work, and a training its curve and samples
(tasks/train.py); everything else is here, so that a run has a handful of artifacts and not one for
each node.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from gan_core.pipeline.run_record import Run
from gan_core.pipeline.runner import StageResult
from gan_core.reporting.summary import summary_markdown
from tasks.images import INSPECT_BYTES, image

log = logging.getLogger("gan_core.run")


def tags_of(recipe: str, scale: str, stage: str) -> list[str]:
    """The tags of a flow run."""
    return [f"recipe:{recipe}", f"scale:{scale}", f"stage:{stage}"]


def tag_run(recipe: str, scale: str, stage: str) -> None:
    """Adds the tags of a request to the flow run that makes it."""
    wanted = tags_of(recipe, scale, stage)
    try:
        with get_client(sync_client=True) as client:
            known = list(flow_run.tags or [])
            client.update_flow_run(flow_run.id, tags=[*dict.fromkeys([*known, *wanted])])
    except Exception as error:  # a display must never end the work
        log.warning("The run could not be tagged: %s", error)


def publish_run(run: Run) -> None:
    """Publishes what a run has made, also one that failed half-way: a table of its stages, the
    figures of its inspections, and the report, which as the newest comes first.
    """
    if not flow_run.id or not run.results:
        return
    try:
        create_table_artifact(
            key="stages",
            table=[_row(result) for result in run.results.values()],
            description="Stages: counts, times, accuracies",
        )
        if figures := _inspections(run):
            create_markdown_artifact(
                key="inspections",
                markdown=figures,
                description="Inspections: figures of networks",
            )
        _publish_report(run)
    except Exception as error:  # a display must never end the work
        log.warning("The run's results could not be shown in the Prefect UI: %s", error)


def _row(result: StageResult) -> dict[str, str]:
    counts = result.outcome.counts
    table = result.outcome.summary.get("table")
    scores = table if result.node.startswith("evaluate:") and isinstance(table, dict) else {}
    return {
        "stage": result.node,
        "state": "paused" if result.ref is None else "cached" if result.cached else "made",
        "seconds": f"{result.seconds:.1f}",
        "accuracy": "; ".join(
            f"{labels} labels: {100 * scores[labels]['mean']:.1f} %" for labels in scores
        ),
        "counts": ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in counts.items()),
        "warnings": " ".join(result.outcome.warnings),
        "artifact": result.ref.digest[:12] if result.ref else "",
    }


def _inspections(run: Run) -> str:
    """All figures of a run's inspections as Markdown within `INSPECT_BYTES`."""
    found: list[tuple[dict[str, Any], Any]] = []
    for name, result in run.results.items():
        if name.startswith("inspect:") and result.ref is not None:
            folder = run.store.path(result.ref)
            found.append((json.loads((folder / "inspection.json").read_bytes()), folder))
    count = sum(len(content["figures"]) for content, _ in found)
    parts = []
    for content, folder in found:
        parts.append(f"## {content['title']}\n\n{content['sentence']}")
        for figure in content["figures"]:
            caption = figure["caption"] or content["title"]
            drawn = image(folder / figure["file"], caption, INSPECT_BYTES // count)
            parts.append(f"{drawn}\n\n{caption}")
    return "\n\n".join(parts)


def _publish_report(run: Run) -> None:
    """The report in short as an artifact, and as a line of the log where it is."""
    result = run.results.get("report")
    if result is None or result.ref is None:
        return
    folder = run.store.path(result.ref)
    summary = json.loads((folder / "summary.json").read_text())
    page = run.folder / "report.html"
    made = create_markdown_artifact(
        key="report",
        markdown=summary_markdown(summary, str(page)),
        description=f"Report: {summary.get('title') or run.name}",
    )
    from prefect.settings import PREFECT_UI_URL

    where = f", in short: {PREFECT_UI_URL.value()}/artifacts/artifact/{made}"
    log.info("Report: %s%s", page, where if PREFECT_UI_URL.value() else "")
