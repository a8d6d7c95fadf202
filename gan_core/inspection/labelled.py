"""Labelled images with their features, for inspections that compare features with labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gan_core.features.parquet import read_features, read_rows
from gan_core.inspection.base import Context, Images, NotApplicable
from gan_core.metrics.intervals import Z
from gan_core.probes.knn import Neighbours
from gan_core.randomness import numpy_stream
from gan_core.shards import PixelShards

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Images of a split.

    Attributes:
        split: 'train', 'validation' or 'test'.
        features: float32 [n, dims], as extracted; images: uint8 [n, S, S, 3]; labels: int64 [n].
        names: label to its name.
    """

    split: str
    features: Floats
    images: Images
    labels: Rows
    names: dict[int, str]

    @property
    def pixels(self) -> Floats:
        """The images as rows in [-1, 1]: what the baseline of the same name has as features."""
        rows: Floats = self.images.reshape(len(self.images), -1).astype(np.float32) / 127.5 - 1
        return rows


def features_of(context: Context) -> Path:
    """The artifact of features. Raises: NotApplicable: none was given."""
    if context.features is None:
        raise NotApplicable(
            "This inspection needs features of labelled images: run a recipe, or give "
            "--features an extract artifact."
        )
    return context.features


def read_labelled(context: Context, split: str, count: int, stream: str) -> Labelled:
    """At most `count` labelled images of a random stream.

    Args: split: 'test' means 'validation' where no labelled image is in 'test', as in evaluation.
    Raises: NotApplicable: no features were given; fewer than two labelled images.
    """
    folder = features_of(context)
    table = read_rows(folder)
    labelled = pc.is_valid(table["label"]).to_numpy(zero_copy_only=False)
    splits = table["split"].to_numpy(zero_copy_only=False)
    if split == "test" and not (labelled & (splits == "test")).any():
        split = "validation"
    rows = np.flatnonzero(labelled & (splits == split))
    if len(rows) < 2:
        raise NotApplicable(f"There are no labelled images in the split {split}.")
    order = numpy_stream(context.seed, "inspect", stream).permutation(len(rows))
    features, found = read_features(folder, rows=np.sort(rows[order[:count]]))
    assert context.crops is not None  # they are given together
    shards = PixelShards(context.crops)
    places = shards.rows_of(found["image_id"].to_pylist(), found["box"].to_pylist())
    labels = found["label"].to_numpy().astype(np.int64)
    names = dict(zip(labels.tolist(), found["label_name"].to_pylist(), strict=True))
    return Labelled(
        split,
        features.astype(np.float32),
        shards.pixels(places),
        labels,
        {label: str(name if name is not None else label) for label, name in names.items()},
    )


def nearest(queries: Floats, known: Floats, count: int) -> Rows:
    """Rows of the `count` nearest of `known` by cosine, nearest first: int64 [queries, count].

    By FAISS where it is installed. Euclidean distance orders rows of length 1 as their cosine does.
    """
    found: Rows = Neighbours(unit_rows(known), "cpu").nearest(unit_rows(queries), count)
    return found


def unit_rows(values: Floats) -> Floats:
    """Rows divided by their length."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    rows: Floats = values / np.maximum(lengths, 1e-12)
    return rows


def agreement(neighbours: Rows, labels: Rows, known: Rows) -> npt.NDArray[np.float64]:
    """For each query the share of its neighbours that have its label: float64 [queries].

    Args: neighbours: rows of `known`, [queries, k]. labels: [queries]; known: of the neighbours.
    """
    return np.asarray((known[neighbours] == labels[:, None]).mean(1))


def mean_with_interval(shares: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean and 95 % interval of shares over images, by the normal approximation."""
    mean, half = shares.mean(), Z * shares.std(ddof=1) / math.sqrt(len(shares))
    return {
        name: round(float(value), 6)
        for name, value in (("mean", mean), ("low", mean - half), ("high", mean + half))
    }


def interval_words(found: dict[str, float]) -> list[str]:
    """Cells of a table: the mean and its interval in percent."""
    return [
        f"{100 * found['mean']:.1f} %",
        f"{100 * found['low']:.1f} to {100 * found['high']:.1f}",
    ]
