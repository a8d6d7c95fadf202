"""Lays one small image over another as well as it goes, and says how well that is.

Shift by trying, then shift, scale and a little rotation and shear by Gauss-Newton with gain and
offset of the brightness fitted along (Lucas and Kanade 1981 in the compositional form of Baker and
Matthews, IJCV 2004), many pairs at once. Affine maps are [n, 2, 3] in coordinates of -1 to 1 and
take a place in the first image to one in the second.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)


@cache
def _blur_matrix(side: int, sigma: float) -> Tensor:
    """Gaussian blur of one axis as a matrix, borders repeated: [side, side]."""
    reach = max(1, round(2.5 * sigma + 0.5))
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(offsets.double() ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for place in range(side):
        for offset, weight in zip(offsets.tolist(), weights.tolist(), strict=True):
            matrix[place, min(max(place + offset, 0), side - 1)] += weight
    return matrix.float()


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [n, side, side]. Two small products beat a convolution fivefold on a CPU."""
    matrix = _blur_matrix(images.shape[-1], sigma)
    return matrix @ (images @ matrix.t())


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y of [n, side, side], borders repeated."""
    padded = functional.pad(images[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (
        padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    ) / 2


@cache
def _places(side: int) -> tuple[Tensor, Tensor]:
    """x and y of every pixel's centre in -1 to 1: each [side * side]."""
    centre = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return x.reshape(-1), y.reshape(-1)


