"""One file under several names: symbolic links, hard links, and a folder that is in both of two
sets.

A link whose file is in the set must never be the image that is kept: otherwise deleting the
"duplicates" deletes the file itself. Asks the file system; reads no file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def identities(paths: Sequence[str]) -> Rows:
    """(device, number on it) of every file, links followed: int64 [n, 2]; (-1, -1 - row) for what
    is not there.
    """
    out = np.empty((len(paths), 2), np.int64)
    for row, path in enumerate(paths):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            out[row] = -1, -1 - row
        else:
            out[row] = (
                np.uint64(status.st_dev).astype(np.int64),
                np.uint64(status.st_ino).astype(np.int64),
            )
    return out


def is_real(path: str, root: Path) -> bool:
    """Whether the way from the set's root to a file leads over no link."""
    return os.path.realpath(path) == os.path.realpath(root) + path[len(str(root)) :]


def same_file(files: Rows, paths: Sequence[str], root: Path) -> Rows:
    """For each row the row that represents its file: int64 [n].

    Of several names it is the first that leads over no link, else the first.

    Args:
        files: int64 [n, 2], `identities` of the paths.
    """
    same = np.arange(len(files))
    order = np.lexsort((files[:, 1], files[:, 0]))
    new = np.ones(len(files) + 1, np.bool_)
    new[1:-1] = (files[order[1:]] != files[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(new)
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        if stop - start > 1:
            rows = np.sort(order[start:stop])
            real = [row for row in rows.tolist() if is_real(paths[row], root)]
            same[rows] = real[0] if real else rows[0]
    return same


def kind_of(path: str, root: Path) -> str:
    """How a second name of a file came about, in words for the column `reason`."""
    return "the same file under another name" if is_real(path, root) else "the same file, by a link"
