"""Latent walks: images on the way from one latent to another, and how evenly they change.

DCGAN paper, section 6.1: if walking in latent space changes the images smoothly, the generator has
learned something; sharp transitions would be a sign of memorisation. The paper walks in straight
lines between a series of random points of a uniform prior. Under a normal prior straight lines pass
through latents that are hardly ever drawn (their length is too small), so the walk goes along the
great circle there (slerp; White 2016, arXiv:1609.04468).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.inspection.base import Context, Inspection, as_images, diversity, image_sheet
from gan_core.networks.snapshot import Prior, Snapshot, sample_latents
from gan_core.randomness import torch_stream

ABOUT = "interpolation between random latents, and how evenly the images change"
TITLE = "Latent walks"
VERSION = 1
ORDER = 20
EXAMPLES = ({"rows": 2, "steps": 3},)
SHARP = 3.0  # a step this many times its row's mean is called a sharp transition (ours)


class Options(Section):
    """What is drawn."""

    rows: int = Field(
        8, ge=1, description="rows; each ends where the next begins (paper: 9 points)"
    )
    steps: int = Field(9, ge=2, description="images in a row")


def inspect(context: Context, options: Options) -> Inspection:
    """Rows of interpolation with the largest step measured: straight lines under a uniform prior,
    great circles under a normal one.
    """
    walk = draw_walk(context.snapshot, options.rows, options.steps, context.seed)
    normal = context.snapshot.prior.distribution == "normal"
    numbers = {
        **walk_numbers(walk),
        "path": "great circle" if normal else "straight line",
        "prior": context.snapshot.prior.distribution,
    }
    caption = "Each row goes from one latent to the next and ends where the next row begins."
    figure = image_sheet("walk", walk, options.steps, caption)
    return Inspection(walk_sentence(numbers), numbers, [figure])


def walk_sentence(numbers: dict[str, Any]) -> str:
    """What the interpolation's numbers say."""
    ratio, row = numbers["largest_jump_ratio"], numbers["largest_jump_row"] + 1
    text = (
        f"From one image to the next a pixel changes by {100 * numbers['mean_step']:.1f} % of its "
        f"range on average; the largest step is {100 * numbers['largest_jump']:.1f} %, {ratio:.1f} "
        f"times the mean of its row (row {row})."
    )
    if numbers["diversity"] < 0.02:
        return text + " The ends of the rows hardly differ: the generator gives nearly one image."
    sharp = "That row has a sharp transition." if ratio > SHARP else "No transition is sharp."
    return f"{text} {sharp}"


def linear(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Straight line. Args: start, end: [..., dim]; share: [...], 0 to 1. Returns: [..., dim]."""
    return start + (end - start) * share[..., None]


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Along the great circle; lengths go evenly from one to the other. Nearly parallel (or
    opposite) ends fall back to the line.

    Args: start, end: [..., dim]; share: [...], 0 to 1. Returns: [..., dim].
    """

    lengths = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    first, last = (
        vector / length.clamp(min=1e-12)
        for vector, length in zip((start, end), lengths, strict=True)
    )
    angle = torch.arccos((first * last).sum(-1, keepdim=True).clamp(-1, 1))
    sine = torch.sin(angle)
    part = share[..., None]
    direction = (
        torch.sin((1 - part) * angle) * first + torch.sin(part * angle) * last
    ) / sine.clamp(min=1e-6)
    curved = direction * (lengths[0] + (lengths[1] - lengths[0]) * part)
    return torch.where(sine > 1e-4, curved, linear(start, end, share))


def walk_latents(prior: Prior, rows: int, steps: int, seed: int) -> Tensor:
    """Latents [rows, steps, dim] of a walk through a series of rows + 1 random points: each row
    ends where the next begins.

    Args: seed: fixes the points (stream 'inspect', 'walk').
    """
    stops = sample_latents(prior, rows + 1, torch_stream(seed, "inspect", "walk"))
    start = stops[:-1, None].expand(-1, steps, -1)
    end = stops[1:, None].expand(-1, steps, -1)
    share = torch.linspace(0, 1, steps).expand(rows, -1)
    return slerp(start, end, share) if prior.distribution == "normal" else linear(start, end, share)


def draw_walk(snapshot: Snapshot, rows: int, steps: int, seed: int) -> npt.NDArray[np.uint8]:
    """Images along a walk, uint8 [rows, steps, S, S, 3]. A conditional generator keeps one class
    along a row.
    """
    from gan_core.networks.snapshot import generate, grid_labels

    latents = walk_latents(snapshot.prior, rows, steps, seed)
    labels = grid_labels(snapshot.prior, rows)
    each = None if labels is None else labels.repeat_interleave(steps)
    images = as_images(generate(snapshot, latents.reshape(rows * steps, -1), labels=each))
    return images.reshape(rows, steps, *images.shape[1:])


def walk_numbers(images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """How evenly the images of a walk change. All values but the ratios are shares of the value
    range.

    Args: images: uint8 [rows, steps, S, S, 3].
    Returns: rows, steps; per row `steps_mean` (mean absolute change from an image to the next),
        `steps_largest`, `ratio` (largest over mean) and `ends` (change from first to last); over
        all `mean_step`, `largest_jump`, `largest_jump_row`, `largest_jump_ratio` (the largest ratio
        and its row), `sharp` (rows whose ratio is above 3) and `diversity` (mean difference between
        the rows' first images, all pairs).
    """

    values = images.astype(np.int16).reshape(*images.shape[:2], -1)
    change = np.abs(np.diff(values, axis=1)).mean(axis=2) / 255  # [rows, steps - 1]
    mean, largest = change.mean(axis=1), change.max(axis=1)
    ratio = np.divide(largest, mean, out=np.ones_like(mean), where=mean > 0)
    ends = np.abs(values[:, -1] - values[:, 0]).mean(axis=1) / 255
    worst = int(ratio.argmax())
    return {
        "rows": int(images.shape[0]),
        "steps": int(images.shape[1]),
        "per_row": {
            "steps_mean": _rounded(mean),
            "steps_largest": _rounded(largest),
            "ratio": _rounded(ratio),
            "ends": _rounded(ends),
        },
        "mean_step": round(float(change.mean()), 6),
        "largest_jump": round(float(largest[worst]), 6),
        "largest_jump_row": worst,
        "largest_jump_ratio": round(float(ratio[worst]), 6),
        "sharp": int((ratio > SHARP).sum()),
        "diversity": round(diversity(images[:, 0]), 6),
    }


def _rounded(values: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 6) for value in values]
