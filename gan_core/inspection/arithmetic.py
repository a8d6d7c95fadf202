"""Vector arithmetic on latents with measured concepts: mean(A) - mean(B) + mean(C).

DCGAN paper, section 6.3.2 and figure 7: the sum is unstable on single samples and works on means of
three exemplars of each concept; it is shown with 8 neighbours made by uniform noise of +-0.25; the
same sum of pixels only overlays the images. The authors chose exemplars by eye. Here two attributes
are measured (`attributes.py`), high or low against the median of samples, or present or absent:

    A = (high, high)    B = (high, low)    C = (low, low)    wanted: (low, high)

Each draw takes exemplars of A, B and C among the samples that are furthest inside their cell. The
share of sums with both attributes as wanted is compared between means of three, single exemplars,
the sum of pixels, and means of three with B and C drawn from all samples (shuffled).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section, SegmenterConfig
from gan_core.inspection.attributes import find
from gan_core.inspection.base import (
    Context,
    Figure,
    Inspection,
    NotApplicable,
    Table,
    as_images,
    image_sheet,
)
from gan_core.inspection.segmenters import of_context
from gan_core.metrics.intervals import wilson
from gan_core.networks.snapshot import generate
from gan_core.randomness import numpy_stream, torch_stream

ABOUT = "vector arithmetic on latents with two measured attributes, against four baselines"
TITLE = "Vector arithmetic"
VERSION = 1
ORDER = 50
EXAMPLES = ({"samples": 256, "draws": 2},)
EXEMPLARS, NEIGHBOURS, NOISE = 3, 8, 0.25  # DCGAN paper, figure 7
CERTAIN = 30  # samples furthest inside a cell, of which exemplars are drawn
Scores = npt.NDArray[np.float64]


class Options(Section):
    """Which attributes, and how often."""

    attributes: list[str] = Field(
        default=["width", "slant"],
        min_length=2,
        max_length=2,
        description="two of: an image function, a class of the segmenter, a rule such as smile=1",
    )
    segmenter: SegmenterConfig = SegmenterConfig()
    samples: int = Field(2048, ge=64, description="samples among which exemplars are found")
    draws: int = Field(200, ge=1)


def inspect(context: Context, options: Options) -> Inspection:
    """The shares over many draws, and one draw as images."""
    segmenter = None
    if options.segmenter != SegmenterConfig():
        segmenter = of_context(context, options.segmenter).after(context.match)
    functions = [find(context, name, segmenter) for name in options.attributes]
    latents = context.latents(options.samples, "arithmetic")
    images = generate(context.snapshot, latents)
    scores = np.stack([function.scores(images) for function in functions], 1)
    middle = np.array(
        [
            np.median(column) if function.threshold is None else function.threshold
            for function, column in zip(functions, scores.T, strict=True)
        ]
    )
    random = numpy_stream(context.seed, "inspect", "arithmetic draws")
    exemplars = _draw_exemplars(scores, middle, options.draws, random)
    anywhere = random.integers(0, len(latents), (options.draws, 2, EXEMPLARS))
    shuffled = np.concatenate([exemplars[:, :1], anywhere], 1)

    def reached(sums: Tensor) -> int:
        found = np.stack([function.scores(sums) for function in functions], 1)
        return int(((found[:, 0] < middle[0]) & (found[:, 1] > middle[1])).sum())

    variants = {
        "means of three": generate(context.snapshot, add(latents, exemplars)),
        "single exemplars": generate(context.snapshot, add(latents, exemplars[:, :, :1])),
        "sum of pixels": add(images, exemplars).clamp(-1, 1),
        "B and C shuffled": generate(context.snapshot, add(latents, shuffled)),
        "samples": images,
    }
    found = {name: _share(reached(sums), len(sums)) for name, sums in variants.items()}
    means, lone, other = (
        found[name] for name in ("means of three", "single exemplars", "B and C shuffled")
    )
    holds = means["low"] > max(other["high"], found["samples"]["high"])
    steadier = means["share"] > lone["share"]
    names = " and ".join(options.attributes)
    sentence = (
        f"Arithmetic with {names} {'holds' if holds else 'does not hold'} for this generator: "
        f"{100 * means['share']:.0f} % of the means of three reach what is wanted (single "
        f"exemplars {100 * lone['share']:.0f} %, B and C shuffled {100 * other['share']:.0f} %, "
        f"any sample {100 * found['samples']['share']:.0f} %)"
        + ("." if steadier else "; means are no better than single exemplars.")
        + "".join(function.sentence() for function in functions)
    )
    numbers = {"attributes": options.attributes, "draws": options.draws, "shares": found}
    numbers["probes"] = {one.name: one.quality for one in functions if one.quality}
    rows = [
        [name, f"{100 * one['share']:.1f} %", f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"]
        for name, one in found.items()
    ]
    table = Table(["sum", "as wanted", "95 % interval"], rows)
    return Inspection(sentence, numbers, _figures(context, latents, images, exemplars[0]), [table])


def _draw_exemplars(
    scores: Scores, middle: Scores, draws: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Numbers of samples that show A, B and C: [draws, 3, EXEMPLARS].

    Raises: NotApplicable: there are too few of one of them.
    """
    cells = [furthest(scores, middle, high) for high in ((1, 1), (1, 0), (0, 0))]
    if min(len(cell) for cell in cells) < EXEMPLARS:
        raise NotApplicable(
            f"Of {len(scores)} samples fewer than {EXEMPLARS} are exemplars of A, B or C "
            f"({', '.join(str(len(cell)) for cell in cells)}): choose other attributes."
        )
    return np.stack(
        [np.stack([random.permutation(cell)[:EXEMPLARS] for cell in cells]) for _ in range(draws)]
    )


