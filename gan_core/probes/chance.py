"""The reference below all others: always the most frequent class of the training labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gan_core.probes.base import Features, Labels, check_features

ABOUT = "always answers the most frequent training label: what a score must beat"
VERSION = 1
TITLE = "the most frequent label"
SETTING = ""
GRID: list[float] = [0.0]
REFERENCE = True  # scored once for each source, on any features


@dataclass
class MostFrequent:
    """Answers `answer` to any features."""

    value: float
    classes: Labels
    answer: int
    certificate: dict[str, float] = field(default_factory=dict)

    def predict(self, features: Features) -> Labels:
        """int64 [rows], all equal."""
        return np.full(len(features), self.answer, np.int64)


def fit(
    features: Features,
    labels: Labels,
    values: Sequence[float] = (0.0,),
    *,
    seed: int = 0,
    device: str = "cpu",
) -> list[MostFrequent]:
    """Counts the labels; of equally frequent classes the smallest is the answer. Ignores the
    features.
    """
    check_features(features, labels)
    classes, counts = np.unique(np.asarray(labels, np.int64), return_counts=True)
    return [MostFrequent(float(value), classes, int(classes[counts.argmax()])) for value in values]
