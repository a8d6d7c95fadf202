"""Checks of the paths that a command is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gan_core import registry
from gan_core.datasets.base import did_you_mean
from gan_core.errors import RequestError


def check_exists(path: Path, what: str = "nothing", *, expected: str, remedy: str) -> None:
    """Raises: RequestError: there is nothing, or no `what`, at this path; with the nearest one."""
    if not path.exists():
        message = f"There is {what} at {path}" + did_you_mean(path)
        raise RequestError(message, expected=expected, remedy=remedy)


def check_snapshot(path: Path) -> None:
    """Raises: RequestError: there is no snapshot at this path."""
    check_exists(
        path,
        "no snapshot",
        expected="a .safetensors file, or a train artifact's folder",
        remedy="`discern run RECIPE` makes one; `discern status RECIPE --json` says where",
    )


def check_sets(places: Mapping[str, Path], dataset: str | None) -> None:
    """Checks sets of images that are read without a recipe.

    Args:
        places: argument or option of the command to the path that it was given.
        dataset: what `--dataset` was given.
    Raises: RequestError: nothing is there, or a kind of source that lies nowhere.
    """
    for given, path in places.items():
        check_exists(
            path,
            expected="a folder of images, or Parquet files with images",
            remedy=f"correct {given}",
        )
    if dataset is not None and not getattr(
        registry.load("datasets", dataset), "NEEDS_LOCATION", True
    ):
        raise RequestError(
            f"--dataset {dataset} comes with a package, and does not lie at "
            f"{next(iter(places.values()))}.",
            expected="a kind of files: folder, parquet, tar, lmdb",
            remedy="leave --dataset out: the kind is found out",
        )
