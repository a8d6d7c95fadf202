"""The snapshot that a training starts from (`train.start`): a file or a train artifact."""

from __future__ import annotations

from pathlib import Path

from gan_core import registry
from gan_core.artifacts.store import Store
from gan_core.config import TrainConfig
from gan_core.errors import RequestError
from gan_core.files import sha256_file
from gan_core.pipeline.nodes import Start


def find_start(settings: TrainConfig, store: Store, folder: Path) -> Start | None:
    """The snapshot of `train.start`, None where the recipe names none.

    Args: folder: where relative paths start.
    Raises: RequestError: there is no such snapshot; several artifacts fit the address; the method
        needs a snapshot and none is named.
    """
    if settings.start is None:
        roles = registry.literal("methods", settings.method, "STARTS_FROM", ())
        if roles and settings.snapshot is None:
            raise RequestError(
                f"The method {settings.method} needs the {' and '.join(roles)} of a finished "
                "training.",
                expected="a snapshot in train.start: a file, or the address of a train artifact",
                remedy="--set train.start=artifacts/train/KEY, as `discern status` shows it",
            )
        return None
    path = folder / Path(settings.start).expanduser()
    if not path.exists():
        path = _artifact(settings.start, store)
    if path.is_dir():  # 'snapshot-chosen' sorts after all numbers: it goes before the last one
        path = max(path.glob("snapshot-*.safetensors"), default=path)
    if not path.is_file():
        raise RequestError(
            f"There is no snapshot in {settings.start}.",
            expected="a file snapshot-*.safetensors, or a train artifact that holds one",
        )
    return Start(path, sha256_file(path))


def _artifact(address: str, store: Store) -> Path:
    """The folder of the train artifact with an address 'artifacts/train/KEY/DIGEST', of which the
    beginning of the key is enough.
    """
    wanted = address.strip("/").removeprefix("artifacts/").removeprefix("train/")
    found = {
        ref.key: ref
        for ref in store.artifacts.refs("train")
        if f"{ref.key}/{ref.digest[:12]}".startswith(wanted) and len(wanted) >= 6
    }
    if len(found) != 1:
        many = f"{len(found)} train artifacts begin with" if found else "There is no snapshot"
        raise RequestError(
            f"{many} {address!r}.",
            expected="a snapshot's file, or the address of a train artifact in "
            f"{store.address}: artifacts/train/KEY",
            remedy="`discern status RECIPE --json` shows the addresses",
        )
    (ref,) = found.values()
    current = store.find("train", ref.key)
    return store.path(current.ref() if current and "/" not in wanted else ref)
