"""The inspect stage as a Prefect task; the run shows its figures (flows/publish.py)."""

from __future__ import annotations

from tasks.base import stage_task

inspect = stage_task("inspect")
