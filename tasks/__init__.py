"""Prefect tasks: one for each stage, over `gan_core`, and the one that downloads a source. `ALL`
finds a stage's task by its name.
"""

from __future__ import annotations

from typing import Any

from tasks.base import stage_task
from tasks.fetch import fetch_source
from tasks.train import train

__all__ = [
    "crop",
    "dedup",
    "evaluate",
    "extract",
    "fetch_source",
    "hash_crops",
    "ingest",
    "inspect",
    "pack",
    "report",
    "train",
]

ingest = stage_task("ingest")
crop = stage_task("crop")
hash_crops = stage_task("hash")
dedup = stage_task("dedup")
pack = stage_task("pack")
extract = stage_task("extract")  # in a child process, as train
evaluate = stage_task("evaluate")  # one cell of features and probe
inspect = stage_task("inspect")  # the run shows its figures, and the report (flows/publish.py)
report = stage_task("report")

ALL: dict[str, Any] = {
    task.name: task
    for task in (ingest, crop, hash_crops, dedup, pack, train, extract, evaluate, inspect, report)
}
