"""GAN Dissection (Bau et al. 2019): which units of a generator's layer draw which classes.

Three kinds of evidence for each class, each with its baselines:

1. Agreement: the intersection over union of a unit's map (thresholded, upsampled) with the class's
   pixels. Thresholds maximise the information quality ratio on other latents than the agreement is
   measured on. Baselines: the same maps against the segmentation of another image (shuffled
   pairs: size and layout stay, "this image" is broken), and a network with random weights.
2. Ablation: the share of the class's pixels that vanish when its units are set to 0, and how much
   changes elsewhere, against random sets of as many units and a set matched in mean activation and
   outgoing norm. Units are ranked by agreement, and by their effect when ablated one by one.
3. Insertion: the class's mean activation of its units is put at one place where the class is
   absent, by row and by the class that was there.

Latents for thresholds, agreement and ablation are never shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from gan_core.config import Section
from gan_core.inspection.base import (
    Context,
    Images,
    Inspection,
    NotApplicable,
    Table,
    as_float,
    as_images,
    image_sheet,
)
from gan_core.inspection.segmenters import Segmenter, by_colour
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import initialise
from gan_core.randomness import numpy_stream, torch_stream

ABOUT = "which units of a generator's layer draw which classes: agreement, ablation, insertion"
TITLE = "Dissection of the generator"
VERSION = 1
ORDER = 70
DEFAULT = False  # it needs a segmenter

BATCH = 128
FRACTIONS = np.logspace(-3, 0, 100)[:-1]  # shares of places above a threshold (netdissect)
LEAST_IOU, LEAST_GAIN = 0.05, 0.05  # a unit counts above the first, and by so much above shuffled
LEAST_PIXELS = 1e-3  # classes with a smaller share of the pixels are left out (netdissect)
RANDOM_SETS = 20
PLACES = 500  # insertions of each class
Floats = npt.NDArray[np.float64]


class Options(Section):
    """What is dissected, and by which segmenter."""

    layer: str = Field("", description="layer of the generator; empty: the middle one")
    palette: dict[str, list[int]] = Field(
        default_factory=dict, description="class to colour (RGB): the colour rule as segmenter"
    )
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
        lost, elsewhere: by class name and ranking ('agreement', 'effect'): share of the class's
            pixels that vanish, and of other pixels that change.
        random: by class name: shares lost by random sets; matched: by the matched set.
        inserted: by class name: {by row: [...], by class: {name: rate}}.
    """

    classes: list[str]
    layer: str
    pixels: Floats
    iou: Floats
    shuffled: Floats
    counts: npt.NDArray[np.bool_]
    units: dict[str, dict[str, list[int]]]
    lost: dict[str, dict[str, float]]
    elsewhere: dict[str, dict[str, float]]
    random: dict[str, list[float]]
    matched: dict[str, float]
    inserted: dict[str, dict[str, Any]]


