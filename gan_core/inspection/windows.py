"""Forgetting an object: the feature maps that draw it are dropped (DCGAN paper, section 6.3.1).

The authors drew 52 boxes around windows in 150 samples. On the second highest convolutional layer
of the generator a logistic regression predicted whether an activation lies inside a box (negatives:
random places of the same images); all maps with a weight above 0 (about 200) were set to 0 at all
places, and most windows disappeared or became doors or mirrors.

Here the object is a class of a segmenter (its pixels are the boxes), boxes drawn by hand, or an
attribute of whole images (`attributes.py`; positives and negatives are then the samples that have
most and least of it). The samples on which the effect is measured are others than those of the
regression, and as many random maps are dropped as the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from gan_core.config import Section, SegmenterConfig
from gan_core.errors import RequestError
from gan_core.inspection.attributes import extremes, find
from gan_core.inspection.base import (
    Context,
    Figure,
    Inspection,
    NotApplicable,
    Table,
    as_images,
    diversity,
    image_sheet,
)
from gan_core.inspection.segmenters import Segmenter, of_context
from gan_core.inspection.units import Units, choose_layer, random_sets
from gan_core.randomness import numpy_stream

ABOUT = "the generator's maps that draw a concept are dropped (DCGAN paper 6.3.1)"
TITLE = "Forgetting a concept"
VERSION = 1
ORDER = 80
DEFAULT = False  # it needs a concept
EXAMPLES = (
    {
        "concept": "light",
        "images": 32,
        "measured": 32,
        "segmenter": {"palette": {"dark": [0, 0, 0], "light": [255, 255, 255]}},
    },
)

SETS = 20  # random sets of as many maps
SHOWN = 16
Bools = npt.NDArray[np.bool_]


class Options(Section):
    """What is forgotten, and where."""

    concept: str = Field(
        "", description="a class of the segmenter, an image function, or a rule such as glasses=1"
    )
    segmenter: SegmenterConfig = SegmenterConfig()
    boxes: list[list[int]] = Field(
        default_factory=list,
        description="[sample, x0, y0, x1, y1] in pixels, on the samples of the first figure",
    )
    layer: str = Field("", description="layer of the generator; empty: the second highest")
    images: int = Field(150, ge=16, description="samples of the regression (paper: 150)")
    measured: int = Field(500, ge=16, description="samples on which the effect is measured")


@dataclass(frozen=True)
class Concept:
    """What is forgotten.

    Attributes:
        shows, lacks: which places of the regression's activations show it, and which are
            negatives: bool [n, h, w].
        presence: images [k, 3, S, S] to how much they show, float [any length]; the mean counts.
        unit: what is measured, in words.
    """

    shows: Bools
    lacks: Bools
    presence: Callable[[Tensor], Tensor]
    unit: str


def inspect(context: Context, options: Options) -> Inspection:
    """The share of the concept that is lost, against random maps; samples before and after."""
    generator = context.snapshot.best_generator()
    layer = choose_layer(generator, options.layer, -1)
    study = Units(generator, layer, context.latents(options.images, "windows"))
    fresh = study
    if not options.boxes:
        fresh = Units(generator, layer, context.latents(options.measured, "windows measured"))
    segmenter = None
    if options.segmenter != SegmenterConfig():
        segmenter = of_context(context, options.segmenter).after(context.match)
    concept = _concept(context, options, segmenter, study)
    random = numpy_stream(context.seed, "inspect", "windows")
    weights = regression(study.activations, concept.shows, concept.lacks, random)
    dropped = np.flatnonzero(weights > 0).tolist()
    others = random_sets(len(weights), [], len(dropped), SETS, random)
    before = float(concept.presence(fresh.images).mean())

    def effect(units: list[int]) -> tuple[float, float]:
        after = fresh.without(units)
        change = float((after - fresh.images).abs().mean()) / 2
        return 1 - float(concept.presence(after).mean()) / max(before, 1e-9), change

    lost, change = effect(dropped)
    chance, changed = zip(*(effect(units) for units in others), strict=True)
    random_changed = float(np.mean(changed))
    name = options.concept or "what the boxes show"
    differ = diversity(as_images(fresh.images))
    intact = change < differ / 2
    removed = lost > float(np.quantile(chance, 0.95)) and (bool(options.boxes) or lost > 0.5)
    forgets = removed and intact
    sentence = (
        f"Dropping {len(dropped)} of {len(weights)} maps of {layer} removes {100 * lost:.0f} % of "
        f"{name} ({concept.unit}); as many random maps remove {100 * np.mean(chance):.0f} % "
        f"(worst of {SETS} sets: {100 * max(chance):.0f} %). A pixel changes by "
        f"{100 * change:.1f} % of its range on average (two samples differ by "
        f"{100 * differ:.1f} %). "
    )
    if forgets:
        sentence += f"The generator can forget {name}."
    elif removed:
        sentence += f"These maps draw much besides {name}: the images do not stay the same."
    else:
        sentence += f"The generator does not forget {name}."
    numbers = {
        "layer": layer,
        "concept": name,
        "maps": len(weights),
        "dropped": dropped,
        "before": round(before, 5),
        "lost": round(lost, 4),
        "changed": round(change, 4),
        "diversity": round(differ, 4),
        "random_mean": round(float(np.mean(chance)), 4),
        "random_worst": round(max(chance), 4),
        "random_changed": round(random_changed, 4),
        "forgets": forgets,
    }
    rows = [
        ["maps found by regression", f"{100 * lost:.0f} %", f"{100 * change:.1f} %"],
        [
            f"random maps, mean of {SETS} sets",
            f"{100 * np.mean(chance):.0f} %",
            f"{100 * random_changed:.1f} %",
        ],
    ]
    table = Table(["dropped", f"{name} lost", "mean change of a pixel"], rows)
    figures = _figures(concept, study, fresh, dropped, others[0])
    return Inspection(sentence, numbers, figures, [table])


def _figures(
    concept: Concept, study: Units, fresh: Units, dropped: list[int], other: list[int]
) -> list[Figure]:
    """Samples that show most of the concept before and after, and all samples of the regression."""
    if fresh is study:  # boxes: only these samples are known to show it
        most = torch.from_numpy(np.flatnonzero(concept.shows.any(axis=(1, 2)))[:SHOWN])
    else:
        most = concept.presence(fresh.images).argsort(descending=True)[:SHOWN]
    shown = [fresh.images[most], fresh.without(dropped, most), fresh.without(other, most)]
    names = ("samples with most of it", f"without the {len(dropped)} maps", "without random maps")
    return [
        image_sheet(
            "windows_dropped",
            np.concatenate([as_images(images) for images in shown]),
            SHOWN,
            "Rows: " + ", ".join(names),
        ),
        image_sheet("windows_samples", as_images(study.images), 15, "samples of the regression"),
    ]


def regression(
    activations: Tensor, shows: Bools, lacks: Bools, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Weights [units] of a logistic regression on single activations: places that show the concept
    against as many random places that do not.

    Args: activations: [n, units, h, w]. shows, lacks: [n, h, w].
    Raises: NotApplicable: fewer than 10 places on either side.
    """
    places = activations.permute(0, 2, 3, 1).float().numpy()
    positive, negative = places[shows], places[lacks]
    if min(len(positive), len(negative)) < 10:
        raise NotApplicable(
            f"The concept fills {len(positive)} places of {shows.size}: the regression needs 10 "
            "with it and 10 without. Other samples (options.images) or another concept may do."
        )
    count = min(len(positive), len(negative))
    positive, negative = (random.permutation(some)[:count] for some in (positive, negative))
    x = np.concatenate([positive, negative])
    model = LogisticRegression(max_iter=1000).fit(
        x / (x.std(0) + 1e-6), np.arange(2 * count) < count
    )
    return np.asarray(model.coef_[0], np.float64)


