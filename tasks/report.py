"""The report stage as a Prefect task: where the report lies, and the scores in one table."""

from __future__ import annotations

from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from gan_core.runner import StageResult
from tasks.base import stage_task


def _publish(result: StageResult, folder: Path) -> None:
    create_markdown_artifact(key="report", markdown=f"`{folder / 'report.html'}`", description="The report of this run")


report = stage_task("report", publish=_publish)
