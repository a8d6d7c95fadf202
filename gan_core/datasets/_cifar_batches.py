"""CIFAR-10's own batch files: the pickled python version, read without running anything, and the
binary version.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout": 3072 bytes an image, red,
    green, blue planes of 32x32.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.datasets._array_files import ArrayFile
from gan_core.vision.image_files import UnreadableImage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


def _batches(ending: str) -> tuple[ArrayFile, ...]:
    train = [ArrayFile(f"data_batch_{number}{ending}", "train") for number in range(1, 6)]
    return (*train, ArrayFile(f"test_batch{ending}", "test"))


PYTHON, BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
LAYOUTS = {PYTHON: _batches(""), BINARY: _batches(".bin")}  # folder to its files


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
        UnreadableImage: it asks for something else.
        Exception: nearly anything, where it is damaged.
    """
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="bytes").load()


def read_batch(path: Path) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """A batch file's images, uint8 [n, 32, 32, 3] RGB, and labels.

    Raises: as `ArrayFiles` expects of a reader.
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
        flat, labels = batch[b"data"], [int(label) for label in batch[b"labels"]]
        if flat.dtype != np.uint8 or flat.shape != (len(labels), _PIXELS):
            raise UnreadableImage(
                "damaged", "the batch file does not hold rows of 3,072 bytes and as many labels"
            )
    return np.ascontiguousarray(flat.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)), labels
