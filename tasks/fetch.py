"""Downloading a source as a Prefect task: the only one that reaches the network."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from gan_core.config import SourceConfig
from gan_core.pipeline.sources import Location, fetch
from tasks.base import TaskProgress


@task(
    name="fetch",
    task_run_name="fetch:{source.name}",
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_jitter_factor=0.5,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def fetch_source(source: SourceConfig, target: str) -> str:
    """Downloads a source into its place in the home's cache."""
    fetch(source, Location(Path(target), to_fetch=True), TaskProgress(f"fetch:{source.name}"))
    return target
