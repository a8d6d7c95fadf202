"""Where everything is kept, decided once at the edge: `--home`, then DISCERN_HOME, then `data/` of the checkout."""

from __future__ import annotations

import os
from pathlib import Path

from gan_core.errors import StoreError
from gan_core.store import Store


def resolve_home(given: str | None) -> str:
    """The home as an absolute path, or an fsspec address as it is."""
    wanted = given or os.environ.get("DISCERN_HOME") or str(default_home())
    return wanted if "://" in wanted else str(Path(wanted).expanduser().absolute())


def default_home() -> Path:
    """`data/` beside pyproject.toml when this is a checkout; else a folder of the user's data directory."""
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file():
        return checkout / "data"
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "discern"


def open_store(home: str) -> Store:
    """The store at a home; refuses one that cannot be written, before any work is done.

    Raises:
        StoreError: the home cannot be made or written.
    """
    local = Path(home)
    if "://" in home:
        local = default_home() / "remote" / home.replace("://", "-").replace("/", "-")
    try:
        local.mkdir(parents=True, exist_ok=True)
        probe = local / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"The home {local} cannot be written: {error.strerror}.",
            expected="a folder that this user may write",
            remedy="choose another with --home FOLDER or the environment variable DISCERN_HOME",
        ) from error
    return Store(home, local)
