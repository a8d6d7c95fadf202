"""Pairs that agree at 32x32, compared again at full resolution: originals squashed to 96x96, detail
by detail and in colour.

At 32 px a page is its template: thirty invoices with different text agree at 0.95 and more, and two
flags of one layout agree in grey. Here the pair is laid over one another as found, and asked (1) in
what share of the places that hold details those details disagree, and (2) whether one image's
colours are the other's with a gain and an offset for each channel (brightness, contrast, white
balance), or one of the two is grey or toned.

The bounds were set on 60 room and 40 face photographs altered in 25 ways, drawn invoices, slides
and flags (docs/dedup/notes.md).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from gan_core.dedup.search import align

SIDE = 96
DISAGREE = 0.6  # correlation below which a place disagrees
# share of the places that may; duplicates have 0.03 at most (19 of 20 of each kind), other texts
# 0.08
# and more
MOST = 0.06
# ... and that may where all details together agree so well; other texts of one template reach 0.965
MORE, SAME = 0.1, 0.98
COLOUR = 0.88  # least correlation of a channel after blurring
OFF = 40.0  # levels that few (3 %) of a channel's values may be off after its gain and offset
GAINS = 3.0  # largest gain of a channel over the smallest
TONED = 0.02  # share of the variance of a grey or toned image that brightness does not explain
SURE = 0.9  # least correlation of all details where thumbnails agree too little to say anything
OVERLAP = 0.55  # least share of one of the images that the other covers there
BENT = 0.5  # largest departure of the map from the identity there
_FAINT = 6.0  # variance in levels squared below which a place holds no details
_FLOOR = 4.0
_LUMA = torch.tensor(align.LUMA)


def same_details(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], maps: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Whether pairs agree in details and colours.

    Args:
        first, second: uint8 [n, 96, 96, 3]; a mirror image already mirrored back.
        maps: float32 [n, 2, 3], what lays the second over the first (align), as found at 32x32.
    """
    with torch.inference_mode():
        a, b, found = (
            torch.from_numpy(np.ascontiguousarray(one)).float() for one in (first, second, maps)
        )
        grey_a, grey_b = a @ _LUMA, b @ _LUMA
        share, fit = _disagreeing(grey_a, grey_b, found)
        # What is in place already needs no better map.
        rough = torch.nonzero((share > 0) | (fit < 0.985))[:, 0]
        if len(rough):
            better = _refined(grey_a[rough], grey_b[rough], found[rough])
            new_share, new_fit = _disagreeing(grey_a[rough], grey_b[rough], better)
            improved = new_fit >= fit[rough]
            share[rough[improved]], found[rough[improved]] = (
                new_share[improved],
                better[improved],
            )
            fit[rough[improved]] = new_fit[improved]
        return np.asarray((_details(share, fit) & _colours(a, b, found)).numpy(), np.bool_)


def same_image(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], maps: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """As `same_details`, for pairs of which thumbnails suggest only how they lie: bool [n].

    Each image is laid over the other: of a padded one the padding must not count.
    """
    with torch.inference_mode():
        a, b, rough = (
            torch.from_numpy(np.ascontiguousarray(one)).float() for one in (first, second, maps)
        )
        found = _refined(a @ _LUMA, b @ _LUMA, rough)
        linear = (found[:, :, :2] - torch.eye(2)).abs().amax((1, 2))
        good = torch.zeros(len(a), dtype=torch.bool)
        for one, other, there in ((a, b, found), (b, a, _inverse(found))):
            share, fit = _disagreeing(one @ _LUMA, other @ _LUMA, there)
            _, mask = align.warp(other[..., 0], there)
            agree = _details(share, fit) & (fit >= SURE) & (mask.mean((1, 2)) >= OVERLAP)
            good |= agree & (linear <= BENT) & _colours(one, other, there)
        return np.asarray(good.numpy(), np.bool_)


def _details(share: Tensor, fit: Tensor) -> Tensor:
    """Whether details agree, from what `_disagreeing` gives: bool [n]."""
    return (share <= MOST) | ((share <= MORE) & (fit >= SAME))


def _inverse(maps: Tensor) -> Tensor:
    """The maps the other way round."""
    last = torch.tensor([0.0, 0.0, 1.0]).expand(len(maps), 1, 3)
    inverse: Tensor = torch.linalg.inv(torch.cat([maps, last], 1))
    return inverse[:, :2]


