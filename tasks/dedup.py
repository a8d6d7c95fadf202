"""The dedup stage as a Prefect task."""

from __future__ import annotations

from tasks.base import stage_task

dedup = stage_task("dedup")