def furthest(scores: Scores, middle: Scores, high: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Rows furthest inside a cell: int64 [at most CERTAIN], furthest first.

    Args: scores: [n, 2]. high: for each attribute 1 for above `middle`, 0 for below. Distances are
        ranks, so that both attributes count alike.
    """
    ranks = scores.argsort(0).argsort(0) / max(1, len(scores) - 1)
    sides = np.where(np.array(high) == 1, 1 - ranks, ranks)
    above = np.asarray(scores > middle, np.bool_)
    inside = (above == np.array(high, np.bool_)).all(1)
    order = np.argsort(sides.max(1), kind="stable")
    found: npt.NDArray[np.int64] = order[inside[order]][:CERTAIN]
    return found


def add(values: Tensor, exemplars: npt.NDArray[np.int64]) -> Tensor:
    """mean(A) - mean(B) + mean(C) of rows of `values` for each draw.

    Args: values: [n, ...]. exemplars: int64 [draws, 3, k]. Returns: [draws, ...].
    """
    means = values[torch.from_numpy(exemplars)].mean(2)
    return means[:, 0] - means[:, 1] + means[:, 2]


def combine(a: Tensor, b: Tensor, c: Tensor, *, seed: int = 0) -> Tensor:
    """Latents [9, dim]: the sum of the means first, then its neighbours with uniform noise."""
    middle = a.mean(0) - b.mean(0) + c.mean(0)
    random = torch_stream(seed, "inspect", "arithmetic")
    around = (torch.rand(NEIGHBOURS, len(middle), generator=random) * 2 - 1) * NOISE
    return torch.cat([middle[None], middle + around.to(middle)])


def _share(count: int, of: int) -> dict[str, float]:
    low, high = wilson(count / of, of)
    return {"share": count / of, "low": round(low, 6), "high": round(high, 6), "of": of}


def _figures(
    context: Context, latents: Tensor, images: Tensor, exemplars: npt.NDArray[np.int64]
) -> list[Figure]:
    """The exemplars with their mean, the sum among its neighbours, the sum of pixels."""
    chosen = latents[torch.from_numpy(exemplars)]
    means = as_images(generate(context.snapshot, chosen.mean(1)))
    shown = as_images(images[torch.from_numpy(exemplars.reshape(-1))])
    rows = [[*shown[3 * row : 3 * row + 3], means[row]] for row in range(3)]
    sums = as_images(generate(context.snapshot, combine(*chosen, seed=context.seed)))
    pixels = as_images(add(images, exemplars[None]).clamp(-1, 1))
    return [
        image_sheet(
            "arithmetic_exemplars",
            np.stack([image for row in rows for image in row]),
            4,
            "exemplars of A, B and C, each with the image of their mean latent",
        ),
        image_sheet(
            "arithmetic_sum",
            sums[[1, 2, 3, 4, 0, 5, 6, 7, 8]],
            3,
            "the sum, with eight neighbours around it",
        ),
        image_sheet("arithmetic_pixels", pixels, 1, "the same sum of pixels"),
    ]
