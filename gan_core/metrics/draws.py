"""Which labels a probe may see: the validation split, draws of labels, and the test split that is
read once.

Everything here depends on the images' ids, their labels in the training split, and the seed: not on
the features, not on the probe. Features and probes of one source are therefore compared on the same
draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gan_core.errors import DataError
from gan_core.randomness import numpy_stream

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """One draw of labels. `rows` are positions in the pool, ascending; `labels` is '10', '100' or
    'all'.
    """

    labels: str
    number: int
    rows: Rows


def hold_out(
    labels: npt.NDArray[np.int64], share: float, seed: int, count: int | None = None
) -> tuple[Rows, Rows]:
    """(pool, validation): positions of the training rows, divided within each class by a seeded
    order.

    Args:
        labels: of the training rows in canonical order (by image id and box).
        share: of each class for validation, rounded, at least one row where the class has two or
            more.
        count: rows for validation in all instead of a share, shared out by the classes' sizes.

    Raises: DataError when nothing is left on either side.
    """
    wanted = share if count is None else min(0.9, count / max(len(labels), 1))
    held: list[Rows] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        take = min(max(1, round(wanted * len(rows))), len(rows) - 1)
        held.append(numpy_stream(seed, "validation", int(label)).permutation(rows)[:take])
    validation = np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)
    pool = np.setdiff1d(np.arange(len(labels)), validation)
    if not len(validation) or not len(pool):
        raise DataError(
            f"{len(labels)} labelled training rows are too few to hold a validation split out.",
            expected="two labelled training rows of some class",
            remedy="label more images of the train split, or leave out the evaluation",
        )
    return pool.astype(np.int64), validation.astype(np.int64)


def draws_of(
    labels: npt.NDArray[np.int64],
    wanted: Sequence[int | str],
    draws: int,
    seed: int,
    stream: str = "draw",
) -> tuple[list[Draw], list[str]]:
    """Class-balanced draws at each number of labels per class, and what a person should know of
    them.

    A class with fewer rows than asked for gives all it has. A number that no class exceeds would be
    'all' under another name and is left out, with a sentence.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    made: list[Draw] = []
    warnings: list[str] = []
    for number in wanted:
        if isinstance(number, str):
            made.append(Draw("all", 0, np.arange(len(labels))))
            continue
        short = {int(c): int(n) for c, n in zip(classes, sizes, strict=True) if n < number}
        few = ", ".join(f"class {c} has {n}" for c, n in list(short.items())[:5]) + (
            ", ..." if len(short) > 5 else ""
        )
        if int(sizes.max()) <= number:
            same = ", it would be the same as all labels" if "all" in wanted else ""
            warnings.append(
                f"{number} labels per class were asked for and no class has more than "
                f"{int(sizes.max())} outside the validation split: left out{same}."
            )
            continue
        if short:
            warnings.append(
                f"{number} labels per class were asked for; {few} outside the validation split "
                "and give all of them."
            )
        for draw in range(draws):
            random = numpy_stream(seed, stream, number, draw)
            parts = [
                random.permutation(np.flatnonzero(labels == label))[:number] for label in classes
            ]
            made.append(Draw(str(number), draw, np.sort(np.concatenate(parts))))
    if not made:
        # Nothing that was asked for can be drawn: what is there is still worth a score.
        warnings.append("All labels are used instead.")
        made.append(Draw("all", 0, np.arange(len(labels))))
    return made, warnings


def best(values: Sequence[float], accuracies: npt.NDArray[np.float64]) -> int:
    """Index of the chosen value: the highest mean validation accuracy, of equals the smallest
    value.

    Args: accuracies: [values] or [draws, values].
    """
    means = np.atleast_2d(accuracies).mean(axis=0)
    order = np.argsort(np.asarray(values), kind="stable")
    return int(order[np.argmax(np.round(means[order], 9))])
