"""The inspect stage as a Prefect task: its figures as images."""

from __future__ import annotations

import json
from pathlib import Path

from gan_core.pipeline.runner import StageResult
from tasks.base import stage_task
from tasks.images import INSPECT_BYTES, show_image


def _publish(result: StageResult, folder: Path) -> None:
    content = json.loads((folder / "inspection.json").read_bytes())
    figures = content["figures"]
    for figure in figures:
        path = folder / figure["file"]
        about = f"{content['title']}: {figure['caption'] or content['sentence']}"
        show_image(result.node, path.stem, path, about, INSPECT_BYTES // len(figures))


inspect = stage_task("inspect", publish=_publish)
