"""Where the table and the page of `discern dedup` may be written: never over an image, a set or
another program's file.

Asks the file system; writes nothing. Tables and pages carry a mark, by which the next run knows its
own.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from gan_core.errors import RequestError
from gan_core.files import atomic_write_bytes, write_table

MARK = "discern dedup"
GENERATOR = f'<meta name="generator" content="{MARK}">'
_HEAD = 4096  # bytes of a page, or of a table as text, that hold the mark
SUFFIXES = (".parquet", ".pq", ".csv", ".json")


def write_images(table: pa.Table, path: Path) -> None:
    """Writes the table as Parquet, CSV or JSON (`{"generator": ..., "images": [...]}`), by the
    file's suffix.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        out = io.BytesIO()
        pa.csv.write_csv(table, out)
        atomic_write_bytes(path, out.getvalue())
    elif suffix == ".json":
        text = json.dumps({"generator": MARK, "images": table.to_pylist()}, ensure_ascii=False)
        atomic_write_bytes(path, text.encode())
    else:
        metadata = {**(table.schema.metadata or {}), b"generator": MARK.encode()}
        write_table(table.replace_schema_metadata(metadata), path)


def is_ours(path: Path, columns: Sequence[str] = ()) -> bool:
    """Whether a file is a table or a page that `discern dedup` wrote; False if unreadable.

    Args:
        columns: of the table; CSV files are recognised by their header.
    """
    if not path.is_file():
        return False
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            return (pq.read_schema(path).metadata or {}).get(b"generator") == MARK.encode()
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, pa.ArrowException):
        return False
    if suffix == ".html":
        return GENERATOR.encode() in head
    if suffix == ".json":
        return head.startswith(f'{{"generator": "{MARK}"'.encode())
    header = ",".join(f'"{name}"' for name in columns).encode()
    return bool(columns) and head.splitlines()[:1] == [header]


def check_destination(
    out: Path, places: Sequence[Path], columns: Sequence[str] = (), *, force: bool = False
) -> Path:
    """Makes sure, before any work, that `out` and the page next to it can be written and destroy
    nothing.

    Args:
        out: the table to be written.
        places: the sets that are read; their files are never replaced, whatever `force` says.
        columns: of the table (`is_ours`).
        force: replace files that some other program wrote, outside the sets.

    Returns:
        where the page goes.

    Raises:
        RequestError: another ending, a folder or another program's file in the way, a file of a
            set, or a folder that cannot be written.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise RequestError(
            f"--out {out} has an ending that names no format of a table.",
            expected="a name that ends in .parquet, .csv or .json",
            remedy=f"--out {out.with_suffix('.parquet')}",
        )
    sheet = out.with_suffix(".html")
    for path in (out, sheet):
        if path.is_dir():
            raise RequestError(
                f"{path} is a folder.",
                expected="a file to write",
                remedy="--out FOLDER/duplicates.parquet",
            )
        if os.path.lexists(path):
            _check_replaceable(path, places, columns, force=force)
    check_folder(out.parent, "--out")
    return sheet


def check_target(root: Path, folder: Path) -> None:
    """Refuses, before any work, a folder to move, link or export to that cannot serve.

    Raises:
        RequestError: `folder` is a file or within the set at `root`, or `root` is a file.
    """
    if root.is_file():
        raise RequestError(
            f"{root} holds its images in a container, which is not taken apart.",
            expected="a folder of image files",
            remedy="use the table that --out names",
        )
    if os.path.lexists(folder) and not folder.is_dir():
        raise RequestError(
            f"{folder} is a file.", expected="a folder", remedy="choose another name for the folder"
        )
    target = folder.resolve()
    if target == root.resolve() or root.resolve() in target.parents:
        raise RequestError(
            f"{folder} is within {root}: the next search would find what lies there.",
            expected="a folder outside the set",
            remedy=f"choose a folder next to {root}",
        )


def _check_replaceable(
    path: Path, places: Sequence[Path], columns: Sequence[str], *, force: bool
) -> None:
    if is_ours(path, columns) and not any(_same(path, place) for place in places):
        return
    for place in places:
        if (
            _same(path, place)
            or place.resolve() in path.resolve().parents
            or place.absolute() in path.absolute().parents
        ):
            raise RequestError(
                f"{path} is a file of {place}, which is only read: it is not replaced.",
                expected="a name that is free, or a table that this command wrote",
                remedy="choose another name with --out",
            )
    if not force:
        raise RequestError(
            f"{path} is there and was not written by this command.",
            expected=("a name that is free, or a table and a page of an earlier `discern dedup`"),
            remedy="choose another name with --out, or replace the file with --force",
        )


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def check_folder(folder: Path, option: str) -> None:
    """The folder, or the first one above it that exists, must be a folder that may be written.

    Raises:
        RequestError: it is not; the remedy names `option`.
    """
    there = folder.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise RequestError(
            f"{folder} cannot be made: {there} is a file.",
            expected="a folder to write into",
            remedy=f"choose another {option}",
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(
            f"{there} may not be written by this user.",
            expected="a folder to write into",
            remedy=f"choose another {option}",
        )
