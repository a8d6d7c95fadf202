"""Tar shards in the manner of WebDataset: key.jpg with key.cls, key.json or key.txt next to it in
the same shard.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gan_core.config import SourceConfig
from gan_core.datasets.base import (
    Blob,
    Entry,
    Source,
    Stamp,
    existing,
    json_value,
    nothing_found,
    safe_text,
    split_of,
)
from gan_core.datasets.folder import IMAGE_ENDINGS
from gan_core.vision.image_files import MAX_FILE_BYTES

ABOUT = "tar shards as WebDataset writes them: key.jpg with key.cls or key.json"
TITLE = "tar shards"
VERSION = 1

# WebDataset names image members by bare kind as well: key.img, key.image.
_IMAGES = {ending[1:] for ending in IMAGE_ENDINGS} | {"img", "image"}
_NOTES = {"cls", "json", "txt"}
_MAX_NOTE = 1 << 20
_SPECIAL = "unsupported: the member is a link or a special file, which holds no image itself"


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """A folder of .tar files, or one.

    Raises:
        RequestError: no location, or nothing there.
    """
    return TarSource(config, existing(config, location))


class TarSource:
    """Images in tar shards; the member is the name within the shard."""

    has_masks = False

    def __init__(self, config: SourceConfig, location: Path) -> None:
        self._config = config
        self._location = location
        self._root = location if location.is_dir() else location.parent
        self.ignored: dict[str, int] = {}
        self.warnings: list[str] = []

    def stamps(self) -> list[Stamp]:
        found = []
        others: dict[str, int] = {}
        for path in self._paths():
            if path.suffix.lower() != ".tar":
                ending = "".join(path.suffixes[-2:]).lower() or "no ending"
                others[f"{ending} files"] = others.get(f"{ending} files", 0) + 1
                continue
            status = path.stat()
            found.append(
                Stamp(
                    safe_text(path.relative_to(self._root).as_posix()),
                    status.st_size,
                    status.st_mtime_ns,
                )
            )
        self.ignored = others
        if not found:
            packed = any(name.startswith((".tar.", ".tgz")) for name in others)
            remedy = (
                "unpack the compression first (gunzip): shards are read at random" if packed else ""
            )
            raise nothing_found(self._config, self._location, ".tar files", others, remedy)
        return sorted(found, key=lambda stamp: stamp.address)

    def _paths(self) -> Iterator[Path]:
        if not self._location.is_dir():
            yield self._location
            return
        for folder, folders, files in os.walk(self._location):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        images: list[str] = []
        special: set[str] = set()
        notes: dict[str, dict[str, bytes]] = {}
        try:
            with tarfile.open(self._root / stamp.address, "r:") as shard:
                for member in shard:
                    stem, kind = _parts(safe_text(member.name))
                    if member.isdir() or PurePosixPath(member.name).name.startswith("."):
                        continue
                    if not member.isfile():
                        if kind in _IMAGES:
                            images.append(safe_text(member.name))
                            special.add(images[-1])
                        else:
                            other = "links and special members without an image's ending"
                            self.ignored[other] = self.ignored.get(other, 0) + 1
                    elif kind in _IMAGES:
                        images.append(safe_text(member.name))
                    elif kind in _NOTES and member.size <= _MAX_NOTE:
                        file = shard.extractfile(member)
                        notes.setdefault(stem, {})[kind] = file.read() if file else b""
        except (tarfile.TarError, OSError) as error:
            yield Entry(
                stamp.address,
                problem=f"damaged: the tar file cannot be read to its end ({_plain(error)})",
            )
        seen: set[str] = set()
        split = split_of(
            PurePosixPath(stamp.address).name.split("-")[0].split("_")[0].split(".")[0]
        )
        for name in images:
            if name in seen:
                self.warnings.append(
                    f"{stamp.address}: two members are called {name!r}; the later one counts"
                )
                continue
            seen.add(name)
            if name in special:
                yield Entry(stamp.address, name, split=split, problem=_SPECIAL)
                continue
            yield _entry(stamp.address, name, split, notes.get(_parts(name)[0], {}))

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        address, shard, problem = "", None, ""
        members: dict[str, tarfile.TarInfo] = {}
        try:
            for wanted, name in requests:
                if wanted != address:
                    if shard:
                        shard.close()
                    address, shard, problem, members = wanted, None, "", {}
                    try:
                        # closed below, one shard at a time
                        shard = tarfile.open(self._root / wanted, "r:")  # noqa: SIM115
                        for member in shard:
                            members[safe_text(member.name)] = member
                    except (tarfile.TarError, OSError) as error:
                        problem = (
                            f"damaged: the tar file cannot be read to its end ({_plain(error)})"
                        )
                yield _blob(wanted, name, shard, members.get(name), problem)
        finally:
            if shard:
                shard.close()


def _blob(
    address: str,
    name: str,
    shard: tarfile.TarFile | None,
    member: tarfile.TarInfo | None,
    problem: str,
) -> Blob:
    if shard is None or member is None:
        return Blob(address, name, problem=problem or "unreadable: the shard has no such member")
    if member.size > MAX_FILE_BYTES:
        return Blob(address, name, problem=f"too_large: the member has {member.size} bytes")
    try:
        file = shard.extractfile(member)
        data = file.read() if file else b""
    except (tarfile.TarError, OSError) as error:
        return Blob(address, name, problem=f"damaged: the member cannot be read ({_plain(error)})")
    if len(data) < member.size:
        return Blob(
            address,
            name,
            problem=(
                f"truncated: the shard ends after {len(data)} of the member's {member.size} bytes"
            ),
        )
    return Blob(address, name, data=data)


def _entry(address: str, name: str, split: str, notes: dict[str, bytes]) -> Entry:
    label: int | None = None
    label_name = ""
    attributes: dict[str, Any] = {}
    if "json" in notes:
        try:
            values = json.loads(notes["json"])
        except ValueError:
            values = None
        for key, value in values.items() if isinstance(values, dict) else ():
            kept = json_value(value)
            if kept is not ...:
                attributes[str(key)] = kept
    if "txt" in notes:
        kept = json_value(notes["txt"].decode("utf-8", "replace").strip())
        if kept is not ...:
            attributes.setdefault("text", kept)
    given: Any = (
        notes["cls"].decode("utf-8", "replace").strip()
        if "cls" in notes
        else attributes.pop("label", None)
    )
    if isinstance(given, str) and given.removeprefix("-").isdecimal():
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool):
        label, label_name = (given, str(given)) if given >= 0 else (None, "")
    elif isinstance(given, str):
        label_name = given
    if isinstance(attributes.get("label_name"), str) and label is not None:
        label_name = attributes.pop("label_name")
    split = split_of(str(attributes.get("split", ""))) or split
    return Entry(address, name, label, label_name, split, attributes)


def _parts(name: str) -> tuple[str, str]:
    """WebDataset's key and kind: the name up to the first dot of its last part, and the ending."""
    folder, slash, last = name.rpartition("/")
    key, _, kind = last.partition(".")
    return folder + slash + key, kind.rpartition(".")[2].lower()


def _plain(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
