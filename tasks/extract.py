"""The extract stage as a Prefect task: runs in a child process."""

from __future__ import annotations

from tasks.base import stage_task

extract = stage_task("extract")
