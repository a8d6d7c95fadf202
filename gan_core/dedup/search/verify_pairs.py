"""Candidate pairs verified on pixels, in three rounds of growing cost, each on what the one before
let through.

1. 8x8 grey: best shift, one pixel each way.
2. 16x16 grey: shift and scale by Gauss-Newton, correlation of gradients.
3. 32x32 grey: full affine map, three correlations that look at details (`align.score_alignment`).

Brightness and contrast do not count (gain and offset are fitted), colour does not count: a
recoloured duplicate is a duplicate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gan_core.dedup.hashing.autoencoder import resize_to
from gan_core.dedup.search.descriptors import Described, Fetch, grey
from gan_core.dedup.search.neighbours import Candidates
from gan_core.progress import Progress, silent

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

# What a pair must reach to enter the next round. Of the pairs of CIFAR-10 that are accepted in the
# end the first gate stops
# 0.8 % and lets a fifth of the candidates through, the second stops 0.5 % and lets a tenth of those
# through.
GATE_SHIFT = 0.64  # mean of the descriptors' cosine and the 8x8 correlation
GATE_COARSE = 0.70  # correlation of gradients at 16x16
BENT, BENT_SLOPE = (
    0.05,
    0.3,
)  # deformation that asks for no more, and what a unit of it above that asks for


@dataclass(frozen=True)
class Verified:
    """Pairs with their score, in the order of the candidates that reached the last round.

    Attributes:
        i, j, mirrored: the pair.
        score: float32, 0 to 1: mean correlation of details after alignment; 0 when the map is out
            of bounds.
        shift: float32 pixels of 32; deformation: float32; detail: float32 (see align.Fit).
        maps: float32 [pairs, 2, 3], what lays j over i (align).
        passed: pairs after each round, the candidates first.
    """

    i: Rows
    j: Rows
    mirrored: npt.NDArray[np.bool_]
    score: Floats
    shift: Floats
    deformation: Floats
    detail: Floats
    maps: Floats
    passed: list[int]

    def select(self, rows: Rows) -> Verified:
        """The chosen pairs, in that order."""
        return Verified(
            self.i[rows],
            self.j[rows],
            self.mirrored[rows],
            self.score[rows],
            self.shift[rows],
            self.deformation[rows],
            self.detail[rows],
            self.maps[rows],
            self.passed,
        )

    def joined(self, other: Verified) -> Verified:
        """These pairs, then the other ones."""
        return Verified(
            np.concatenate([self.i, other.i]),
            np.concatenate([self.j, other.j]),
            np.concatenate([self.mirrored, other.mirrored]),
            np.concatenate([self.score, other.score]),
            np.concatenate([self.shift, other.shift]),
            np.concatenate([self.deformation, other.deformation]),
            np.concatenate([self.detail, other.detail]),
            np.concatenate([self.maps, other.maps]),
            [one + another for one, another in zip(self.passed, other.passed, strict=True)],
        )


def required(detail: Floats, deformation: Floats, threshold: float) -> Floats:
    """The score that a pair must reach: the threshold, and more where the map deforms and where few
    pixels carry edges.

    Two shots of one scene agree once one is bent over the other: what is bent by more than `BENT`
    must agree better, up to 0.95. (Chosen on verdicts by eye, with the recall of ciFAIR's pairs in
    sight: docs/dedup/notes.md.)

    Two aeroplanes of one type before an empty sky agree in all there is to see, once one is turned
    and stretched over the other. Below a share of `detail` of 0.5 the score asked for rises, the
    more the map deforms; at 0.25 a duplicate that is hardly deformed needs a third of the way from
    the threshold to 1, and a third of deformation is never accepted (0.99).
    """
    bent = np.minimum(
        threshold + BENT_SLOPE * np.clip(deformation - BENT, 0, None), max(0.95, threshold)
    )
    lacking = np.clip((0.5 - detail) / 0.25, 0, 1)
    raised = bent + (1 - bent) * lacking * (0.35 + 2.2 * deformation)
    return np.asarray(np.minimum(raised, max(0.99, threshold)), np.float32)


def verify(
    fetch: Fetch,
    described: Described,
    candidates: Candidates,
    progress: Progress = silent,
    block: int = 512,
    gates: tuple[float, float] = (GATE_SHIFT, GATE_COARSE),
) -> Verified:
    """Scores candidate pairs.

    Args:
        fetch: gives uint8 [n, S, S, 3] for row numbers.
        described: of all rows.
        gates: see GATE_SHIFT and GATE_COARSE; (-1, -1) sends every candidate to the last round.
    """
    import torch

    passed = [len(candidates.i)]
    parts: list[list[Any]] = []
    with torch.inference_mode():
        first = _first_gate(described, candidates, gates[0])
        passed.append(len(first))
        second, maps = _second_gate(described, candidates, first, gates[1], progress)
        passed.append(len(second))
        for chosen in _blocks(len(second), block):
            rows = second[chosen]
            fit, last = _last_round(fetch, candidates, rows, maps[chosen])
            parts.append(
                [one.numpy() for one in (fit.score, fit.shift, fit.deformation, fit.detail, last)]
            )
            progress(chosen.stop, len(second), "pairs verified")
    empty = [np.empty(0)] * 4 + [np.empty((0, 2, 3))]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else empty
    score, shift, deformation, detail, last_maps = (column.astype(np.float32) for column in columns)
    return Verified(
        candidates.i[second],
        candidates.j[second],
        candidates.mirrored[second],
        score,
        shift,
        deformation,
        detail,
        last_maps,
        passed,
    )


def _blocks(count: int, block: int) -> Iterator[slice]:
    for start in range(0, count, block):
        yield slice(start, min(start + block, count))


def _small(described: Described, candidates: Candidates, rows: Rows) -> tuple[Any, Any]:
    """16x16 images of pairs as float tensors, the first one mirrored where asked."""
    import torch

    left = described.small[candidates.i[rows]]
    flip = candidates.mirrored[rows]
    left[flip] = left[flip][:, :, ::-1]
    return torch.from_numpy(left).float(), torch.from_numpy(
        described.small[candidates.j[rows]]
    ).float()


def _first_gate(described: Described, candidates: Candidates, gate: float) -> Rows:
    import torch
    from torch.nn.functional import avg_pool2d

    from gan_core.dedup.search import align

    out = []
    everything = np.arange(len(candidates.i))
    for chosen in _blocks(len(everything), 8192):
        rows = everything[chosen]
        left, right = (
            avg_pool2d(one[:, None], 2)[:, 0] for one in _small(described, candidates, rows)
        )
        value, _ = align.best_shift(left, right, 1)
        mean = (value + torch.from_numpy(candidates.similarity[rows])) / 2
        out.append(rows[mean.numpy() >= gate])
    return np.concatenate(out) if out else everything


def _second_gate(
    described: Described, candidates: Candidates, rows: Rows, gate: float, progress: Progress
) -> tuple[Rows, Any]:
    import torch

    from gan_core.dedup.search import align

    kept, maps = [], [torch.empty(0, 2, 3)]
    for chosen in _blocks(len(rows), 2048):
        left, right = _small(described, candidates, rows[chosen])
        _, start = align.best_shift(left, right, 2)
        found = align.refine(align.blur(left, 0.6), align.blur(right, 0.6), start, 5, affine=False)
        scores = torch.stack([_coarse(left, right, found), _coarse(left, right, start)])
        better = (scores[0] >= scores[1])[:, None, None]
        good = scores.amax(0) >= gate
        kept.append(rows[chosen][good.numpy()])
        maps.append(torch.where(better, found, start)[good])
        progress(chosen.stop, len(rows), "pairs aligned coarsely")
    return np.concatenate(kept) if kept else rows, torch.cat(maps)


def _coarse(left: Any, right: Any, maps: Any) -> Any:
    """Correlation of gradients at 16x16; -1 for a map far out of bounds."""
    import torch

    from gan_core.dedup.search import align

    seen, mask = align.warp(right, maps)
    ax, ay = align.gradients(left)
    bx, by = align.gradients(seen)
    power = ((ax**2 + ay**2) * mask).sum((1, 2)) * ((bx**2 + by**2) * mask).sum((1, 2))
    value = ((ax * bx + ay * by) * mask).sum((1, 2)) / power.clamp_min(1).sqrt()
    linear = (maps[:, :, :2] - torch.eye(2)).abs().amax((1, 2))
    allowed = torch.isfinite(value) & (linear < 0.6) & (mask.mean((1, 2)) > 0.4)
    return torch.where(allowed, value, torch.full_like(value, -1.0))


def _last_round(fetch: Fetch, candidates: Candidates, rows: Rows, start: Any) -> tuple[Any, Any]:
    """The fit at 32x32 of candidates, the first image mirrored where asked, and its map."""
    left, right = (resize_to(fetch(side[rows])) for side in (candidates.i, candidates.j))
    flip = candidates.mirrored[rows]
    left[flip] = left[flip][:, :, ::-1]
    return _fit(left, right, start)


def _fit(left: Pixels, right: Pixels, start: Any) -> tuple[Any, Any]:
    """The fit of uint8 [n, 32, 32, 3], of the refined map or of the one that came in, whichever is
    better, and that map.
    """
    import torch

    from gan_core.dedup.search import align

    a, b = (torch.from_numpy(grey(side)).float() for side in (left, right))
    refined = align.refine(align.blur(a, 0.6), align.blur(b, 0.6), start, 6, affine=True)
    fits = [align.score_alignment(a, b, maps) for maps in (refined, start)]
    better = fits[0].score >= fits[1].score
    fit = align.Fit(*(torch.where(better, one, other) for one, other in zip(*fits, strict=True)))
    return fit, torch.where(better[:, None, None], refined, start)


def score_either_way(left: Pixels, right: Pixels, maps: Floats) -> Floats:
    """The better score of pairs laid over one another in both directions: float32 [n], 0 to 1.

    Args:
        left, right: uint8 [n, 32, 32, 3]; a mirror image already mirrored back.
        maps: float32 [n, 2, 3], how the right one lies over the left one, roughly.
    """
    import torch

    whole = np.tile(np.eye(3, dtype=np.float32), (len(maps), 1, 1))
    whole[:, :2] = maps
    there, back = (torch.from_numpy(one[:, :2]) for one in (whole, np.linalg.inv(whole)))
    with torch.inference_mode():
        scores = [_fit(left, right, there)[0].score, _fit(right, left, back)[0].score]
        return np.asarray(torch.maximum(*scores).numpy(), np.float32)
