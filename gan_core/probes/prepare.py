"""Preparation of features before a probe: signed square root and standardisation.

The papers' probes read features as they are; these are options of a probe (`prepare`), scored as
a probe of its own, next to the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gan_core.probes.base import Features, block_rows

Floats = npt.NDArray[np.float32]


def prepare(features: Features, steps: Sequence[str], train: int) -> Features:
    """Prepared features [rows, dims], of the type that was given.

    Args:
        steps: 'sqrt', sign(x) sqrt(|x|); 'standardise', (x - mean) / standard deviation, constant
            values to 0 (scikit-learn's StandardScaler). In this order.
        train: the first rows, over which means and deviations are taken. Their labels are not
            read, so they are the same for every draw.
    """
    for step in steps:
        change = signed_root if step == "sqrt" else _scaler(features[:train])
        out = np.empty_like(features)
        size = block_rows(features.shape[1])
        for start in range(0, len(features), size):
            out[start : start + size] = change(features[start : start + size].astype(np.float32))
        features = out
    return features


def signed_root(values: Floats) -> Floats:
    """sign(x) sqrt(|x|)."""
    rooted: Floats = np.sign(values) * np.sqrt(np.abs(values))
    return rooted


def _scaler(features: Features) -> Callable[[Floats], Floats]:
    """Standardisation by the means and standard deviations of some rows."""
    size = block_rows(features.shape[1])
    starts = range(0, len(features), size)
    mean = scale = np.zeros(features.shape[1])
    for start in starts:
        mean = mean + features[start : start + size].sum(0, dtype=np.float64) / len(features)
    for start in starts:
        apart = features[start : start + size] - mean
        scale = scale + np.square(apart).sum(0) / len(features)
    scale = np.sqrt(scale)
    constant = scale <= 10 * np.finfo(np.float64).eps * np.abs(mean)
    shift: Floats = mean.astype(np.float32)
    factor: Floats = np.where(constant, 1, scale).astype(np.float32)

    def standardised(values: Floats) -> Floats:
        changed: Floats = (values - shift) / factor
        return changed

    return standardised
