"""The evaluate stage as a Prefect task: one cell of features and probe."""

from __future__ import annotations

from tasks.base import stage_task

evaluate = stage_task("evaluate")