def _concept(
    context: Context, options: Options, segmenter: Segmenter | None, study: Units
) -> Concept:
    side, images = study.activations.shape[2], study.images
    if options.boxes:
        inside = boxes_to_mask(options.boxes, len(images), images.shape[-1])
        cells = cover(inside, side)
        with_box = (cells > 0).any(axis=(1, 2)).reshape(-1, 1, 1)

        def unchanged(after: Tensor) -> Tensor:
            return 1 - (after - images).abs().mean(1)[inside] / 2

        return Concept(cells >= 0.5, with_box & (cells == 0), unchanged, "change inside the boxes")
    if not options.concept:
        raise NotApplicable("What is to be forgotten? Give windows.concept or windows.boxes.")
    found = find(context, options.concept, segmenter)
    if segmenter and options.concept in segmenter.classes:
        number = list(segmenter.classes).index(options.concept)
        cells = cover(segmenter(images) == number, side)
        shows = cells >= min(0.5, float(cells.max()))
        present = (cells > 0).any(axis=(1, 2)).reshape(-1, 1, 1)
        return Concept(shows, present & (cells == 0), found.score, "share of pixels")
    most, least = extremes(found.scores(images), len(images) // 3)
    shows, lacks = (np.zeros((len(images), side, side), bool) for _ in range(2))
    shows[most], lacks[least] = True, True
    limit = found.threshold
    if limit is None:
        limit = float(np.median(found.scores(images)))
    return Concept(
        shows, lacks, lambda some: (found.score(some) > limit).float(), "samples that show it"
    )


def boxes_to_mask(boxes: Sequence[Sequence[int]], count: int, size: int) -> Tensor:
    """Bool [count, size, size]: the pixels inside boxes [sample, x0, y0, x1, y1] (ends excluded).

    Raises: RequestError: a box outside the samples or without pixels.
    """
    inside = torch.zeros(count, size, size, dtype=torch.bool)
    for box in boxes:
        if len(box) != 5 or not (
            0 <= box[0] < count and 0 <= box[1] < box[3] <= size and 0 <= box[2] < box[4] <= size
        ):
            raise RequestError(
                f"{list(box)} is no box on one of {count} samples of {size} x {size} pixels.",
                expected="[sample, x0, y0, x1, y1] with the sample's number from 0",
            )
        sample, x0, y0, x1, y1 = box
        inside[sample, y0:y1, x0:x1] = True
    return inside


def cover(mask: Tensor, side: int) -> npt.NDArray[np.float32]:
    """Share of each cell of a side x side grid that a mask [n, S, S] covers: [n, side, side]."""
    found = F.adaptive_avg_pool2d(mask.float()[:, None], side)[:, 0]
    return np.asarray(found.numpy())
