"""How much different images of one set agree anyway: what a threshold has to stay clear of.

Photographs that are no duplicates, aligned as well as they go, correlate 0.1 to 0.5 in their
details (CIFAR-10, Tiny ImageNet, faces, video frames). Handwritten digits of 8x8 pixels correlate
0.85 and are all different. So some images are drawn, compared with their nearest neighbours, and
the bulk of the scores is measured from its left side, where duplicates do not reach, however many
there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gan_core.dedup.search import neighbours
from gan_core.dedup.search.descriptors import Described, Fetch
from gan_core.dedup.search.verify_pairs import verify

Rows = npt.NDArray[np.int64]

SAMPLE = 300
NEIGHBOURS = 10
SPREADS = (
    5.0  # the threshold stays this many spreads of the bulk above its mode, on Fisher's z scale
)
_FEWEST = 100


class Background(NamedTuple):
    """The bulk of scores among neighbours.

    Attributes:
        mode: most frequent score.
        bound: score that the threshold must not fall below: `SPREADS` spreads above the mode. 0
            when there were too few scores.
        scores: number of scores seen.
        above: share of them at or above the threshold. Where most are, the set is made of bursts,
            or its images are of one template and agree although they are different: scores alone
            cannot tell.
    """

    mode: float
    bound: float
    scores: int
    above: float = 0.0


def background(fetch: Fetch, described: Described, rows: Rows, threshold: float) -> Background:
    """Measures the background on at most 300 of the given rows, evenly spaced."""
    usable = rows[~described.blank[rows]]
    chosen = (
        usable[np.unique(np.linspace(0, max(len(usable) - 1, 0), SAMPLE).round().astype(np.int64))]
        if len(usable)
        else usable
    )
    pairs = neighbours.nearest(
        described.edges, NEIGHBOURS, floor=-1.0, mirror=False, queries=chosen, targets=usable
    )
    scores = verify(fetch, described, pairs, gates=(-9.0, -9.0)).score
    return bulk(scores[scores > 0], threshold)


def bulk(scores: npt.NDArray[np.float32], threshold: float) -> Background:
    """Mode and bound of scores, from those below the threshold and left of the mode."""
    z = np.arctanh(np.clip(scores.astype(np.float64), 0, 0.9995))
    below = z[z < np.arctanh(min(threshold, 0.9995))]
    above = round(1 - len(below) / max(len(z), 1), 4) if len(z) else 0.0
    if len(below) < _FEWEST:
        return Background(0.0, 0.0, len(scores), above)
    counts, edges = np.histogram(below, np.arange(0, np.arctanh(0.9995) + 0.1, 0.1))
    smooth = np.convolve(counts, [1, 2, 1], "same")
    mode = float(edges[np.argmax(smooth)]) + 0.05
    spread = float(np.quantile(mode - below[below <= mode], 0.68)) if (below <= mode).any() else 0.0
    return Background(
        round(float(np.tanh(mode)), 4),
        round(float(np.tanh(mode + SPREADS * spread)), 4),
        len(scores),
        above,
    )
