"""The train stage as a Prefect task: runs in a child process; shows its curve and samples, while it
trains and at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar
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
from tasks.images import image, show_image, training_curve

FIRST_LOOKS = 5.0  # seconds between looks until there is something to see
LOOK_EVERY = 60.0


def _publish(result: StageResult, folder: Path) -> None:
    grids = sorted(folder.glob("grid-*.png"))
    if grids:
        show_image(
            result.node,
            "samples",
            grids[-1],
            f"Samples from the same latents at the end ({grids[-1].stem})",
        )
    if curve := training_curve(folder):
        text = f"{curve}\n\nEvery figure: `{folder / 'stats.jsonl'}`"
        create_markdown_artifact(
            key="curve-train", markdown=text, description="Losses and verdicts over training"
        )


class Watch:
    """Curve and newest samples of a training that is going on: one artifact, renewed once a minute
    and not stored anew.
    """

    _artifacts: ClassVar[
        dict[str, UUID]
    ] = {}  # task run to its artifact: another try of the same task renews it

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = time.monotonic() + FIRST_LOOKS
        self._shown = ""

    def __call__(self) -> None:
        if time.monotonic() < self._next:
            return
        grids = sorted(self._folder.glob("products/grid-*.png"))
        parts = [
            training_curve(self._folder),
            image(grids[-1], f"Samples ({grids[-1].stem})") if grids else "",
        ]
        text = "\n\n".join(part for part in parts if part)
        self._next = time.monotonic() + (LOOK_EVERY if text else FIRST_LOOKS)
        if not text or text == self._shown:
            return
        self._shown = text
        name = str(task_run.id)
        if name not in self._artifacts:
            about = "Training so far: losses, verdicts, newest samples"
            self._artifacts[name] = create_markdown_artifact(
                key="training-so-far", markdown=text, description=about
            )  # type: ignore[assignment]
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._artifacts[name], ArtifactUpdate(data=text))


def _watch(store: Store, node: Node, inputs: dict[str, ArtifactRef]) -> Callable[[], None] | None:
    """Looks into the training's state folder; an imported snapshot has none."""
    return (
        Watch(store.state("train", trajectory_key(node, inputs)))
        if "train" in node.key_part
        else None
    )


train = stage_task("train", publish=_publish, watch=_watch)
