"""The evaluate stage as a Prefect task: one cell (features, probe), its scores as a table."""

from __future__ import annotations

from pathlib import Path

from prefect.artifacts import create_table_artifact

from gan_core.runner import StageResult
from tasks.base import artifact_key, stage_task


def _publish(result: StageResult, folder: Path) -> None:
    scores = result.outcome.summary.get("scores")
    if isinstance(scores, list) and scores:
        create_table_artifact(key=artifact_key("scores", result.node), table=scores, description=f"Scores of {result.node}")


evaluate = stage_task("evaluate", publish=_publish)
