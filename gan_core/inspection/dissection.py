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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from gan_core.config import Section, SegmenterConfig
from gan_core.inspection.base import (
    Context,
    Figure,
    Images,
    Inspection,
    Table,
    as_float,
    as_images,
    image_sheet,
)
from gan_core.inspection.segmenters import Segmenter, of_context
from gan_core.inspection.units import BATCH, Units, choose_layer, random_sets
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import initialise
from gan_core.randomness import numpy_stream, torch_stream

ABOUT = "which units of a generator's layer draw which classes: agreement, ablation, insertion"
TITLE = "Dissection of the generator"
VERSION = 1
ORDER = 70
DEFAULT = False  # it needs a segmenter

CHUNK = 32  # units whose maps are upsampled at a time, to bound memory
FRACTIONS = np.logspace(-3, 0, 100)[:-1]  # shares of places above a threshold (netdissect)
# a unit counts where its IoU is above the first, and above the shuffled one by the second
LEAST_IOU, LEAST_GAIN = 0.05, 0.05
LEAST_PIXELS = 1e-3  # classes with a smaller share of the pixels are left out (netdissect)
SEEN = 10  # places that a class must have had before, for a rate of insertion over it
RANDOM_SETS = 20
# a class is causal where its units remove at least half of it, more than 95 % of random sets do
LEAST_LOST, CHANCE = 0.5, 0.95
FITTED_PIXELS, FITTED_IOU = 1e-2, 0.5  # of a fitted segmenter: share of pixels, its own IoU
PLACES = 2000  # insertions of each class
FADED, GREY = 0.25, 0.6  # share of an image where a unit is off, and the grey of the rest
STRONG = 0.99  # quantile of activations that is inserted as well as the mean
STEPS, RATE, PENALTY = 100, 0.05, 0.1  # of optimised coefficients (ours; Adam, 2-norm)
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
        [_table(found, segment, options.units, histogram)],
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


def agreement(
    generator: nn.Module, layer: str, segment: Segmenter, latents: Tensor, count: int
) -> tuple[Floats, Floats, Floats]:
    """IoU and shuffled IoU [units, classes], and the share of pixels of each class [classes]."""
    first = Units(generator, layer, latents[:count])
    second = Units(generator, layer, latents[count : 2 * count])
    before, labels = segment(first.images), segment(second.images)
    classes = len(segment.classes)
    own, shuffled = compare(first.activations, before, second.activations, labels, classes)
    return own, shuffled, np.bincount(labels.flatten().numpy(), minlength=classes) / labels.numel()


def compare(
    first: Tensor, first_labels: Tensor, second: Tensor, second_labels: Tensor, classes: int
) -> tuple[Floats, Floats]:
    """IoU and shuffled IoU [units, classes] on the second images, thresholds from the first.

    Args: first, second: activations [n, units, h, w]. Labels: int64 [n, S, S].
    """
    own, shuffled = [], []
    for start in range(0, first.shape[1], CHUNK):
        some = slice(start, start + CHUNK)
        limits = thresholds(_upsampled(first[:, some], first_labels), first_labels, classes)
        maps = _upsampled(second[:, some], second_labels)
        own.append(intersection_over_union(maps, second_labels, limits))
        shuffled.append(intersection_over_union(maps, second_labels.roll(1, 0), limits))
    return np.concatenate(own), np.concatenate(shuffled)


def _upsampled(maps: Tensor, labels: Tensor) -> Tensor:
    """Maps in the size of the labels, float16 [n, units, S, S]."""
    size = list(labels.shape[1:])
    large = [
        F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False).half()
        for x in torch.split(maps, BATCH)
    ]
    return torch.cat(large)


def thresholds(maps: Tensor, labels: Tensor, classes: int) -> Floats:
    """For each unit and class the threshold of the largest information quality ratio: mutual
    information of map and class over their joint entropy. [units, classes]; inf where no level
    above 0 exists.
    """
    units = maps.shape[1]
    flat = labels.flatten().numpy()
    total = np.bincount(flat, minlength=classes).astype(np.float64)
    out = np.full((units, classes), np.inf)
    for unit in range(units):
        values = maps[:, unit].float().flatten().numpy()
        levels = np.unique(np.quantile(values, 1 - FRACTIONS))
        levels = levels[levels > 0]
        if not len(levels):
            continue
        place = np.searchsorted(levels, values, side="left")  # number of levels below the value
        counts = np.bincount(place * classes + flat, minlength=(len(levels) + 1) * classes)
        above = counts.reshape(len(levels) + 1, classes)[::-1].cumsum(0)[::-1][1:]
        ratio = quality(above.astype(np.float64), total)
        out[unit] = levels[ratio.argmax(0)]
    return out