def same_colours(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], maps: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """As `same_details`, colours only: for images that have no more details than their thumbnails.
    uint8 [n, S, S, 3].
    """
    with torch.inference_mode():
        a, b, found = (
            torch.from_numpy(np.ascontiguousarray(one)).float() for one in (first, second, maps)
        )
        return np.asarray(_colours(a, b, found).numpy(), np.bool_)


def _refined(a: Tensor, b: Tensor, maps: Tensor) -> Tensor:
    """The maps refined at half the side, then at the whole."""
    half_a, half_b = (functional.avg_pool2d(one[:, None], 2)[:, 0] for one in (a, b))
    maps = align.refine(align.blur(half_a, 0.8), align.blur(half_b, 0.8), maps, 4, affine=True)
    return align.refine(align.blur(a, 0.8), align.blur(b, 0.8), maps, 3, affine=True)


def _disagreeing(a: Tensor, b: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the places with details where they disagree, and the correlation of all details;
    each [n].

    Places are squares of 16 pixels, 8 apart. Details are what lies between blurs of 0.8 and 4
    pixels; a common gain is removed.
    """
    seen, mask = align.warp(b, maps)
    fine_a, fine_b = (align.blur(one, 0.8) - align.blur(one, 4.0) for one in (a, seen))
    products = (fine_a * fine_a, fine_b * fine_b, fine_a * fine_b, torch.ones_like(a))
    side = a.shape[-1]
    aa, bb, ab, inside = (
        functional.avg_pool2d((one * mask)[:, None], side // 6, side // 12).flatten(1)
        for one in products
    )
    fit = ab.sum(1) / ((aa.sum(1) * bb.sum(1)).sqrt() + 1)
    gain = (bb.sum(1) / (aa.sum(1) + 1e-3)).sqrt().clamp(0.2, 5)[:, None]
    aa, bb = aa * gain, bb / gain
    correlation = (ab + _FLOOR) / ((aa + _FLOOR) * (bb + _FLOOR)).sqrt()
    energy = torch.maximum(aa, bb) / inside.clamp_min(0.01)
    counts = (inside > 0.5) & (energy > (0.05 * energy.mean(1, keepdim=True)).clamp_min(_FAINT))
    return ((correlation < DISAGREE) & counts).sum(1) / counts.sum(1).clamp_min(1), fit


def _colours(a: Tensor, b: Tensor, maps: Tensor) -> Tensor:
    """Whether colours agree up to a gain and an offset of each channel, or one image is grey or
    toned: bool [n].
    """
    sigma = 0.03 * a.shape[1]
    warped = [align.warp(b[..., channel], maps) for channel in range(3)]
    mask = warped[0][1].flatten(1)[:, None]
    weight = mask / mask.sum(2, keepdim=True).clamp_min(1)
    a = torch.stack([align.blur(a[..., channel], sigma) for channel in range(3)], 1).flatten(2)
    b = torch.stack([align.blur(seen, sigma) for seen, _ in warped], 1).flatten(2)
    a, b = a - (a * weight).sum(2, keepdim=True), b - (b * weight).sum(2, keepdim=True)
    aa, bb, ab = ((one * other * weight).sum(2) for one, other in ((a, a), (b, b), (a, b)))
    correlation = (ab + 9) / ((aa + 9) * (bb + 9)).sqrt()
    gain = (ab / (aa + 1e-3)).clamp_min(0)
    off = ((b - gain[:, :, None] * a).abs() * mask).amax(1).quantile(0.97, dim=1)
    varies = torch.maximum(aa, bb) > 100
    ratio = torch.where(varies, gain, 0.0).amax(1) / torch.where(varies, gain, torch.inf).amin(
        1
    ).clamp_min(1e-3)
    alike = (correlation.amin(1) >= COLOUR) & (off <= OFF) & (ratio <= GAINS)
    return alike | _toned(a, aa, weight) | _toned(b, bb, weight)


def _toned(channels: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
    """Whether an image is grey, or grey toned in one colour (sepia): every channel follows the
    brightness, none much less.
    """
    luma = (channels * _LUMA[:, None]).sum(1, keepdim=True)
    power = (luma * luma * weight).sum(2) + 1e-3
    gain = (channels * luma * weight).sum(2) / power
    rest = (variance - gain * gain * power).clamp_min(0).sum(1)
    blank = variance.sum(1) < 27
    return blank | ((rest / (variance.sum(1) + 27) < TONED) & (gain.amin(1) > 0.5))


def digest_of(image: npt.NDArray[np.uint8]) -> bytes:
    """16 bytes that two images of one size share when their pixels are equal."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
