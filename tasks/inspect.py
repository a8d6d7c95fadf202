"""The inspect stage as a Prefect task: its figures as images."""

from __future__ import annotations

from pathlib import Path

from gan_core.pipeline.runner import StageResult
from tasks.base import stage_task
from tasks.images import INSPECT_BYTES, show_image


def _publish(result: StageResult, folder: Path) -> None:
    paths = sorted(folder.glob("*.png"))
    for path in paths:
        about = f"{path.stem.capitalize()} of the trained generator"
        show_image(result.node, path.stem, path, about, INSPECT_BYTES // len(paths))


inspect = stage_task("inspect", publish=_publish)
