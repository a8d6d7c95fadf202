"""The crop stage as a Prefect task."""

from __future__ import annotations

from tasks.base import stage_task

crop = stage_task("crop")
