"""Commands about trained networks: import somebody's weights as a snapshot, draw samples from one."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from flows import console
from flows.home import open_store, resolve_home
from gan_core.errors import RequestError, UnknownName
from gan_core.manifest import Manifest
from gan_core.plan import imported_key
from gan_core.stages.contract import StageOutcome
from gan_core.stages.specs import spec_of
from gan_core.store import Store

KINDS = ("dcgan-authors",)


def import_weights(kind: str, folder: Path, *, name: str | None, home: str | None, check: bool, as_json: bool) -> int:
    """Turns released weights into a snapshot artifact that recipes name as `train.snapshot`; returns the exit code."""
    if kind not in KINDS:
        raise UnknownName("kind of weights to import", kind, KINDS)
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder}.", expected="the folder with the released .npy files")
    from gan_core.training import authors

    figures = authors.check(folder) if check else []
    name = name or "dcgan-authors-svhn"
    store = open_store(resolve_home(home))
    with tempfile.TemporaryDirectory() as scratch:
        made = authors.import_dcgan_authors(folder, Path(scratch))
        right = all(figure.right for figure in figures)
        address = _publish(store, name, made) if right else None
    told = [{"figure": f.name, "expected": f.expected, "found": f.found, "right": f.right} for f in figures]
    if as_json:
        console.print_json({"name": name, "snapshot": str(address) if address else None, "check": told})
    else:
        for entry in told:
            difference = float(str(entry["found"])) - float(str(entry["expected"]))
            mark = "ok   " if entry["right"] else "WRONG"
            print(
                f"{mark}  {entry['figure']:<40} {entry['found']:.6f}  expected {entry['expected']:.6f}  difference {difference:+.1e}"
            )
        if address:
            print(f"snapshot  {address}\nuse it    --set train.snapshot={name}, or discern sample {address} --out grid.png")
        else:
            print("No snapshot was made: these are not the released weights. Without --check they are imported as they are.")
    return 0 if right else 1


def _publish(store: Store, name: str, snapshot: Path) -> Path:
    key = imported_key(name)
    with store.lock("train", key, "discern import"):
        work = store.work("train", key)
        (work / snapshot.name).write_bytes(snapshot.read_bytes())
        spec = spec_of("train")
        manifest = Manifest(
            stage="train",
            version=spec.version,
            key=key,
            digest="",
            node="train",
            part={"snapshot": name},
            outcome=StageOutcome(summary={"imported": name, "kimg": 0}),
            made={"at": datetime.now(UTC).isoformat(timespec="seconds")},
        )
        ref, _ = store.publish(work, manifest, spec.content)
    return store.path(ref) / snapshot.name


def sample(
    snapshot: Path,
    *,
    count: int,
    out: Path,
    seed: int,
    columns: int,
    reject: Path | None,
    network: str | None,
    as_json: bool,
) -> int:
    """Draws a grid of samples from a snapshot (a file, or a train artifact's folder); returns the exit code.

    Args: network: dotted path of a network module from outside the project that the snapshot may name, and whose code then runs.
    """
    from gan_core.files import atomic_write_bytes
    from gan_core.training.memorisation import TrainingCodes, draw
    from gan_core.training.snapshots import chosen_snapshot, load_snapshot
    from gan_core.vision.sheets import encode_png, sheet

    if not snapshot.exists():
        raise RequestError(f"There is no snapshot at {snapshot}.", expected="a .safetensors file, or a train artifact's folder")
    path = chosen_snapshot(snapshot) if snapshot.is_dir() else snapshot
    among = TrainingCodes.read(reject) if reject else None
    pictures, rejected = draw(
        load_snapshot(path, allow=[network] if network else []), count, seed=seed, reject_collisions=among
    )
    atomic_write_bytes(out, encode_png(sheet(pictures, columns=columns)))
    if as_json:
        console.print_json({"out": str(out), "samples": count, "rejected": rejected, "snapshot": str(path)})
    else:
        print(f"{out}: {count} samples of {path.name}" + (f", {rejected} rejected as copies" if reject else ""))
    return 0
