"""The ingest stage as a Prefect task."""

from __future__ import annotations

from tasks.base import stage_task

ingest = stage_task("ingest")
