"""Files written so that no reader sees half of one, and so that equal content gives equal bytes."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` under another name, flushes it to disk, and renames it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form that is hashed. Refuses what is not
    plain JSON.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as readable JSON (sorted keys, two spaces), atomically. NaN and infinity are
    refused: JSON has none.
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads JSON; raises OSError or ValueError as they come."""
    return json.loads(path.read_bytes())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_table(table: pa.Table, path: Path, **options: Any) -> None:
    """Writes a Parquet file with fixed options (zstd), atomically: equal tables give equal
    bytes.
    """
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    settings: dict[str, Any] = {"compression": "zstd", "write_statistics": True, **options}
    try:
        pq.write_table(table, temporary, **settings)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def exchange(first: Path, second: Path) -> None:
    """Lets two folders change names, both of which exist at every moment (Linux: renameat2 with
    RENAME_EXCHANGE).

    Where the kernel or the disk cannot, `first` takes the place of `second` in two steps, and
    `second` is at `first` afterwards as well:
    killed between them, the name `second` is missing and both folders are there.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    swap = getattr(libc, "renameat2", None)
    here, atomic = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if swap is not None and swap(here, os.fsencode(first), here, os.fsencode(second), atomic) == 0:
        return
    old = second.with_name(f".{second.name}.{uuid.uuid4().hex[:8]}.old")
    second.rename(old)
    first.rename(second)
    old.rename(first)


def source_root() -> str:
    """The folder that holds gan_core: a child process must run the same code, wherever it was
    started.
    """
    return str(Path(__file__).resolve().parent.parent)


def kimg_label(kimg: float) -> str:
    """A place in file names: '000060' for 60 kimg, '000060_250' for 60.25. They sort in the order
    of training, and differ wherever places differ by an image."""
    whole, rest = divmod(round(kimg * 1000), 1000)
    return f"{whole:06d}_{rest:03d}" if rest else f"{whole:06d}"
