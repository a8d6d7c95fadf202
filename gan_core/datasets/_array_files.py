"""Sources that are published as a few files of many images each: one reader for all of them.

A module says which files there are, of which split, and how one is read. Here is what they share:
where the files lie, stamps, entries, rows as images.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gan_core.config import SourceConfig
from gan_core.datasets.base import Blob, Entry, Stamp, existing, nothing_found, ppm
from gan_core.vision.image_files import UnreadableImage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_KEPT = 2  # files held in memory


@dataclass(frozen=True)
class ArrayFile:
    """A file of images.

    Attributes:
        name: within the set's folder.
        split: train, validation, test or ''.
        companions: files that its labels or class names are read from; they are part of its stamp.
        optional: a set without it is whole.
    """

    name: str
    split: str
    companions: tuple[str, ...] = ()
    optional: bool = False


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        images: uint8 [n, height, width] (grey) or [n, height, width, 3] (RGB).
        labels: a class number for each image, -1 for none; None where the file has no labels.
        classes: names of the classes in order of their numbers.
    """

    images: npt.NDArray[np.uint8]
    labels: Sequence[int] | None
    classes: Sequence[str]


Read = Callable[[Path, ArrayFile], Content]


class ArrayFiles:
    """The images of array files; the member is the image's number within its file.

    Args:
        folders: where below the location the files may lie, the likeliest first.
        read: from the set's folder and a file to its content; raises UnreadableImage, OSError, or
            whatever a damaged file makes its library raise.
    Raises:
        RequestError: none of the files is there.
    """

    has_masks = False

    def __init__(
        self,
        config: SourceConfig,
        location: Path | None,
        folders: Sequence[str],
        files: Sequence[ArrayFile],
        read: Read,
    ) -> None:
        self._root = existing(config, location)
        self._read_file = read
        self.ignored: dict[str, int] = {}
        self.warnings: list[str] = []
        for folder in folders:
            self._prefix = f"{folder}/" if folder else ""
            place = self._root / folder
            there = [file for file in files if (place / file.name).is_file()]
            if there:
                break
        else:
            names = ", ".join(file.name for file in files if not file.optional)
            raise nothing_found(
                config, self._root, f"{config.dataset} files", {}, f"expected there: {names}"
            )
        self._folder = place
        self._files = {self._prefix + file.name: file for file in sorted(there, key=_name)}
        names_there = {file.name.removesuffix(".gz") for file in there}
        for file in files:
            if not file.optional and file.name.removesuffix(".gz") not in names_there:
                self.warnings.append(f"{self._prefix}{file.name} is missing: the set is not whole")
        self._cache: OrderedDict[tuple[str, int, int], Content] = OrderedDict()

    def stamps(self) -> list[Stamp]:
        found = []
        for address, file in self._files.items():
            size, changed = _status(self._folder / file.name)
            tag = " ".join(
                "{}:{}".format(*_status(self._folder / name)) for name in file.companions
            )
            found.append(Stamp(address, size, changed, tag))
        return found

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        try:
            content = self._content(stamp.address)
        except UnreadableImage as error:
            yield Entry(stamp.address, problem=error.reason)
            return
        split, labels, classes = self._files[stamp.address].split, content.labels, content.classes
        for row in range(len(content.images)):
            label = labels[row] if labels is not None and labels[row] >= 0 else None
            name = "" if label is None else classes[label] if label < len(classes) else str(label)
            yield Entry(stamp.address, str(row), label, name, split)

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        import numpy as np

        for address, member in requests:
            try:
                image = self._content(address).images[int(member)]
            except UnreadableImage as error:
                yield Blob(address, member, problem=error.reason)
            except (IndexError, ValueError):
                yield Blob(address, member, problem="unreadable: the file has no such image")
            else:
                rgb = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
                height, width = rgb.shape[:2]
                data = np.ascontiguousarray(rgb).tobytes()
                yield Blob(address, member, data=ppm(width, height, data))

    def _content(self, address: str) -> Content:
        """A file's content, read again once the file has changed."""
        file = self._files[address]
        try:
            status = os.stat(self._folder / file.name)
            key = (address, status.st_size, status.st_mtime_ns)
            if key not in self._cache:
                self._cache[key] = self._read_file(self._folder, file)
        except UnreadableImage:
            raise
        except Exception as error:  # a damaged file raises nearly anything, also plain OSErrors
            if isinstance(error, OSError) and error.strerror:
                raise UnreadableImage("unreadable", error.strerror) from error
            raise UnreadableImage(
                "damaged", f"the file cannot be read ({type(error).__name__})"
            ) from error
        self._cache.move_to_end(key)
        while len(self._cache) > _KEPT:
            self._cache.popitem(last=False)
        return self._cache[key]


def _name(file: ArrayFile) -> str:
    return file.name


def _status(path: Path) -> tuple[int, int]:
    """(bytes, modification time in ns) of a file; zeros where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
