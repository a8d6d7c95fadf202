"""Prefect tasks: one module per stage, each a few lines over `gan_core`. `ALL` finds a stage's task
by its name.
"""

from __future__ import annotations

from typing import Any

from tasks.crop import crop
from tasks.dedup import dedup
from tasks.evaluate import evaluate
from tasks.extract import extract
from tasks.fetch import fetch_source
from tasks.hash import hash_crops
from tasks.ingest import ingest
from tasks.inspect import inspect
from tasks.pack import pack
from tasks.report import report
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

ALL: dict[str, Any] = {
    task.name: task
    for task in (ingest, crop, hash_crops, dedup, pack, train, extract, evaluate, inspect, report)
}
