"""Training further on a set that has grown: a new trajectory that begins with the last state of
another.

Everything random is a function of (seed, minibatch), and the minibatches are counted on, so what
comes out is decided by the first training, the grown set and the length: equal requests give equal
weights here too.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from gan_core.errors import StoreError
from gan_core.files import atomic_write_bytes, read_json, sha256_file, write_json
from gan_core.training import checkpoint as state
from gan_core.training.probe import PROBED


def warm_start(parent: Path, folder: Path, images: int, target: int) -> None:
    """Puts the state of `parent` at `images` into a trajectory's folder, with its products and
    statistics up to there.

    A folder that has a whole state between there and `target` (images) is left as it is: its
    training goes on.

    Raises:
        StoreError: the state is gone or damaged.
    """
    if state.load_state(folder, target) is not None:
        return
    name = f"state-{images:012d}"
    if not _whole(parent / name):
        raise StoreError(
            f"The state at {images / 1000:g} kimg of the training to continue is gone or damaged.",
            expected=str(parent / name),
            remedy="--set train.on_new_data=retrain trains again on the grown set",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if (parent / "products").is_dir():
        shutil.copytree(parent / "products", folder / "products", dirs_exist_ok=True)
    if not (folder / "stats.jsonl").exists():
        lines = [
            shortened
            for line in (parent / "stats.jsonl").read_bytes().splitlines()
            if (shortened := _up_to(line, images))
        ]
        atomic_write_bytes(folder / "stats.jsonl", b"".join(line + b"\n" for line in lines))
    work = folder / f"{name}.{uuid.uuid4().hex[:8]}.work"
    shutil.copytree(parent / name, work)
    _forget_best(work)
    shutil.rmtree(folder / name, ignore_errors=True)
    # last: until then the folder has no state, and the next attempt begins here again
    work.rename(folder / name)


def _whole(folder: Path) -> bool:
    try:
        files = read_json(folder / "manifest.json")
        return all(sha256_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError):
        return False


def _forget_best(folder: Path) -> None:
    """The probe of the grown set holds other images out: what it read off before cannot be
    compared, and its weights stayed behind.
    """
    record = read_json(folder / "state.json")
    record["position"]["best"] = -1.0
    write_json(folder / "state.json", record)
    files = read_json(folder / "manifest.json")
    write_json(
        folder / "manifest.json", {**files, "state.json": sha256_file(folder / "state.json")}
    )


def _up_to(text: bytes, images: int) -> bytes:
    """The line of statistics without the probe's accuracy, or nothing when it is broken or of a
    later place.
    """
    try:
        line = json.loads(text)
        if line["images"] > images:
            return b""
    except (ValueError, KeyError):
        return b""
    return json.dumps(
        {name: value for name, value in line.items() if name != PROBED}, sort_keys=True
    ).encode()
