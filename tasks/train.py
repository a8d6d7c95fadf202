"""The train stage as a Prefect task: runs in a child process, shows its sample grid."""

from __future__ import annotations

from pathlib import Path

from gan_core.runner import StageResult
from tasks.base import stage_task
from tasks.pictures import show_picture


def _publish(result: StageResult, folder: Path) -> None:
    grids = sorted(folder.glob("grid-*.png"))
    if grids:
        show_picture(result.node, "samples", grids[-1], f"Samples from the same latents at the end ({grids[-1].stem})")


train = stage_task("train", publish=_publish)
