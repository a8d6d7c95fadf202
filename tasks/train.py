"""The train stage as a Prefect task: runs in a child process; shows its curve and samples, while it
trains and at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.runtime import task_run

from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.runner import StageResult, trajectory_key
from tasks.base import stage_task
from tasks.images import image, training_curve

# between checks of the state folder: until there is something to show, and from then on
FIRST_SECONDS, CHECK_SECONDS = 5.0, 60.0


def _publish(result: StageResult, folder: Path) -> None:
    """Curve and last samples; replaces the artifact that showed them during training, if any."""
    if text := _shown(folder, folder, f"Every figure: `{folder / 'stats.jsonl'}`"):
        _show(text)


def _shown(statistics: Path, grids: Path, *more: str) -> str:
    """Losses, scores and the newest samples as Markdown; '' while there are none."""
    found = sorted(grids.glob("grid-*.png"))
    parts = [
        training_curve(statistics),
        image(found[-1], f"Samples from the same latents ({found[-1].stem})") if found else "",
    ]
    drawn = [part for part in parts if part]
    return "\n\n".join([*drawn, *more]) if drawn else ""


# task run to its artifact: another attempt of the same task renews it
_artifacts: dict[str, UUID] = {}


def _show(text: str) -> None:
    name = str(task_run.id)
    if name in _artifacts:
        with get_client(sync_client=True) as client:
            client.update_artifact(_artifacts[name], ArtifactUpdate(data=text))
        return
    about = "Training: losses, scores and samples"
    made = create_markdown_artifact(key="training", markdown=text, description=about)
    _artifacts[name] = made  # type: ignore[assignment]


class Monitor:
    """Curve and newest samples of a training that is going on: one artifact, renewed once a minute
    and not stored again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = time.monotonic() + FIRST_SECONDS
        self._shown = ""

    def __call__(self) -> None:
        if time.monotonic() < self._next:
            return
        text = _shown(self._folder, self._folder / "products")
        self._next = time.monotonic() + (CHECK_SECONDS if text else FIRST_SECONDS)
        if text and text != self._shown:
            self._shown = text
            _show(text)


def _monitor(store: Store, node: Node, inputs: dict[str, ArtifactRef]) -> Callable[[], None] | None:
    """Of the training's state folder; an imported snapshot has none."""
    if "train" not in node.key_part:
        return None
    return Monitor(store.state("train", trajectory_key(node, inputs)))


train = stage_task("train", publish=_publish, monitor=_monitor)
