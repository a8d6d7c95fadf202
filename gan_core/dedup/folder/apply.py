"""What `discern dedup` does with a folder's files on request: moves or links those that are not
kept, and exports those that are.

Nothing is deleted and nothing is overwritten: every target is checked before the first file moves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gan_core.datasets.folder import FolderSource
from gan_core.dedup.folder.hardlinks import is_real
from gan_core.dedup.folder.output import check_target
from gan_core.dedup.folder.run import FolderResult
from gan_core.errors import RequestError


def duplicate_paths(result: FolderResult) -> list[str]:
    """The files that are not kept, as paths; of containers the container, then '#' and the member.

    In the table's order.
    """
    numbers = np.flatnonzero(~np.asarray(result.table["keep"])).tolist()
    members = [result.images.members[number] for number in numbers]
    paths = result.images.paths(numbers)
    return [
        f"{path}#{member}" if member else path for path, member in zip(paths, members, strict=True)
    ]


def plan_files(result: FolderResult, folder: Path, *, kept: bool) -> list[tuple[Path, Path]]:
    """(file, its place in `folder`) for each image that is kept, or for each that is not.

    Files keep their address below the set's root. An image that failed is no part of the kept ones.
    A file that is reached over a linked folder is left out: it lies elsewhere under another name.

    Raises:
        RequestError: the set is no folder of files, `folder` is within it, or something is in the
            way.
    """
    images, root = result.images, result.images.root
    check_target(root, folder)
    if not isinstance(images.source, FolderSource):
        raise RequestError(
            f"{root} holds its images in containers, which are not taken apart.",
            expected="a folder of image files",
            remedy="use the table that --out names",
        )
    keep = np.asarray(result.table["keep"])
    ok = np.array([not problem for problem in images.problems], np.bool_)
    numbers = np.flatnonzero(keep & ok if kept else ~keep).tolist()
    out = []
    for path in images.paths(numbers):
        if is_real(os.path.dirname(path), root):
            out.append((Path(path), folder / os.path.relpath(path, root)))
    for _, target in out:
        if os.path.lexists(target):
            raise RequestError(
                f"{target} exists already.",
                expected="a folder in which nothing has to be overwritten",
                remedy="choose an empty folder",
            )
    return out


def apply(files: Sequence[tuple[Path, Path]], action: str) -> None:
    """Moves files to their places, or makes symbolic links or copies there.

    A symbolic link that is moved or copied keeps the file that it leads to.
    """
    for path, target in files:
        target.parent.mkdir(parents=True, exist_ok=True)
        if action == "link" or path.is_symlink():
            target.symlink_to(path.resolve())
            if action == "move":
                path.unlink()  # the link alone: its file stays where it is
        elif action == "move":
            shutil.move(path, target)
        else:
            shutil.copy2(path, target)
