"""The pack stage as a Prefect task."""

from __future__ import annotations

from tasks.base import stage_task

pack = stage_task("pack")