def inspect(context: Context, options: Options) -> Inspection:
    """The table by class, heat maps of the best units, images before and after ablation."""
    if not options.palette:
        raise NotApplicable("Dissection needs a segmenter: give inspect.dissection.palette.")
    real = as_float(context.training_images(2048, "dissection")) if context.packs else None
    samples = context.samples(1000, "dissection contrast") if real is not None else None
    segment = by_colour(options.palette, real, samples)
    generator = context.snapshot.best_generator()
    layer = options.layer or middle_layer(generator)
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
    drawn = [n for n, share in enumerate(found.pixels) if share >= LEAST_PIXELS]
    rows = [_row(found, n) for n in drawn]
    columns = [
        "class",
        "pixels",
        "best IoU",
        "shuffled",
        "units that count",
        f"lost by {options.units} units",
        "random sets, mean (worst)",
        "matched set",
        "changed elsewhere",
    ]
    causal = [
        found.classes[n]
        for n in drawn
        if found.lost[found.classes[n]]["agreement"]
        > max(np.quantile(found.random[found.classes[n]], 0.95), 0.5)
    ]
    removed = (
        f"Ablating the best {options.units} units removes at least half of {_listed(causal)}, more "
        "than 95 % of random sets do."
        if causal
        else f"Ablating the best {options.units} units removes no class more than random sets do."
    )
    sentence = (
        f"Of {found.iou.shape[0]} units of {layer}, {int(found.counts.any(1).sum())} detect a "
        f"class beyond layout (a network with random weights: {spurious}). {removed}"
    )
    numbers = {
        "layer": layer,
        "classes": found.classes,
        "pixels": _rounded(found.pixels),
        "pixels_real": None if real is None else _histogram(by_colour(options.palette), real),
        "best_iou": _rounded(found.iou.max(0)),
        "shuffled": _rounded(found.shuffled[found.iou.argmax(0), np.arange(len(found.classes))]),
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
    names = [found.classes[n] for n in drawn]
    figures = [
        image_sheet(
            "dissection_ablated",
            before_and_after(generator, layer, latents[:8], found.units, names),
            8,
            "samples, and the same with the units of one class ablated: " + ", ".join(names),
        ),
        image_sheet(
            "dissection_units",
            heat_maps(
                generator, layer, latents[:8], [found.units[n]["agreement"][0] for n in names]
            ),
            8,
            "the same samples under the map of each class's best unit: " + ", ".join(names),
        ),
    ]
    return Inspection(sentence, numbers, figures, [Table(columns, rows)])


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
        generator: offers run_to(latents, layer) and run_from(activation, layer).
        latents: [2 count + m, dim]: `count` for thresholds, `count` for agreement, m for ablation.
        units: how many are ablated for each class.
    """
    iou, shuffled, pixels = agreement(generator, layer, segment, latents, count)
    counts = count_units(iou, shuffled, pixels)
    last = latents[2 * count :]
    study = Ablation(generator, layer, segment, last)
    random = numpy_stream(seed, "dissection", "random sets")
    chosen: dict[str, dict[str, list[int]]] = {}
    lost: dict[str, dict[str, float]] = {}
    elsewhere: dict[str, dict[str, float]] = {}
    by_chance: dict[str, list[float]] = {}
    matched: dict[str, float] = {}
    effects = study.effects()
    for number, name in enumerate(segment.classes):
        rankings = {"agreement": iou[:, number], "effect": effects[:, number]}
        chosen[name] = {
            how: np.argsort(-values, kind="stable")[:units].tolist()
            for how, values in rankings.items()
        }
        lost[name], elsewhere[name] = {}, {}
        for how, some in chosen[name].items():
            gone, other = study.remove(some)
            lost[name][how] = round(float(gone[number]), 4)
            elsewhere[name][how] = round(float(other[number]), 4)
        best = set(chosen[name]["agreement"])
        rest = np.array([u for u in range(len(iou)) if u not in best])
        size = min(len(best), len(rest))
        by_chance[name] = [
            round(float(study.remove(random.permutation(rest)[:size].tolist())[0][number]), 4)
            for _ in range(RANDOM_SETS)
        ]
        similar = study.matched(chosen[name]["agreement"])
        matched[name] = round(float(study.remove(similar)[0][number]), 4)
    inserted = {
        name: study.insert(number, chosen[name]["agreement"], numpy_stream(seed, "insert", name))
        for number, name in enumerate(segment.classes)
    }
    return Dissection(
        list(segment.classes),
        layer,
        pixels,
        iou,
        shuffled,
        counts,
        chosen,
        lost,
        elsewhere,
        by_chance,
        matched,
        inserted,
    )


def agreement(
    generator: nn.Module, layer: str, segment: Segmenter, latents: Tensor, count: int
) -> tuple[Floats, Floats, Floats]:
    """IoU and shuffled IoU [units, classes], and the share of pixels of each class [classes]."""
    maps, labels = observe(generator, layer, segment, latents[:count])
    limits = thresholds(maps, labels, len(segment.classes))
    maps, labels = observe(generator, layer, segment, latents[count : 2 * count])
    pixels = np.bincount(labels.flatten().numpy(), minlength=len(segment.classes)) / labels.numel()
    own = intersection_over_union(maps, labels, limits)
    return own, intersection_over_union(maps, labels.roll(1, 0), limits), pixels


def observe(
    generator: nn.Module, layer: str, segment: Segmenter, latents: Tensor
) -> tuple[Tensor, Tensor]:
    """Maps upsampled to the image, float16 [n, units, S, S], and classes, int64 [n, S, S]."""
    maps, labels = [], []
    for x, image in passes(generator, layer, latents):
        size = list(image.shape[2:])
        large = F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False)
        maps.append(large.half().cpu())
        labels.append(segment(image.cpu()))
    return torch.cat(maps), torch.cat(labels)


@torch.no_grad()
def passes(generator: nn.Module, layer: str, latents: Tensor) -> Any:
    """Activations of the layer and images, a batch of latents at a time."""
    device = next((p.device for p in generator.parameters()), torch.device("cpu"))
    for start in range(0, len(latents), BATCH):
        z = latents[start : start + BATCH].to(device)
        x = generator.run_to(z, layer)  # type: ignore[operator]
        yield x, run_on(generator, layer, x, z)


def run_on(generator: nn.Module, layer: str, x: Tensor, z: Tensor) -> Tensor:
    """The image that a generator makes of a layer's activation."""
    if isinstance(generator, LayeredNetwork):
        return generator.run_from(x, layer, latents=z)
    image: Tensor = generator.run_from(x, layer)  # type: ignore[operator]
    return image


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


class Ablation:
    """Units of a layer set to 0 or to a value, and what becomes of the classes.

    Args: latents: of their own, shared with nothing else.
    """

    def __init__(
        self, generator: nn.Module, layer: str, segment: Segmenter, latents: Tensor
    ) -> None:
        self.generator, self.layer, self.segment, self.latents = generator, layer, segment, latents
        found = [(x.cpu(), segment(image.cpu())) for x, image in passes(generator, layer, latents)]
        self.activations = torch.cat([x for x, _ in found])
        self.before = torch.cat([labels for _, labels in found])
        self.sizes = self._sizes(self.before)

    def _sizes(self, labels: Tensor) -> Floats:
        return np.bincount(labels.flatten().numpy(), minlength=len(self.segment.classes)).astype(
            np.float64
        )

    @torch.no_grad()
    def _after(self, change: Callable[[Tensor, int], Tensor], rows: slice | None = None) -> Tensor:
        """Classes once activations are changed: int64 [n, S, S]."""
        activations = self.activations if rows is None else self.activations[rows]
        latents = self.latents if rows is None else self.latents[rows]
        device = next((p.device for p in self.generator.parameters()), torch.device("cpu"))
        out = []
        for start in range(0, len(activations), BATCH):
            x = change(activations[start : start + BATCH].clone(), start).to(device)
            z = latents[start : start + BATCH].to(device)
            out.append(self.segment(run_on(self.generator, self.layer, x, z).cpu()))
        return torch.cat(out)

    def remove(self, units: list[int]) -> tuple[Floats, Floats]:
        """Share of each class's pixels that vanish, and share of the other pixels that change."""

        def change(x: Tensor, _: int) -> Tensor:
            x[:, units] = 0
            return x

        after = self._after(change)
        gone = 1 - self._sizes(after) / np.maximum(self.sizes, 1)
        moved = (after != self.before).flatten().numpy()
        flat = self.before.flatten().numpy()
        by_class = np.bincount(flat[moved], minlength=len(self.sizes)).astype(np.float64)
        others = self.sizes.sum() - self.sizes
        return gone, (by_class.sum() - by_class) / np.maximum(others, 1)

    def effects(self, most: int = 128) -> Floats:
        """Share of each class's pixels lost when one unit is ablated: [units, classes]."""
        rows = slice(0, most)
        size = self._sizes(self.before[rows])

        def without(unit: int) -> Floats:
            def change(x: Tensor, _: int) -> Tensor:
                x[:, unit] = 0
                return x

            return 1 - self._sizes(self._after(change, rows)) / np.maximum(size, 1)

        return np.stack([without(unit) for unit in range(self.activations.shape[1])])

    def matched(self, units: list[int]) -> list[int]:
        """As many other units, the nearest in mean activation and in outgoing norm."""
        means = self.activations.float().mean((0, 2, 3)).numpy()
        norms = self._norms()
        place = np.stack([means / (means.std() + 1e-12), norms / (norms.std() + 1e-12)], 1)
        free = [u for u in range(len(means)) if u not in set(units)]
        found: list[int] = []
        for unit in units[: len(free)]:
            left = [u for u in free if u not in found]
            found.append(min(left, key=lambda u: float(((place[u] - place[unit]) ** 2).sum())))
        return found

    def _norms(self) -> Floats:
        """Length of the weights that leave each unit; ones where the next layer is not found."""
        units = self.activations.shape[1]
        if isinstance(self.generator, LayeredNetwork):
            names = [info.name for info in self.generator.layers()]
            after = names[names.index(self.layer) + 1 :]
            for module in self.generator.layer(after[0]).modules() if after else ():
                if isinstance(module, nn.ConvTranspose2d) and module.in_channels == units:
                    rows = module.weight.detach().float().flatten(1)
                    return np.asarray(rows.norm(dim=1).cpu().numpy(), np.float64)
                if isinstance(module, nn.Conv2d) and module.in_channels == units:
                    weight = module.weight.detach().float().transpose(0, 1)
                    return np.asarray(weight.flatten(1).norm(dim=1).cpu().numpy(), np.float64)
        return np.ones(units)

    def insert(self, number: int, units: list[int], random: np.random.Generator) -> dict[str, Any]:
        """How often a class appears where its units are switched on at one place, by row and by the
        class that was there before. The value is the units' mean over the class's own pixels.
        """
        side = self.activations.shape[2]
        scale = self.before.shape[1] // side
        cells = F.max_pool2d((self.before == number).float()[:, None], scale)[:, 0] > 0
        if not bool(cells.any()):
            return {"rate": 0.0, "by_row": [], "by_class": {}}
        inside = self.activations[:, units].permute(0, 2, 3, 1)[cells]
        value = inside.float().mean(0).to(self.activations)
        absent = np.argwhere(~cells.numpy())
        if not len(absent):
            return {"rate": 0.0, "by_row": [], "by_class": {}}
        places = absent[random.integers(0, len(absent), PLACES)]
        was, hit = [], []
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            rows = torch.from_numpy(some[:, 0])
            x = self.activations[rows].clone()
            for n, (_, down, across) in enumerate(some):
                x[n, units, down, across] = value
            device = next((p.device for p in self.generator.parameters()), torch.device("cpu"))
            with torch.no_grad():
                z = self.latents[rows].to(device)
                image = run_on(self.generator, self.layer, x.to(device), z)
            after = self.segment(image.cpu())
            for n, (row, down, across) in enumerate(some):
                top, left = down * scale, across * scale
                block = slice(top, top + scale), slice(left, left + scale)
                hit.append(bool((after[n][block] == number).any()))
                old = self.before[int(row)][block].flatten()
                was.append(int(old.mode().values))
        rate = np.array(hit)
        by_class = {
            name: round(float(rate[np.array(was) == n].mean()), 4)
            for n, name in enumerate(self.segment.classes)
            if (np.array(was) == n).sum() >= 10
        }
        by_row = [
            round(float(rate[places[:, 1] == row].mean()), 4)
            if (places[:, 1] == row).any()
            else None
            for row in range(side)
        ]
        return {"rate": round(float(rate.mean()), 4), "by_row": by_row, "by_class": by_class}


def middle_layer(generator: LayeredNetwork) -> str:
    """The first layer of maps after the projection: units there tend to carry objects."""
    return next(info.name for info in generator.layers() if info.kind == "deconv")


def random_network(generator: LayeredNetwork, seed: int) -> LayeredNetwork:
    """A copy with weights drawn anew; its batch norms keep their statistics of the batch."""
    import copy

    own = copy.deepcopy(generator)
    initialise(own, torch_stream(seed, "dissection", "random network"))
    for norm in own.norms().values():
        norm.training, norm.track = True, False
    return own.requires_grad_(False)


def before_and_after(
    generator: LayeredNetwork,
    layer: str,
    latents: Tensor,
    units: dict[str, dict[str, list[int]]],
    names: list[str],
) -> Images:
    """A row of samples, then a row for each class with its units ablated."""
    ((x, image),) = passes(generator, layer, latents)
    rows = [as_images(image)]
    for name in names:
        changed = x.clone()
        changed[:, units[name]["agreement"]] = 0
        with torch.no_grad():
            rows.append(as_images(run_on(generator, layer, changed, latents.to(x.device))))
    return np.concatenate(rows)


def heat_maps(generator: LayeredNetwork, layer: str, latents: Tensor, units: list[int]) -> Images:
    """Samples darkened where a unit is off: a row for each unit."""
    ((x, image),) = passes(generator, layer, latents)
    size = list(image.shape[2:])
    maps = F.interpolate(x[:, units].float(), size=size, mode="bilinear", align_corners=False)
    maps = maps / maps.amax((0, 2, 3), keepdim=True).clamp(min=1e-6)
    light = 0.15 + 0.85 * maps.clamp(0, 1)
    rows = [as_images((image + 1) * light[:, n : n + 1] - 1) for n in range(len(units))]
    return np.concatenate(rows)


def _histogram(segment: Segmenter, images: Tensor) -> list[float]:
    labels = segment(images).flatten().numpy()
    return _rounded(np.bincount(labels, minlength=len(segment.classes)) / len(labels))


def _row(found: Dissection, number: int) -> list[Any]:
    name = found.classes[number]
    best = int(found.iou[:, number].argmax())
    chance = found.random[name]
    return [
        name,
        f"{100 * found.pixels[number]:.1f} %",
        f"{found.iou[best, number]:.3f}",
        f"{found.shuffled[best, number]:.3f}",
        int(found.counts[:, number].sum()),
        f"{100 * found.lost[name]['agreement']:.0f} %",
        f"{100 * np.mean(chance):.0f} % ({100 * max(chance):.0f} %)",
        f"{100 * found.matched[name]:.0f} %",
        f"{100 * found.elsewhere[name]['agreement']:.0f} %",
    ]


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), 4) for value in values]


def _listed(names: list[str]) -> str:
    if not names:
        return "no class"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
