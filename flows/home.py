"""Where everything is kept, decided once at the edge: `--home`, then DISCERN_HOME, then `data/` of
the checkout.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import platformdirs

from gan_core.artifacts.store import Store
from gan_core.errors import RequestError, StoreError

_REMEDY = "choose another with --home FOLDER or the environment variable DISCERN_HOME"


def resolve_home(given: str | None) -> str:
    """The home as an absolute path, or an fsspec address as it is.

    Raises:
        RequestError: DISCERN_HOME is set and empty, as in deployments that were made without it.
    """
    if not given and os.environ.get("DISCERN_HOME") == "":
        raise RequestError(
            "DISCERN_HOME is set, and empty.",
            expected=(
                "the folder of the store: without it a second store would begin in the checkout"
            ),
            remedy=(
                "in a deployment: set -a; . <home>/prefect/worker.env; set +a; prefect --no-prompt "
                "deploy --all. In a shell: unset DISCERN_HOME, or give it a folder"
            ),
        )
    wanted = given or os.environ.get("DISCERN_HOME") or str(default_home())
    return wanted if "://" in wanted else str(Path(wanted).expanduser().absolute())


def check_deployment_variables() -> None:
    """The first step of `prefect deploy` (prefect.yaml): ends it when what deployments are filled
    with is not set.

    Ends the command itself: an error would be shown below a page of Prefect's own frames.
    """
    for name in ("DISCERN_HOME", "DISCERN_CHECKOUT"):
        if not os.environ.get(name):
            error = RequestError(
                f"{name} is not set: nothing was deployed.",
                expected="the variables of worker.env in the shell that deploys",
                remedy="set -a; . <home>/prefect/worker.env; set +a   (`discern setup` writes it)",
            )
            sys.stderr.write(f"discern: {error.explain()}\n")
            raise SystemExit(error.exit_code)


def checkout() -> Path | None:
    """The folder of the checkout that this code lies in; None for an installed package."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def deployments_file() -> Path:
    """`prefect.yaml` of the checkout, or the copy in an installed package."""
    folder = checkout()
    return (Path(__file__).parent if folder is None else folder) / "prefect.yaml"


def default_home() -> Path:
    """`data/` next to pyproject.toml when this is a checkout; else a folder of the user's data
    directory.
    """
    if (folder := checkout()) is not None:
        return folder / "data"
    return platformdirs.user_data_path("discern")


def open_store(home: str, *, writing: bool = True) -> Store:
    """The store at a home; refuses one that cannot be written, before any work is done.

    Args:
        writing: False for commands that only read: the home may belong to another user, and a
            missing one is not made.
    Raises:
        RequestError: something that is no folder is there.
        StoreError: the home cannot be made or written, or cannot be read.
    """
    local = Path(home)
    if "://" in home:
        local = default_home() / "remote" / home.replace("://", "-").replace("/", "-")
    _check_folder(local)
    if not writing:
        if not _is_readable(local):
            raise StoreError(
                f"The home {local} cannot be read.",
                expected="a folder that this user may read",
                remedy=_REMEDY,
            )
        return Store(home, local)
    try:
        local.mkdir(parents=True, exist_ok=True)
        probe = local / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"The home {local} cannot be written: {error.strerror}.",
            expected="a folder that this user may write",
            remedy=_REMEDY,
        ) from error
    return Store(home, local)


def _is_readable(home: Path) -> bool:
    """Whether this user can list a home; a missing one counts as readable."""
    try:
        return not home.exists() or os.access(home, os.R_OK | os.X_OK)
    except OSError:  # a folder above it is closed
        return False


def is_writable(folder: Path) -> bool:
    """Whether this user may put files into a folder; False for a missing one."""
    return os.access(folder, os.W_OK | os.X_OK)


def _check_folder(home: Path) -> None:
    there = next(place for place in (home, *home.parents) if os.path.lexists(place))
    if not there.is_dir():
        raise RequestError(
            f"The home {home} cannot be a folder: {there} is none."
            if there != home
            else f"The home {home} is no folder.",
            expected="a folder, or a place where one can be made",
            remedy=_REMEDY,
        )
