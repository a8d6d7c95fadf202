"""The evaluate stage as a Prefect task: one cell (features, probe), its scores as a table."""

from __future__ import annotations

from pathlib import Path

from prefect.artifacts import create_table_artifact

from gan_core.pipeline.runner import StageResult
from tasks.base import artifact_key, stage_task


def _publish(result: StageResult, folder: Path) -> None:
    scores = result.outcome.summary.get("table")
    if isinstance(scores, dict) and scores:
        rows = [{"labels": labels, **figures} for labels, figures in scores.items()]
        create_table_artifact(
            key=artifact_key("scores", result.node),
            table=rows,
            description=f"Scores of {result.node}",
        )


evaluate = stage_task("evaluate", publish=_publish)
