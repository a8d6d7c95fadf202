"""CelebA (Liu et al. 2015), aligned and cropped faces, as torchvision keeps them: a folder of JPEG
files and text tables of splits, identities and attributes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from gan_core.config import Section, SourceConfig
from gan_core.datasets.base import Blob, Entry, Source, Stamp, existing, nothing_found
from gan_core.errors import UnknownName

ABOUT = "CelebA: 202,599 aligned faces with identities, 40 attributes and the publisher's splits"
TITLE = "CelebA"
VERSION = 1

IMAGES = "img_align_celeba"
PARTITION, IDENTITY, ATTRIBUTES = (
    *("list_eval_partition.txt", "identity_CelebA.txt", "list_attr_celeba.txt"),
)
_SPLITS = {"0": "train", "1": "validation", "2": "test"}


class Options(Section):
    """What is the label: '' nothing, 'identity', or the name of an attribute such as 'Male'."""

    label: str = ""


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """CelebA at a location that holds `celeba/img_align_celeba`, or is that `celeba` folder.

    Raises:
        RequestError: no such folder there, or no attribute of that name.
    """
    options = Options.model_validate(config.options)
    root = existing(config, location)
    for prefix in ("", "celeba/"):
        if (root / prefix / IMAGES).is_dir():
            return CelebaSource(root, prefix, options.label)
    raise nothing_found(
        config, root, f"folder {IMAGES}", {}, f"expected there: {IMAGES}/ and {PARTITION}"
    )


class CelebaSource:
    """The faces; each is a file of its own."""

    has_masks = False

    def __init__(self, root: Path, prefix: str, label: str) -> None:
        self._root, self._prefix, self._label = root, prefix, label
        self.ignored: dict[str, int] = {}
        tables = (PARTITION, IDENTITY, ATTRIBUTES)
        self.warnings = [
            f"{prefix}{name} is missing: its column is empty"
            for name in tables
            if not (root / prefix / name).is_file()
        ]
        if label not in ("", "identity") and label not in (names := self._attributes[0]):
            raise UnknownName("attribute of CelebA", label, ["identity", *names])

    def stamps(self) -> list[Stamp]:
        found = []
        folder = self._root / self._prefix
        with os.scandir(folder / IMAGES) as files:
            names = [f"{IMAGES}/{file.name}" for file in files if file.name.endswith(".jpg")]
        for name in sorted([*names, PARTITION, IDENTITY, ATTRIBUTES]):
            try:
                status = os.stat(folder / name)
            except OSError:
                continue
            found.append(Stamp(self._prefix + name, status.st_size, status.st_mtime_ns))
        return found

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        """One image; nothing for a table, whose stamp is there because it decides about labels."""
        name = stamp.address.rpartition("/")[2]
        if not name.endswith(".jpg"):
            return
        names, values = self._attributes
        owned = [word for word, has in zip(names, values.get(name, ()), strict=False) if has]
        identity = self._identities.get(name)
        label, label_name = None, ""
        if self._label == "identity" and identity is not None:
            label, label_name = int(identity), identity
        elif self._label and name in values:
            label = int(self._label in owned)
            label_name = self._label if label else f"not {self._label}"
        attributes = {
            **({"identity": identity} if identity is not None else {}),
            **({"attributes": owned} if name in values else {}),
        }
        split = _SPLITS.get(self._partition.get(name, ""), "")
        yield Entry(stamp.address, "", label, label_name, split, attributes)

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        for address, member in requests:
            yield Blob(address, member, path=self._root / address)

    def _lines(self, name: str) -> list[list[str]]:
        try:
            text = (self._root / self._prefix / name).read_text()
        except OSError:
            return []
        return [line.split() for line in text.splitlines() if line.strip()]

    @cached_property
    def _partition(self) -> dict[str, str]:
        return {words[0]: words[1] for words in self._lines(PARTITION) if len(words) == 2}

    @cached_property
    def _identities(self) -> dict[str, str]:
        return {words[0]: words[1] for words in self._lines(IDENTITY) if len(words) == 2}

    @cached_property
    def _attributes(self) -> tuple[list[str], dict[str, list[bool]]]:
        """Names of the attributes, and for each file which it has."""
        lines = self._lines(ATTRIBUTES)
        names = lines[1] if len(lines) > 1 else []
        rows = lines[2:]
        return names, {words[0]: [word == "1" for word in words[1:]] for words in rows}
