"""SVHN (Netzer et al. 2011), cropped digits in the publisher's MATLAB files, as torchvision keeps
them.
"""

from __future__ import annotations

from pathlib import Path

from gan_core.config import Section, SourceConfig
from gan_core.datasets._array_files import ArrayFile, ArrayFiles, Content
from gan_core.datasets.base import Source

ABOUT = "SVHN's cropped digits as .mat files: 73,257 for training, 26,032 for testing, and extra"
TITLE = "SVHN"
VERSION = 1


class Options(Section):
    """Whether the 531,131 easier digits are training images too."""

    extra: bool = False


def open_source(config: SourceConfig, location: Path | None) -> Source:
    """SVHN at a location that holds `train_32x32.mat` and `test_32x32.mat`."""
    options = Options.model_validate(config.options)
    files = [ArrayFile("train_32x32.mat", "train"), ArrayFile("test_32x32.mat", "test")]
    if options.extra:
        files.append(ArrayFile("extra_32x32.mat", "train"))
    return ArrayFiles(config, location, ("", "svhn", "SVHN"), files, _read)


def _read(folder: Path, file: ArrayFile) -> Content:
    """The publisher counts images last and calls the digit 0 class 10."""
    from scipy.io import loadmat

    content = loadmat(folder / file.name, variable_names=["X", "y"])
    labels = content["y"].ravel().astype(int) % 10
    return Content(content["X"].transpose(3, 0, 1, 2), labels.tolist(), [*"0123456789"])
