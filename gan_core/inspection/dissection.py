"""GAN Dissection (Bau et al. 2019): which units of a generator's layer draw which classes.

Three kinds of evidence for each class, each with its baselines:

1. Agreement: the intersection over union of a unit's map (thresholded, upsampled) with the class's
   pixels. Thresholds maximise the information quality ratio on other latents than the agreement is
   measured on. Baselines: the same maps against the segmentation of another image (shuffled
   pairs: size and layout stay, "this image" is broken), and a network with random weights.
2. Ablation: the share of the class's pixels that vanish when its units are set to 0, and how much
   changes elsewhere, against random sets of as many units and a set matched in mean activation and
   outgoing norm. Units are ranked by agreement, by their effect when ablated one by one, and by
   coefficients optimised for the average causal effect of ablation and insertion together.
3. Insertion: the class's activation of its units (their mean where it shows, and their 99th
   percentile) is put at one place where the class is absent, by row and by the class that was
   there.

A class counts where it fills at least a thousandth of the generated pixels; with a fitted segmenter
a hundredth, and only if the segmenter's own IoU is at least 0.5.

Latents for thresholds, agreement and ablation are never shared.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor, nn

from gan_core.config import Section, SegmenterConfig
from gan_core.inspection.ablation import Ablation
from gan_core.inspection.agreement import LEAST_PIXELS, agreement, count_units
from gan_core.inspection.base import Context, Figure, Inspection, Table, as_float, image_sheet
from gan_core.inspection.segmenters import Segmenter, of_context
from gan_core.inspection.units import (
    Units,
    before_and_after,
    choose_layer,
    highlighted,
    random_sets,
)
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import initialise
from gan_core.randomness import numpy_stream, torch_stream

ABOUT = "which units of a generator's layer draw which classes: agreement, ablation, insertion"
TITLE = "Dissection of the generator"
VERSION = 2
ORDER = 70
DEFAULT = False  # it needs a segmenter
EXAMPLES = ()  # minutes of optimised coefficients; tests/unit/test_inspection_dissection.py

RANDOM_SETS = 20
# a class is causal where its units remove at least half of it, more than 95 % of random sets do
LEAST_LOST, CHANCE = 0.5, 0.95
FITTED_PIXELS, FITTED_IOU = 1e-2, 0.5  # of a fitted segmenter: share of pixels, its own IoU
Floats = npt.NDArray[np.float64]


class Options(Section):
    """What is dissected, and by which segmenter."""

    layer: str = Field(
        "", description="layer of the generator; empty: the first after the projection"
    )
    segmenter: SegmenterConfig = SegmenterConfig()
    units: int = Field(8, ge=1, description="units ablated for each class")
    latents: int = Field(1000, ge=16, description="for thresholds, and as many for agreement")
    ablated: int = Field(500, ge=8, description="latents for ablation")


@dataclass(frozen=True)
class Dissection:
    """What was found. All arrays are over (units, classes) unless said otherwise.

    Attributes:
        pixels: share of generated pixels, [classes].
        iou, shuffled: agreement with the own and with another image's segmentation.
        counts: whether a unit counts as a detector of a class.
        drawn: numbers of the classes that count; only they have the entries below.
        lost, elsewhere: by class name and ranking ('agreement', 'effect', 'optimised'): share of
            the class's pixels that vanish, and of other pixels that change.
        random: by class name: shares lost by random sets; matched: by the matched set.
        inserted: by class name: {by_row: [...], by_class: {name: rate}}, and the same with strong
            activations under 'strong'.
    """

    classes: list[str]
    layer: str
    pixels: Floats
    iou: Floats
    shuffled: Floats
    counts: npt.NDArray[np.bool_]
    drawn: list[int]
    units: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    lost: dict[str, dict[str, float]] = field(default_factory=dict)
    elsewhere: dict[str, dict[str, float]] = field(default_factory=dict)
    random: dict[str, list[float]] = field(default_factory=dict)
    matched: dict[str, float] = field(default_factory=dict)
    inserted: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def drawn_names(self) -> list[str]:
        """Names of the classes that count."""
        return [self.classes[number] for number in self.drawn]


def inspect(context: Context, options: Options) -> Inspection:
    """The table by class, heat maps of the best units, images before and after ablation."""
    real_segment = of_context(context, options.segmenter)
    segment = real_segment.after(context.match)
    real = as_float(context.training_images(2048, "dissection")) if context.packs else None
    generator = context.snapshot.best_generator()
    layer = choose_layer(generator, options.layer, 0)
    latents = context.latents(2 * options.latents + options.ablated, "dissection")
    found = dissect(
        generator,
        layer,
        segment,
        latents,
        count=options.latents,
        units=options.units,
        seed=context.seed,
    )
    random = random_network(generator, context.seed)
    chance = agreement(random, layer, segment, latents, options.latents)
    spurious = int(count_units(*chance).sum())
    histogram = None if real is None else _histogram(real_segment, real)
    shown = Units(generator, layer, latents[:8])
    return Inspection(
        _sentence(found, options.units, spurious),
        _numbers(found, dict(segment.iou), histogram, spurious),
        _figures(found, shown),
        [_agreement_table(found, segment, histogram), _ablation_table(found, options.units)],
    )


def _sentence(found: Dissection, units: int, spurious: int) -> str:
    causal = [
        name
        for name in found.drawn_names
        if found.lost[name]["agreement"] > max(np.quantile(found.random[name], CHANCE), LEAST_LOST)
    ]
    removed = (
        f"Ablating the best {units} units removes at least half of {_listed(causal)}, more "
        "than 95 % of random sets do."
        if causal
        else f"Ablating the best {units} units removes no class more than random sets do."
    )
    return (
        f"Of {found.iou.shape[0]} units of {found.layer}, {int(found.counts.any(1).sum())} detect "
        f"a class beyond layout (a network with random weights: {spurious}). {removed}"
    )


def _numbers(
    found: Dissection,
    segmenter_iou: dict[str, Any],
    histogram: list[float] | None,
    spurious: int,
) -> dict[str, Any]:
    best = found.iou.argmax(0), np.arange(len(found.classes))
    return {
        "layer": found.layer,
        "classes": found.classes,
        "pixels": _rounded(found.pixels),
        "pixels_real": histogram,
        "segmenter_iou": segmenter_iou,
        "best_iou": _rounded(found.iou[best]),
        "shuffled": _rounded(found.shuffled[best]),
        "counting_units": found.counts.sum(0).tolist(),
        "random_network_units": spurious,
        "units": found.units,
        "lost": found.lost,
        "elsewhere": found.elsewhere,
        "random_mean": {name: round(float(np.mean(v)), 4) for name, v in found.random.items()},
        "random_worst": {name: round(float(np.max(v)), 4) for name, v in found.random.items()},
        "matched": found.matched,
        "inserted": found.inserted,
    }


def _figures(found: Dissection, shown: Units) -> list[Figure]:
    """Samples before and after ablation, and the samples under the map of each class's best
    unit.
    """
    names = found.drawn_names
    best = shown.activations[:, [found.units[n]["agreement"][0] for n in names]]
    return [
        image_sheet(
            "dissection_ablated",
            before_and_after(shown, [found.units[n]["agreement"] for n in names]),
            len(shown.images),
            "samples, and the same with the units of one class ablated: " + ", ".join(names),
        ),
        image_sheet(
            "dissection_units",
            highlighted(shown.images, best),
            len(shown.images),
            "the same samples under the map of each class's best unit: " + ", ".join(names),
        ),
    ]


def dissect(
    generator: nn.Module,
    layer: str,
    segment: Segmenter,
    latents: Tensor,
    *,
    count: int,
    units: int,
    seed: int = 0,
) -> Dissection:
    """Agreement, ablation and insertion for every class.

    Args:
        generator: offers run_to(latents, layer) and run_from(activation, layer) (`Units`).
        latents: [2 count + m, dim]: `count` for thresholds, `count` for agreement, m for ablation.
        units: how many are ablated for each class.
    """
    iou, shuffled, pixels = agreement(generator, layer, segment, latents, count)
    counts = count_units(iou, shuffled, pixels)
    drawn = classes_that_count(segment, pixels)
    found = Dissection(list(segment.classes), layer, pixels, iou, shuffled, counts, drawn)
    study = Ablation(generator, layer, segment, latents[2 * count :])
    random = numpy_stream(seed, "dissection", "random sets")
    effects = study.effects()
    for number in drawn:
        _dissect_class(found, study, number, effects[:, number], units, random, seed)
    return found


def _dissect_class(
    found: Dissection,
    study: Ablation,
    number: int,
    effects: Floats,
    units: int,
    random: np.random.Generator,
    seed: int,
) -> None:
    """Ablation and insertion of one class, written into `found`."""
    name, iou = found.classes[number], found.iou[:, number]
    rankings = {
        "agreement": iou,
        "effect": effects,
        "optimised": study.coefficients(number, iou, seed),
    }
    chosen = {
        how: np.argsort(-values, kind="stable")[:units].tolist() for how, values in rankings.items()
    }
    found.units[name], found.lost[name], found.elsewhere[name] = chosen, {}, {}
    for how, some in chosen.items():
        gone, other = study.remove(some)
        found.lost[name][how] = round(float(gone[number]), 4)
        found.elsewhere[name][how] = round(float(other[number]), 4)
    best = chosen["agreement"]
    found.random[name] = [
        round(float(study.remove(some)[0][number]), 4)
        for some in random_sets(len(iou), best, units, RANDOM_SETS, random)
    ]
    found.matched[name] = round(float(study.remove(study.matched(best))[0][number]), 4)
    found.inserted[name] = study.insert(number, best, numpy_stream(seed, "insert", name))


def classes_that_count(segment: Segmenter, pixels: Floats) -> list[int]:
    """Numbers of the classes that are drawn often enough and that the segmenter knows."""
    least = FITTED_PIXELS if segment.iou else LEAST_PIXELS
    return [
        n
        for n, name in enumerate(segment.classes)
        if pixels[n] >= least and (not segment.iou or (segment.iou[name] or 0) >= FITTED_IOU)
    ]


def random_network(generator: LayeredNetwork, seed: int) -> LayeredNetwork:
    """A copy with new random weights; its batch norms keep their statistics of the batch."""
    own = copy.deepcopy(generator)
    initialise(own, torch_stream(seed, "dissection", "random network"))
    for norm in own.norms().values():
        norm.training, norm.track = True, False
    return own.requires_grad_(False)


def _histogram(segment: Segmenter, images: Tensor) -> list[float]:
    labels = segment(images).flatten().numpy()
    return _rounded(np.bincount(labels, minlength=len(segment.classes)) / len(labels))


def _agreement_table(found: Dissection, segment: Segmenter, real: list[float] | None) -> Table:
    """A row for each class that counts. Args: real: share of the classes in training images."""
    fitted = bool(segment.iou)
    columns = [
        "class",
        "pixels (real)" if real else "pixels",
        *(["segmenter IoU"] if fitted else []),
        "best IoU",
        "shuffled",
        "units that count",
    ]
    rows = []
    for number, name in zip(found.drawn, found.drawn_names, strict=True):
        best = int(found.iou[:, number].argmax())
        share = f" ({100 * real[number]:.1f})" if real else ""
        rows.append(
            [
                name,
                f"{100 * found.pixels[number]:.1f} %{share}",
                *([f"{segment.iou[name] or 0:.2f}"] if fitted else []),
                f"{found.iou[best, number]:.3f}",
                f"{found.shuffled[best, number]:.3f}",
                int(found.counts[:, number].sum()),
            ]
        )
    return Table(columns, rows)


def _ablation_table(found: Dissection, units: int) -> Table:
    """What becomes of each class that counts, in percent of its pixels; of the best units by
    agreement, what changes elsewhere as well.
    """
    columns = ["class", "best units", "optimised", "random, mean (worst)", "matched", "elsewhere"]
    rows = []
    for name in found.drawn_names:
        lost, chance = found.lost[name], found.random[name]
        rows.append(
            [
                name,
                f"{100 * lost['agreement']:.0f} %",
                f"{100 * lost['optimised']:.0f} %",
                f"{100 * np.mean(chance):.0f} % ({100 * max(chance):.0f} %)",
                f"{100 * found.matched[name]:.0f} %",
                f"{100 * found.elsewhere[name]['agreement']:.0f} %",
            ]
        )
    caption = (
        f"Pixels of a class that vanish when {units} units are set to 0: the best by agreement, "
        f"the best by optimised coefficients, {RANDOM_SETS} random sets, a set matched in mean "
        "activation and outgoing norm; and other pixels that the first set changes."
    )
    return Table(columns, rows, caption)


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), 4) for value in values]


def _listed(names: list[str]) -> str:
    if not names:
        return "no class"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