def quality(both: Floats, total: Floats) -> Floats:
    """Information quality ratio of "above the threshold" and "of this class".

    Args: both: pixels of each class above each threshold [levels, classes]; total: [classes].
    """
    n = total.sum()
    above = both.sum(1, keepdims=True)
    joint = np.stack([both, above - both, total - both, n - above - total + both]) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(joint > 0, joint * np.log(joint), 0).sum(0)
        map_entropy = _entropy(above / n)
        class_entropy = _entropy(total / n)
        shared = map_entropy + class_entropy - entropy
        return np.where(entropy > 0, shared / entropy, 0)


def _entropy(p: Floats) -> Floats:
    q = 1 - p
    return -(np.where(p > 0, p * np.log(p), 0) + np.where(q > 0, q * np.log(q), 0))


def intersection_over_union(maps: Tensor, labels: Tensor, limits: Floats) -> Floats:
    """[units, classes]: pixels above the threshold and of the class, over those of either."""
    classes = limits.shape[1]
    out = np.zeros_like(limits)
    shown = [labels == number for number in range(classes)]
    sizes = [float(one.sum()) for one in shown]
    for unit in range(limits.shape[0]):
        for number in range(classes):
            if not np.isfinite(limits[unit, number]):
                continue
            above = maps[:, unit].float() > limits[unit, number]
            both = float((above & shown[number]).sum())
            either = float(above.sum()) + sizes[number] - both
            out[unit, number] = both / either if either else 0.0
    return out


def count_units(iou: Floats, shuffled: Floats, pixels: Floats) -> npt.NDArray[np.bool_]:
    """Which units count: IoU above 0.05, and 0.05 above the 99th percentile of all units' shuffled
    IoU for that class; classes that are hardly drawn have none.
    """
    limit = np.quantile(shuffled, 0.99, axis=0)
    found: npt.NDArray[np.bool_] = (iou > LEAST_IOU) & (iou - limit >= LEAST_GAIN)
    return found & (pixels >= LEAST_PIXELS)


def classes_that_count(segment: Segmenter, pixels: Floats) -> list[int]:
    """Numbers of the classes that are drawn often enough and that the segmenter knows."""
    least = FITTED_PIXELS if segment.iou else LEAST_PIXELS
    return [
        n
        for n, name in enumerate(segment.classes)
        if pixels[n] >= least and (not segment.iou or (segment.iou[name] or 0) >= FITTED_IOU)
    ]


