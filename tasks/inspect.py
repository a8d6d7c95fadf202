"""The inspect stage as a Prefect task: its figures as pictures."""

from __future__ import annotations

from pathlib import Path

from gan_core.runner import StageResult
from tasks.base import stage_task
from tasks.pictures import INSPECT_BYTES, show_picture


def _publish(result: StageResult, folder: Path) -> None:
    paths = sorted(folder.glob("*.png"))
    for path in paths:
        about = f"{path.stem.capitalize()} of the trained generator"
        show_picture(result.node, path.stem, path, about, INSPECT_BYTES // len(paths))


inspect = stage_task("inspect", publish=_publish)
