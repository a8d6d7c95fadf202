"""The inspect stage as a Prefect task: its figures as pictures."""

from __future__ import annotations

from pathlib import Path

from gan_core.runner import StageResult
from tasks.base import stage_task
from tasks.pictures import show_picture


def _publish(result: StageResult, folder: Path) -> None:
    for path in sorted(folder.glob("*.png")):
        show_picture(result.node, path.stem, path, f"{path.stem.capitalize()} of the trained generator")


inspect = stage_task("inspect", publish=_publish)
