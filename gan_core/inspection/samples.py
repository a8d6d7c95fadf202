"""Samples of a trained generator, how different they are from each other, and their contrast."""

from __future__ import annotations

import torch
from pydantic import Field

from gan_core.config import Section
from gan_core.inspection.base import (
    Context,
    Images,
    Inspection,
    as_float,
    as_images,
    contrast_ratio,
    diversity,
    image_sheet,
)
from gan_core.networks.snapshot import Snapshot, generate, sample_latents
from gan_core.randomness import torch_stream

ABOUT = "a grid of samples, their diversity and contrast"
TITLE = "Samples"
VERSION = 1
ORDER = 10
COLLAPSED = 0.02  # diversity, as a share of the range, below which there is one image only (ours)
REAL = 1024  # training images whose diversity and contrast are compared


class Options(Section):
    """What is drawn."""

    count: int = Field(64, ge=1, description="images in the grid")


def inspect(context: Context, options: Options) -> Inspection:
    """The grid, with the diversity of samples and of as many training images."""
    images = draw_samples(context.snapshot, options.count, context.seed)
    spread = diversity(images)
    numbers = {
        "count": len(images),
        "diversity": round(spread, 6),
        "kimg": context.snapshot.meta.get("kimg"),
    }
    sentence = (
        f"{len(images)} samples; two of them differ by {100 * spread:.1f} % of the range of "
        "values, "
        "averaged over pixels and pairs"
    )
    if context.packs:
        real = context.training_images(REAL, "samples")
        ratio = contrast_ratio(as_float(images), as_float(real))
        spread_real = diversity(real)
        numbers |= {
            "diversity_real": round(spread_real, 6),
            "contrast_ratio": round(ratio, 4),
        }
        sentence += (
            f" (training images: {100 * spread_real:.1f} %). Their contrast is "
            f"{ratio:.2f} of that of training images"
        )
    warnings = []
    if spread < COLLAPSED:
        warnings.append(
            "The generator has not learned to draw yet, or has collapsed: its samples hardly "
            f"differ ({100 * spread:.1f} % of the value range)."
        )
    return Inspection(
        " ".join([f"{sentence}.", *warnings]),
        numbers,
        [image_sheet("samples", images, None)],
        warnings=warnings,
    )


def draw_samples(snapshot: Snapshot, count: int, seed: int) -> Images:
    """Images of the snapshot's best generator, uint8 [count, S, S, 3]: first from the latents of
    its training grids, then from fresh ones of the stream (seed, 'inspect', 'samples').
    """
    stored = snapshot.grid_latents[:count].cpu()
    fresh = sample_latents(
        snapshot.prior, count - len(stored), torch_stream(seed, "inspect", "samples")
    )
    return as_images(generate(snapshot, torch.cat([stored, fresh]) if len(stored) else fresh))
