"""The labelled rows of a set of features: pool, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gan_core.config import EvaluateConfig
from gan_core.errors import DataError
from gan_core.metrics.draws import hold_out
from gan_core.probes.base import Labels

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Labelled rows in the order pool, validation, test.

    Attributes:
        rows: their positions in the set of features.
        labels: their labels.
        pool, train: how many are in the pool, and in pool and validation together.
        test_split: 'test', or 'validation' where the source has no test rows.
    """

    rows: Rows
    labels: Labels
    pool: int
    train: int
    test_split: str = "test"

    @property
    def pool_labels(self) -> Labels:
        """Labels of the pool, from which draws are made."""
        return self.labels[: self.pool]

    @property
    def held(self) -> slice:
        """The validation rows."""
        return slice(self.pool, self.train)

    @property
    def test(self) -> slice:
        """The test rows."""
        return slice(self.train, None)

    @property
    def tests(self) -> int:
        """How many test rows there are."""
        return len(self.rows) - self.train


def split_table(table: pa.Table, protocol: EvaluateConfig, seed: int) -> Split:
    """The split of the rows of a features artifact; each part is in the order of image id and box.

    Args: table: columns image_id, box, label, split, kept.
    Raises: DataError: no labels, one class only, no training or no test rows.
    """
    split = table["split"].to_numpy(zero_copy_only=False)
    kept = table["kept"].to_numpy(zero_copy_only=False)
    labelled = pc.is_valid(table["label"]).to_numpy(zero_copy_only=False)
    if not labelled.any():
        raise DataError(
            "No row of this source has a label, so there is nothing to score.",
            expected="labels: class folders, a label column, or a labels file",
            remedy="leave `evaluate` out of this recipe; the features are there all the same",
        )
    usable = labelled & ((split != "train") | (kept if protocol.train_rows == "kept" else True))
    keys = [np.asarray(table[name].to_pylist()) for name in ("box", "image_id")]
    order = np.lexsort((keys[0], keys[1]))
    labels = pc.fill_null(table["label"], -1).to_numpy(zero_copy_only=False).astype(np.int64)
    train = order[(usable & (split == "train"))[order]]
    test_split = "test" if (usable & (split == "test")).any() else "validation"
    test = order[(usable & (split == test_split))[order]]
    _check_rows(labels[train], len(test), sorted(set(split[labelled].tolist())))
    most = protocol.validation_rows
    count = None if most is None else min(most, len(train) // 2)
    return _divide(labels, train, test, test_split, protocol.validation, seed, count)


def split_arrays(labels: Labels, split: Sequence[str], validation: float, seed: int) -> Split:
    """The split of rows of which each is 'train' or 'test'; others are left out.

    Raises: DataError: one class only, no training or no test rows.
    """
    place = np.asarray(split)
    train, test = np.flatnonzero(place == "train"), np.flatnonzero(place == "test")
    _check_rows(labels[train], len(test), sorted(set(place.tolist())))
    return _divide(labels, train, test, "test", validation, seed)


def _divide(
    labels: Labels,
    train: Rows,
    test: Rows,
    test_split: str,
    validation: float,
    seed: int,
    count: int | None = None,
) -> Split:
    pool, held = hold_out(labels[train], validation, seed, count)
    rows = np.concatenate([train[pool], train[held], test])
    return Split(rows, labels[rows], len(pool), len(train), test_split)


def _check_rows(train_labels: Labels, test_rows: int, splits: list[str]) -> None:
    """Raises DataError for what cannot be evaluated."""
    there = f"the labelled rows are in the splits {', '.join(splits)}"
    if not len(train_labels) or not test_rows:
        raise DataError(
            f"There are {len(train_labels)} labelled training rows and {test_rows} labelled test "
            f"rows; {there}.",
            expected="both splits 'train' and 'test' (or 'validation' where there is no 'test')",
            remedy=(
                "give the source a test split, or let ingest cut one (`split.test` of the source)"
            ),
        )
    classes = np.unique(train_labels)
    if len(classes) < 2:
        raise DataError(
            f"All {len(train_labels)} labelled training rows are of one class ({classes[0]}).",
            expected="two classes or more",
            remedy="leave `evaluate` out of this recipe, or check the labels",
        )
