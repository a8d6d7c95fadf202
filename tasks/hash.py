"""The hash stage as a Prefect task."""

from __future__ import annotations

from tasks.base import stage_task

hash_crops = stage_task("hash")
