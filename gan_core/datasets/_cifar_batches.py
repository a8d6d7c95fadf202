"""CIFAR-10's own batch files: the pickled python version, read without running anything, and the
binary version.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout": 3072 bytes an image, red,
    green, blue planes of 32x32.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.config import SourceConfig
from gan_core.datasets.base import Blob, Entry, Stamp, ppm
from gan_core.vision.image_files import UnreadableImage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True, slots=True)
class Batches:
    """One of the two layouts: its folder and file names, test last."""

    folder: str
    files: tuple[str, ...]


PYTHON = Batches(
    "cifar-10-batches-py", (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
)
BINARY = Batches(
    "cifar-10-batches-bin",
    (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
)


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays of numbers and nothing else: a pickle can name any function, so only
    these three are found.
    """

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _encode
        raise UnreadableImage(
            "damaged", f"the batch file asks for {module}.{name}, which no CIFAR-10 batch holds"
        )


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> Any:
    """What numpy's own function of this name does, for plain arrays of bytes."""
    import numpy as np

    return np.ndarray.__new__(np.ndarray, shape, "b")


def _encode(text: str, encoding: str) -> bytes:
    """Bytes that were written as text of one character each."""
    return text.encode("latin1")


def read_pickle(path: Path) -> Any:
    """The content of a pickle of plain values and numpy arrays; nothing in it is run.

    Raises:
        UnreadableImage: damaged, or it asks for something else.
        OSError: as it comes.
    """
    with open(path, "rb") as file:
        try:
            return _ArraysOnly(file, encoding="bytes").load()
        except UnreadableImage:
            raise
        except Exception as error:  # a damaged pickle raises nearly anything
            raise UnreadableImage(
                "damaged", f"the batch file cannot be read ({type(error).__name__})"
            ) from error


@functools.lru_cache(maxsize=2)
def _cached(path: Path, size: int, mtime_ns: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    return read_batch(path)


def read_batch(path: Path) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """A batch file's images, uint8 [n, 32, 32, 3] RGB, and labels.

    Raises:
        UnreadableImage: truncated or damaged.
        OSError: as it comes.
    """
    import numpy as np

    if path.suffix == ".bin":
        raw = np.fromfile(path, np.uint8)
        if not len(raw) or len(raw) % (_PIXELS + 1):
            raise UnreadableImage(
                "truncated", f"the batch has {len(raw)} bytes, no multiple of {_PIXELS + 1}"
            )
        rows = raw.reshape(-1, _PIXELS + 1)
        flat, labels = rows[:, 1:], rows[:, 0].tolist()
    else:
        batch = read_pickle(path)
        try:
            flat, labels = batch[b"data"], [int(label) for label in batch[b"labels"]]
            good = flat.dtype == np.uint8 and flat.shape == (len(labels), _PIXELS)
        except Exception as error:  # any object may be in a damaged pickle
            raise UnreadableImage(
                "damaged", f"the batch file cannot be read ({type(error).__name__})"
            ) from error
        if not good:
            raise UnreadableImage(
                "damaged", "the batch file does not hold rows of 3,072 bytes and as many labels"
            )
    return np.ascontiguousarray(flat.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)), labels


class BatchSource:
    """Batch files of either layout; the member is the row's number within its file."""

    has_masks = False

    def __init__(
        self,
        config: SourceConfig,
        root: Path,
        folder: Path,
        batches: Batches,
        classes: Sequence[str],
    ) -> None:
        self._prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        self._root = root
        self._classes = classes
        self._files = [name for name in batches.files if (folder / name).is_file()]
        self.ignored: dict[str, int] = {}
        missing = [name for name in batches.files if name not in self._files]
        self.warnings = [
            f"{self._prefix}{name} is missing: the set is not whole" for name in missing
        ]

    def stamps(self) -> list[Stamp]:
        found = []
        for name in self._files:
            status = os.stat(self._root / (self._prefix + name))
            found.append(Stamp(self._prefix + name, status.st_size, status.st_mtime_ns))
        return found

    def _read(self, address: str) -> tuple[npt.NDArray[np.uint8], list[int]]:
        path = self._root / address
        try:
            status = os.stat(path)
            return _cached(path, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise UnreadableImage("unreadable", error.strerror or type(error).__name__) from error

    def entries(self, stamp: Stamp) -> Iterator[Entry]:
        try:
            _, labels = self._read(stamp.address)
        except UnreadableImage as error:
            yield Entry(stamp.address, problem=error.reason)
            return
        split = "test" if "test_batch" in stamp.address else "train"
        for row, label in enumerate(labels):
            name = self._classes[label] if label < len(self._classes) else str(label)
            yield Entry(stamp.address, str(row), label, name, split)

    def read_many(self, requests: Sequence[tuple[str, str]]) -> Iterator[Blob]:
        for address, member in requests:
            try:
                pixels, _ = self._read(address)
                yield Blob(address, member, data=ppm(_SIDE, _SIDE, pixels[int(member)].tobytes()))
            except UnreadableImage as error:
                yield Blob(address, member, problem=error.reason)
            except (IndexError, ValueError):
                yield Blob(address, member, problem="unreadable: the file has no such row")
