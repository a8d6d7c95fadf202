"""The state for resuming: everything that the next update depends on, in safetensors and JSON,
manifest last.

    <folder>/state-000000012800/   tensors.safetensors  state.json  manifest.json
    <folder>/stats.jsonl           one line per logging interval, appended; read with `read_stats`
    <folder>/products/             snapshots and grids so far

The folder belongs to one trajectory (all settings but the length). A killed run leaves at worst a
state without a manifest, which is ignored and cleared. The two newest states at or below the
present place are kept, the newest good one (saved right after a line of statistics in which nothing
was found: what a rollback may go back to), and those above the place, which a longer run left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_core.files import atomic_write_bytes, read_json, sha256_file, write_json

logger = logging.getLogger(__name__)

KEPT = 2
_MANIFEST = "manifest.json"


@dataclass
class Position:
    """How far a training is.

    Attributes:
        index: minibatches so far.
        images: real images shown to the discriminator; kimg is this over 1000.
        updates: steps of each optimiser.
        attempt: how often training went back after a divergence; part of the random streams' names.
        seconds: time spent training so far, over all starts.
        line: images at the last line of statistics at its regular place.
        best: the probe's best accuracy at such lines.
        due: whether a state is to be saved at the next good line.
    """

    index: int = 0
    images: int = 0
    updates: dict[str, int] = field(default_factory=dict)
    attempt: int = 0
    seconds: float = 0.0
    line: int = 0
    best: float = -1.0
    due: bool = False


def _folders(folder: Path) -> list[Path]:
    """Whole states, oldest first."""
    return sorted(path.parent for path in folder.glob(f"state-*/{_MANIFEST}"))


def _images_of(path: Path) -> int:
    return int(path.name.split("-")[1])


def save_state(
    folder: Path, position: Position, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]
) -> Path:
    """Writes a state and forgets what `prune` does. Args: extra: plain JSON that goes with it;
    `good` in it marks a good state.
    """
    from safetensors.torch import save

    target = folder / f"state-{position.images:012d}"
    work = folder / f"{target.name}.{uuid.uuid4().hex[:8]}.work"
    work.mkdir(parents=True)
    payload = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    atomic_write_bytes(work / "tensors.safetensors", payload)
    write_json(work / "state.json", {"position": asdict(position), "extra": dict(extra)})
    # of the bytes in memory: reading 160 MB back would cost time
    digest = hashlib.sha256(payload).hexdigest()
    write_json(
        work / _MANIFEST,
        {"tensors.safetensors": digest, "state.json": sha256_file(work / "state.json")},
    )
    if target.exists():
        shutil.rmtree(target)
    os.replace(work, target)
    prune(folder, position.images)
    return target


class Saver:
    """Saves states of one folder, on a GPU while training goes on: 160 MB take about a second to
    write, and 10 kimg may take less to train.

    Args:
        in_background: copy the tensors to main memory and write from a thread, one state at a time.
            Else a save returns when it is on the disk.
    """

    def __init__(self, folder: Path, *, in_background: bool) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "states") if in_background else None
        self._last: Future[Path] | None = None

    def save(
        self, position: Position, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]
    ) -> None:
        """`save_state`. Raises: what it raises, or what the one before it raised in its thread."""
        if self._thread is None:
            save_state(self._folder, position, tensors, extra)
            return
        self.wait()
        copies = {
            name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, t in tensors.items()
        }
        self._last = self._thread.submit(
            save_state, self._folder, deepcopy(position), copies, deepcopy(dict(extra))
        )

    def wait(self) -> None:
        """Returns when all is on the disk. Raises: what the last save raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def prune(folder: Path, images: int) -> None:
    """Clears half-written states and, of those at or below `images`, all but the newest two and the
    newest good one.
    """
    for path in folder.glob("state-*.work"):
        shutil.rmtree(path, ignore_errors=True)
    here = [path for path in _folders(folder) if _images_of(path) <= images]
    kept = {*here[-KEPT:], *[path for path in here if _good(path)][-1:]}
    for path in here:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _good(path: Path) -> bool:
    try:
        return bool(read_json(path / "state.json")["extra"].get("good"))
    except (OSError, ValueError, KeyError):
        return False


def forget_after(folder: Path, images: int) -> None:
    """Removes states above `images`: what a training that is going back leaves behind."""
    for path in _folders(folder):
        if _images_of(path) > images:
            shutil.rmtree(path, ignore_errors=True)


def load_state(
    folder: Path, images: int, *, good: bool = False
) -> tuple[Position, dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole state at or below `images`, or None. A damaged one is passed over with a
    warning. Args: good: only good ones.
    """
    from safetensors.torch import load_file

    for path in reversed(_folders(folder)):
        if _images_of(path) > images or (good and not _good(path)):
            continue
        try:
            files = read_json(path / _MANIFEST)
            if any(sha256_file(path / name) != digest for name, digest in files.items()):
                raise ValueError("a file is not what the manifest says")
            record = read_json(path / "state.json")
            return (
                Position(**record["position"]),
                load_file(path / "tensors.safetensors"),
                record["extra"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning(
                "The saved state %s is damaged (%s); an older one is used.", path.name, error
            )
    return None


def append_stats(folder: Path, line: Mapping[str, Any]) -> None:
    """Adds a line to stats.jsonl. NaN and infinity, which JSON lacks, become null."""
    clean = {k: None if isinstance(v, float) and v - v != 0 else v for k, v in line.items()}
    with open(folder / "stats.jsonl", "a") as file:
        file.write(json.dumps(clean, sort_keys=True) + "\n")


def read_stats(folder: Path, images: int) -> list[dict[str, Any]]:
    """Lines of stats.jsonl up to `images`, in order; of lines for the same place the last one
    written counts.
    """
    found: dict[int, dict[str, Any]] = {}
    path = folder / "stats.jsonl"
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:  # the line that a kill cut short
            continue
        if line["images"] <= images:
            found[line["images"]] = line
    return [found[place] for place in sorted(found)]