class Ablation(Units):
    """Units of a layer set to 0 or to a value, and what becomes of the classes.

    Args: latents: of their own, shared with nothing else.
    """

    def __init__(
        self, generator: nn.Module, layer: str, segment: Segmenter, latents: Tensor
    ) -> None:
        super().__init__(generator, layer, latents)
        self.segment = segment
        self.before = segment(self.images)
        self.sizes = self._sizes(self.before)

    def _sizes(self, labels: Tensor) -> Floats:
        return np.bincount(labels.flatten().numpy(), minlength=len(self.segment.classes)).astype(
            np.float64
        )

    def remove(self, units: Sequence[int]) -> tuple[Floats, Floats]:
        """Share of each class's pixels that vanish, and share of the other pixels that change."""
        after = self.segment(self.without(units))
        gone = 1 - self._sizes(after) / np.maximum(self.sizes, 1)
        moved = (after != self.before).flatten().numpy()
        flat = self.before.flatten().numpy()
        by_class = np.bincount(flat[moved], minlength=len(self.sizes)).astype(np.float64)
        others = self.sizes.sum() - self.sizes
        return gone, (by_class.sum() - by_class) / np.maximum(others, 1)

    def effects(self, most: int = 128) -> Floats:
        """Share of each class's pixels lost when one unit is ablated: [units, classes]."""
        rows = torch.arange(min(most, len(self.latents)))
        size = np.maximum(self._sizes(self.before[rows]), 1)
        return np.stack(
            [
                1 - self._sizes(self.segment(self.without([unit], rows))) / size
                for unit in range(self.activations.shape[1])
            ]
        )

    def coefficients(self, number: int, start: Floats, seed: int) -> Floats:
        """How far each unit draws a class, 0 to 1 [units]: optimised so that scaling the units by
        one minus it removes the class, and inserting the class's activation by it at a random place
        draws it, with few units (Bau et al. 2019, section 4.2).

        Args: start: a first guess [units], not negative.
        """
        random = torch_stream(seed, "dissection", "coefficients", str(number))
        alpha = torch.tensor(start / max(float(start.max()), 1e-9), dtype=torch.float32)
        alpha.requires_grad_()
        optimiser = torch.optim.Adam([alpha], lr=RATE)
        before = max(float(self.sizes[number] / self.sizes.sum()), 1e-6)
        value = self._inside(number)
        side = self.activations.shape[2]
        for _ in range(STEPS):
            rows = torch.randint(len(self.latents), (32,), generator=random)
            places = torch.randint(side, (2, 32), generator=random)
            x = self.activations[rows].float()
            spot = torch.zeros(32, 1, side, side)
            spot[torch.arange(32), 0, places[0], places[1]] = 1
            mixed = alpha[:, None, None]
            without = self._presence(x * (1 - mixed), rows, number)
            insert = x + spot * mixed * (value.mean(0)[:, None, None] - x)
            with_it = self._presence(insert, rows, number)
            loss = (without - with_it) / before + PENALTY * alpha.norm()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                alpha.clamp_(0, 1)
        return np.asarray(alpha.detach().numpy(), np.float64)

    def _presence(self, x: Tensor, rows: Tensor, number: int) -> Tensor:
        images = self.image(x.to(self.activations.dtype).to(self.device), rows)
        return self.segment.soft(images)[:, number].mean()

    def _cells(self, number: int) -> Tensor:
        """Which places of the layer show a class: bool [n, h, w]."""
        scale = self.before.shape[1] // self.activations.shape[2]
        return F.max_pool2d((self.before == number).float()[:, None], scale)[:, 0] > 0

    def _inside(self, number: int) -> Tensor:
        """Activations at the places of a class: float [places, units]; one place of zeros where it
        has none.
        """
        found = self.activations.permute(0, 2, 3, 1)[self._cells(number)].float()
        return found if len(found) else torch.zeros(1, self.activations.shape[1])

    def matched(self, units: list[int]) -> list[int]:
        """As many other units, the nearest in mean activation and in outgoing norm."""
        means = self.activations.float().mean((0, 2, 3)).numpy()
        norms = self.norms().numpy()
        place = np.stack([means / (means.std() + 1e-12), norms / (norms.std() + 1e-12)], 1)
        free = [u for u in range(len(means)) if u not in set(units)]
        found: list[int] = []
        for unit in units[: len(free)]:
            left = [u for u in free if u not in found]
            found.append(min(left, key=lambda u: float(((place[u] - place[unit]) ** 2).sum())))
        return found

    def insert(self, number: int, units: list[int], random: np.random.Generator) -> dict[str, Any]:
        """How often a class appears where its units are switched on at one place without it, by
        row and by the class that was there before.
        """
        cells = self._cells(number)
        absent = np.argwhere(~cells.numpy())
        if not bool(cells.any()) or not len(absent):
            return {"rate": 0.0, "by_row": [], "by_class": {}}
        places = absent[random.integers(0, len(absent), PLACES)]
        inside = self._inside(number)[:, units]
        found = self._insert_at(number, units, inside.mean(0), places)
        strong = torch.quantile(inside[:100_000], STRONG, dim=0)
        return {**found, "strong": self._insert_at(number, units, strong, places)}

    def _insert_at(
        self, number: int, units: list[int], value: Tensor, places: npt.NDArray[np.int64]
    ) -> dict[str, Any]:
        side = self.activations.shape[2]
        scale = self.before.shape[1] // side

        def switch_on(x: Tensor, positions: Tensor) -> Tensor:
            for n, position in enumerate(positions.tolist()):
                _, down, across = places[position]
                x[n, units, down, across] = value.to(x)
            return x

        rows = torch.from_numpy(places[:, 0])
        after = self.segment(self.changed(switch_on, rows))
        was, hit = np.zeros(len(places), np.int64), np.zeros(len(places), bool)
        for n, (row, down, across) in enumerate(places):
            top, left = down * scale, across * scale
            block = slice(top, top + scale), slice(left, left + scale)
            hit[n] = bool((after[n][block] == number).any())
            was[n] = int(self.before[row][block].flatten().mode().values)
        by_class = {
            name: round(float(hit[was == n].mean()), 4)
            for n, name in enumerate(self.segment.classes)
            if (was == n).sum() >= SEEN
        }
        by_row = [
            round(float(hit[places[:, 1] == row].mean()), 4)
            if (places[:, 1] == row).any()
            else None
            for row in range(side)
        ]
        return {"rate": round(float(hit.mean()), 4), "by_row": by_row, "by_class": by_class}


