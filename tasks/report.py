"""The report stage as a Prefect task; the run shows it (flows/publish.py)."""

from __future__ import annotations

from tasks.base import stage_task

report = stage_task("report")