def warp(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """The second images seen from the first: [n, side, side] by affine maps, and a mask of the
    places that lie inside.
    """
    side = images.shape[-1]
    x, y = _places(side)
    gx = maps[:, 0, 0, None] * x + maps[:, 0, 1, None] * y + maps[:, 0, 2, None]
    gy = maps[:, 1, 0, None] * x + maps[:, 1, 1, None] * y + maps[:, 1, 2, None]
    grid = torch.stack([gx, gy], -1).view(-1, side, side, 2)
    edge = 1 - 1 / side + 1e-4
    mask = ((gx.abs() <= edge) & (gy.abs() <= edge)).float().view(-1, side, side)
    seen = functional.grid_sample(
        images[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return seen[:, 0], mask


def best_shift(first: Tensor, second: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """The whole-pixel shift, at most `reach`, with the highest correlation over the overlap.

    Returns:
        correlation [n], -1 to 1, and the maps [n, 2, 3] of that shift.
    """
    count, side, _ = first.shape
    best = torch.full((count,), -2.0)
    shift = torch.zeros(count, 2)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            y0, y1, x0, x1 = max(0, -dy), side - max(0, dy), max(0, -dx), side - max(0, dx)
            left = first[:, y0:y1, x0:x1].reshape(count, -1)
            right = second[:, y0 + dy : y1 + dy, x0 + dx : x1 + dx].reshape(count, -1)
            left = left - left.mean(1, keepdim=True)
            right = right - right.mean(1, keepdim=True)
            power = torch.linalg.vector_norm(left, dim=1) * torch.linalg.vector_norm(right, dim=1)
            value = (left * right).sum(1) / power.clamp_min(1e-3)
            better = value > best
            best = torch.where(better, value, best)
            shift[better] = torch.tensor([dx, dy], dtype=torch.float32)
    maps = torch.eye(2, 3).repeat(count, 1, 1)
    maps[:, :, 2] = shift * 2 / side
    return best, maps


def refine(first: Tensor, second: Tensor, maps: Tensor, steps: int, *, affine: bool) -> Tensor:
    """Improves the maps by `steps` steps of Gauss-Newton.

    The warped second image is regressed on the first one, a constant, and the first one's change
    under each parameter:
    gain, offset and step of the map come out of one least-squares problem.

    Args:
        first, second: float32 [n, side, side].
        affine: six parameters; else four (shift, and a scale for each axis).
    """
    count, side, _ = first.shape
    x, y = _places(side)
    gx, gy = (part.reshape(count, -1) * (side / 2) for part in gradients(first))
    flat = first.reshape(count, -1)
    columns = [flat, torch.ones_like(flat), gx, gy, gx * x, gy * y]
    if affine:
        columns += [gx * y, gy * x]
    design = torch.stack(columns, 1)
    for _ in range(steps):
        seen, mask = warp(second, maps)
        weighted = design * mask.reshape(count, 1, -1)
        normal = weighted @ design.transpose(1, 2)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        normal = normal + torch.diag_embed(diagonal * 1e-3 + 1e-3)
        solution = torch.linalg.solve(normal, weighted @ seen.reshape(count, -1, 1))[..., 0]
        change = solution[:, 2:] / solution[:, :1].clamp_min(0.2)
        step = torch.eye(3).repeat(count, 1, 1)
        step[:, :2, 2] = change[:, :2].clamp(-0.2, 0.2)
        growth = change[:, 2:].clamp(-0.15, 0.15)
        step[:, 0, 0] += growth[:, 0]
        step[:, 1, 1] += growth[:, 1]
        if affine:
            step[:, 0, 1] = growth[:, 2]
            step[:, 1, 0] = growth[:, 3]
        whole = torch.cat([maps, torch.tensor([0.0, 0.0, 1.0]).repeat(count, 1, 1)], 1)
        # seen(p) = second(map p) looks like first(step p), so second(map step^-1 p) looks like
        # first(p).
        maps = (whole @ torch.linalg.inv(step))[:, :2]
    return maps


def _correlation(first: Tensor, second: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Correlation over the mask; `floor` is a variance in levels squared under which agreement
    counts little.
    """
    weight = mask / mask.sum((1, 2), keepdim=True).clamp_min(1)
    left = first - (first * weight).sum((1, 2), keepdim=True)
    right = second - (second * weight).sum((1, 2), keepdim=True)
    power = ((left**2 * weight).sum((1, 2)) + floor) * ((right**2 * weight).sum((1, 2)) + floor)
    return (left * right * weight).sum((1, 2)) / power.sqrt()


class Fit(NamedTuple):
    """How well pairs agree after alignment; each [n], correlations -1 to 1.

    Attributes:
        score: mean of the three that follow, for a pair that is in place already also what `soft`
            is worth; 0 where the map is out of bounds.
        fine: correlation of the grey images minus their blurred selves: details, not the large
            light and dark.
        edges: correlation of the gradients.
        texture: correlation of the gradients with their length rooted, so that faint edges count
            too.
        plain: correlation of the grey images themselves.
        overlap: share of the first image that the second covers.
        deformation: largest departure of the map's linear part from the identity.
        shift: pixels.
        detail: share of the pixels that carry edges: low for a silhouette before the sky.
        soft: correlation of the gradients of the blurred images.
    """

    score: Tensor
    fine: Tensor
    edges: Tensor
    texture: Tensor
    plain: Tensor
    overlap: Tensor
    deformation: Tensor
    shift: Tensor
    detail: Tensor
    soft: Tensor


def score_alignment(
    first: Tensor, second: Tensor, maps: Tensor, *, overlap: float = 0.5, deformation: float = 0.35
) -> Fit:
    """Scores pairs under given maps.

    Args:
        first, second: float32 [n, side, side] grey levels 0 to 255.
        overlap, deformation: bounds; a map beyond them makes two images of anything alike.
    """
    seen, mask = warp(second, maps)
    fine = _correlation(first - blur(first, 2.0), seen - blur(seen, 2.0), mask, 1.0)
    ax, ay = gradients(blur(first, 0.5))
    bx, by = gradients(blur(seen, 0.5))
    a2, b2 = (ax**2 + ay**2) * mask, (bx**2 + by**2) * mask
    edges = ((ax * bx + ay * by) * mask).sum((1, 2)) / (a2.sum((1, 2)) * b2.sum((1, 2))).clamp_min(
        1
    ).sqrt()
    ra, rb = (a2 + 4) ** -0.25, (b2 + 4) ** -0.25
    power = (a2 * ra**2).sum((1, 2)) * (b2 * rb**2).sum((1, 2))
    texture = ((ax * bx + ay * by) * ra * rb * mask).sum((1, 2)) / power.clamp_min(1).sqrt()
    cx, cy = gradients(blur(first, 1.2))
    dx, dy = gradients(blur(seen, 1.2))
    power = ((cx**2 + cy**2) * mask).sum((1, 2)) * ((dx**2 + dy**2) * mask).sum((1, 2))
    soft = ((cx * dx + cy * dy) * mask).sum((1, 2)) / power.clamp_min(1).sqrt()
    strong = a2 > 0.02 * a2.amax((1, 2), keepdim=True)
    linear = maps[:, :, :2] - torch.eye(2)
    fit = Fit(
        score=(fine + edges + texture) / 3,
        fine=fine,
        edges=edges,
        texture=texture,
        plain=_correlation(first, seen, mask, 1.0),
        overlap=mask.mean((1, 2)),
        deformation=linear.abs().amax((1, 2)),
        shift=torch.linalg.vector_norm(maps[:, :, 2], dim=1) * (first.shape[-1] / 2),
        detail=(strong.float() * mask).sum((1, 2)) / mask.sum((1, 2)).clamp_min(1),
        soft=soft,
    )
    # A duplicate that lost its details (strong JPEG, made smaller and large again) agrees in what
    # is
    # left, and lies where it lay:
    # without a map to fit, 0.96 of the blurred gradients is as sure as 0.9 of the details with one.
    in_place = (fit.deformation < 0.04) & (fit.shift < 0.5)
    kept = torch.where(in_place, 1 - 2.5 * (1 - soft), torch.zeros_like(soft))
    fit = fit._replace(score=torch.maximum(fit.score, kept))
    allowed = (
        (fit.overlap >= overlap) & (fit.deformation <= deformation) & torch.isfinite(fit.score)
    )
    return fit._replace(score=torch.where(allowed, fit.score, torch.zeros_like(fit.score)))