def random_network(generator: LayeredNetwork, seed: int) -> LayeredNetwork:
    """A copy with new random weights; its batch norms keep their statistics of the batch."""
    own = copy.deepcopy(generator)
    initialise(own, torch_stream(seed, "dissection", "random network"))
    for norm in own.norms().values():
        norm.training, norm.track = True, False
    return own.requires_grad_(False)


def before_and_after(study: Units, chosen: Sequence[Sequence[int]]) -> Images:
    """A row of samples, then a row for each set of units with these ablated."""
    return np.concatenate(
        [as_images(study.images), *(as_images(study.without(units)) for units in chosen)]
    )


def highlighted(images: Tensor, maps: Tensor) -> Images:
    """Images under a unit's map, a row for each unit: uint8 [units * n, S, S, 3].

    A place is as it is where the unit is above the 98th percentile of these maps, and fades to
    light grey where it is off, so that dark photographs show as much as bright ones.

    Args: images: [n, 3, S, S]. maps: activations of the units [n, units, h, w].
    """
    size = list(images.shape[2:])
    large = F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
    flat = large.transpose(0, 1).flatten(1)
    most = torch.quantile(flat, 0.98, dim=1).clamp(min=1e-6)
    part = FADED + (1 - FADED) * (large / most[:, None, None]).clamp(0, 1)
    mixed = [images * share + GREY * (1 - share) for share in torch.split(part, 1, dim=1)]
    return np.concatenate([as_images(one) for one in mixed])


def _histogram(segment: Segmenter, images: Tensor) -> list[float]:
    labels = segment(images).flatten().numpy()
    return _rounded(np.bincount(labels, minlength=len(segment.classes)) / len(labels))


def _table(found: Dissection, segment: Segmenter, units: int, real: list[float] | None) -> Table:
    """A row for each class that counts. Args: real: share of the classes in training images."""
    columns = [
        "class",
        "pixels (real)",
        *(["segmenter IoU"] if segment.iou else []),
        "best IoU",
        "shuffled",
        "units that count",
        f"lost by {units} units",
        "by optimised units",
        "random sets, mean (worst)",
        "matched set",
        "changed elsewhere",
    ]
    rows = []
    for number, name in zip(found.drawn, found.drawn_names, strict=True):
        best = int(found.iou[:, number].argmax())
        chance = found.random[name]
        share = f" ({100 * real[number]:.1f})" if real else ""
        rows.append(
            [
                name,
                f"{100 * found.pixels[number]:.1f} %{share}",
                *([f"{segment.iou[name] or 0:.2f}"] if segment.iou else []),
                f"{found.iou[best, number]:.3f}",
                f"{found.shuffled[best, number]:.3f}",
                int(found.counts[:, number].sum()),
                f"{100 * found.lost[name]['agreement']:.0f} %",
                f"{100 * found.lost[name]['optimised']:.0f} %",
                f"{100 * np.mean(chance):.0f} % ({100 * max(chance):.0f} %)",
                f"{100 * found.matched[name]:.0f} %",
                f"{100 * found.elsewhere[name]['agreement']:.0f} %",
            ]
        )
    return Table(columns, rows)


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), 4) for value in values]


def _listed(names: list[str]) -> str:
    if not names:
        return "no class"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
