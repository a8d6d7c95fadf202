"""Means with 95 % intervals: of an accuracy over draws of labels, and of the difference of two
accuracies on the same test images.

Two things make an accuracy uncertain: which labels were drawn, and which images happen to be in the
test set. Each gives an interval; their half-widths are combined as the root of the sum of squares
(the "square-and-add" of Zou and Donner 2008, Statistics in Medicine 27:1693), each side on its own,
so that the interval stays below 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Z = 1.959963984540054  # the 97.5 % point of the normal distribution


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, as shares (0 to 1; differences -1 to 1)."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the interval's width: the number after ±, where the mean is in the middle
        (`words.even`).
        """
        return (self.high - self.low) / 2

    def rounded(self, digits: int = 6) -> dict[str, float]:
        """As a mapping for JSON with `half`, rounded so that the last bits of a sum do not show."""
        values = {**asdict(self), "half": self.half}
        return {name: round(value, digits) for name, value in values.items()}


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share seen in `n` trials (Wilson 1927); (0, 1) for no trials."""
    if n <= 0:
        return 0.0, 1.0
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    spread = (
        Z / (1 + Z * Z / n) * math.sqrt(max(share * (1 - share), 0.0) / n + Z * Z / (4 * n * n))
    )
    return max(0.0, min(centre - spread, share)), min(1.0, max(centre + spread, share))


def spread_of_draws(values: Sequence[float]) -> float:
    """Half-width of the 95 % interval of the mean over draws (Student's t); 0 for a single draw,
    which says nothing of it.
    """
    n = len(values)
    if n < 2:
        return 0.0
    # Student's quantile; scipy.stats, which has it too, takes seconds to import
    return float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))


def accuracy_interval(draws: Sequence[float], test_rows: int) -> Interval:
    """Accuracy over draws of labels, all scored on the same `test_rows` images.

    Args:
        draws: accuracies, 0 to 1, one for each draw. Of a single one the spread over draws is not
            known: the interval is then that of the test images alone, and may well be narrower than
            that of two draws.
        test_rows: images behind each of them; 0 when not known: then only the draws count.
    """
    mean = float(np.mean(draws))
    across = spread_of_draws(draws)
    low, high = wilson(mean, test_rows) if test_rows else (mean, mean)
    return Interval(
        mean,
        max(0.0, mean - math.hypot(across, mean - low)),
        min(1.0, mean + math.hypot(across, high - mean)),
    )


def difference_interval(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> Interval:
    """Difference of two accuracies, paired by draw and by test image: what both get right or wrong
    cancels out.

    The images' part is the adjusted Wald interval of Agresti and Min (2005, Statistics in Medicine
    24:729): two images are added, spread evenly over the four outcomes, so that few or no
    disagreements do not pass for certainty.

    Args:
        ours, theirs: [draws, images], whether each prediction was right.
    """
    gap = ours.astype(np.float64) - theirs.astype(np.float64)
    mean = float(gap.mean())
    across = spread_of_draws(gap.mean(axis=1).tolist())
    each = gap.mean(axis=0)
    images = len(each) + 2
    centre = float(each.sum()) / images
    half = Z * math.sqrt(((float(np.square(each).sum()) + 1.0) / images - centre**2) / images)
    return Interval(
        mean,
        max(-1.0, mean - math.hypot(across, mean - (centre - half))),
        min(1.0, mean + math.hypot(across, centre + half - mean)),
    )


def unpaired_difference(ours: Interval, theirs: Interval) -> Interval:
    """Difference of two accuracies known only by their intervals (Zou and Donner 2008): wider than
    the paired one.
    """
    mean = ours.mean - theirs.mean
    return Interval(
        mean,
        mean - math.hypot(ours.mean - ours.low, theirs.high - theirs.mean),
        mean + math.hypot(ours.high - ours.mean, theirs.mean - theirs.low),
    )
