"""A direction in latent space that turns an attribute up or down (DCGAN paper, section 6.3.2).

The authors averaged the latents of four faces that look left and of four that look right; adding
the difference of the means to other samples turns those. Here an attribute (`attributes.py`) says
which samples are at the two ends: the direction is the mean latent of those that have most of it
minus the mean latent of those that have least. Other samples are moved along it, and as far along
random directions as the baseline.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section, SegmenterConfig
from gan_core.inspection.attributes import Attribute, Scores, extremes, find
from gan_core.inspection.base import Context, Figure, Inspection, Table, as_images, image_sheet
from gan_core.inspection.segmenters import of_context
from gan_core.networks.snapshot import generate
from gan_core.randomness import torch_stream

ABOUT = "a latent direction between the extremes of an attribute, and walks along it"
TITLE = "Turn vector"
VERSION = 1
ORDER = 90
DEFAULT = False  # it needs an attribute
EXAMPLES = ({"samples": 64, "moved": 16},)

DIRECTIONS = 20  # random directions of the same length
ROWS, STEPS = 8, 9


class Options(Section):
    """Which attribute, and from how many samples its direction is taken."""

    attribute: str = Field(
        "balance",
        description="an image function, a class of the segmenter, or a rule such as pose>3",
    )
    segmenter: SegmenterConfig = SegmenterConfig()
    exemplars: int = Field(4, ge=1, description="samples at either end (paper: 4)")
    samples: int = Field(1000, ge=64, description="samples among which they are found")
    moved: int = Field(200, ge=16, description="other samples that are moved")


def inspect(context: Context, options: Options) -> Inspection:
    """How far the attribute follows the direction, against random directions; walks as images."""
    segmenter = None
    if options.segmenter != SegmenterConfig():
        segmenter = of_context(context, options.segmenter).after(context.match)
    attribute = find(context, options.attribute, segmenter)
    latents = context.latents(options.samples, "turn vector")
    images = generate(context.snapshot, latents)
    scores = attribute.scores(images)
    high, low = (list(rows) for rows in extremes(scores, options.exemplars))
    direction = latents[high].mean(0) - latents[low].mean(0)
    others = context.latents(options.moved, "turn vector moved")

    def moved_by(step: Tensor) -> Scores:
        """Scores of the other samples at -1/2 and +1/2 of a step: [2, moved]."""
        return np.stack(
            [
                attribute.scores(generate(context.snapshot, others + share * step))
                for share in (-0.5, 0.5)
            ]
        )

    deviation = max(float(scores.std()), 1e-12)
    ends = moved_by(direction)
    shift = float((ends[1] - ends[0]).mean()) / deviation
    follow = float((ends[1] > ends[0]).mean())
    random = torch_stream(context.seed, "inspect", "turn vector directions")
    drawn = torch.randn(DIRECTIONS, len(direction), generator=random)
    drawn = drawn / drawn.norm(dim=1, keepdim=True) * direction.norm()
    chance = []
    for step in drawn:
        first, last = moved_by(step)
        chance.append(abs(float((last - first).mean())) / deviation)
    works = shift > float(np.quantile(chance, 0.95))
    sentence = (
        f"Moving a sample along the direction of {attribute.name} by its length changes the "
        f"attribute by {shift:.2f} standard deviations of samples on average, and in the right "
        f"direction for {100 * follow:.0f} % of {options.moved} samples; random directions of the "
        f"same length change it by {np.mean(chance):.2f} (largest of {DIRECTIONS}: "
        f"{max(chance):.2f}). The direction "
        + ("turns the attribute." if works else "does no more than a random one.")
        + attribute.sentence()
    )
    numbers = {
        "attribute": attribute.name,
        "probe": attribute.quality,
        "shift": round(shift, 4),
        "follow": round(follow, 4),
        "random_mean": round(float(np.mean(chance)), 4),
        "random_largest": round(max(chance), 4),
        "length": round(float(direction.norm()), 4),
        "works": works,
    }
    walk, table = _walks(context, attribute, direction, others[:ROWS])
    exemplars = image_sheet(
        "turn_vector_ends",
        as_images(images[[*low, *high]]),
        options.exemplars,
        f"samples with least (above) and most {attribute.name}: the ends of the direction",
    )
    return Inspection(sentence, numbers, [walk, exemplars], [table])


def _walks(
    context: Context, attribute: Attribute, direction: Tensor, starts: Tensor
) -> tuple[Figure, Table]:
    """Samples moved against and along the direction, as images, and the mean of the attribute at
    each step.
    """
    shares = torch.linspace(-1, 1, STEPS)
    walk = starts[:, None] + shares[:, None] * direction
    images = generate(context.snapshot, walk.flatten(0, 1))
    means = attribute.scores(images).reshape(-1, STEPS).mean(0)
    columns = [f"{share:+.2f}" for share in shares.tolist()]
    figure = image_sheet(
        "turn_vector",
        as_images(images),
        STEPS,
        f"Each row is a sample in the middle, moved against (left) and along {attribute.name}",
    )
    return figure, Table(columns, [[f"{value:.3g}" for value in means]], f"mean {attribute.name}")
