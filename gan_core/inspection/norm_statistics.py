"""Batch-norm statistics of several sets of images in one table, and what the choice does to the
features.

Each set's statistics are measured as extraction measures them (`features.extract.set_statistics`,
after the DCGAN authors' svhn/svhn_semisup_analysis.py): mean and biased variance of every norm's
input, averaged over batches of 128, each layer normalised by the same batch. The source set is a
random part of the training images. Distances from it are means over the channels of a norm:

    shift = |mean - mean_source| / sigma_source        spread = |ln(sigma / sigma_source)|

and the change of features is that of one set of images under the two statistics: the root of its
mean square, relative to the deviation of the features between images, averaged over layers.
Baseline: as many other training images (sampling noise). Positive control: these at half contrast.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.features.base import FeatureNetwork
from gan_core.features.extract import (
    STATISTICS_BATCH,
    extract_features,
    restore_statistics,
    set_statistics,
    statistics_of,
)
from gan_core.features.modes import select_layers
from gan_core.features.parquet import read_lineage, read_rows
from gan_core.features.views import WHOLE_IMAGE, Views
from gan_core.inspection.base import (
    Context,
    Figure,
    Images,
    Inspection,
    NotApplicable,
    Table,
    as_images,
)
from gan_core.networks.layers import EPS
from gan_core.randomness import numpy_stream
from gan_core.shards import PixelShards

ABOUT = "batch-norm statistics of training, evaluated and generated images, and of the snapshot"
TITLE = "Batch-norm statistics"
VERSION = 2
ORDER = 57
DEFAULT = False  # each set of images passes the network
NEEDS = ("features",)  # for the images that are evaluated
EXAMPLES = ({"images": 64},)

SOURCE, NOISE, CONTROL = "training images", "other training images", "at half contrast"
RUNNING, BATCH, GENERATED = "in the snapshot", "one batch", "generated images"
FEWEST = 8  # training images
READ = 256  # images whose features are compared
DIFFERS = 2.0  # times the sampling noise from which a set is called different (ours)
Floats = npt.NDArray[np.float64]


class Options(Section):
    """How many images are measured."""

    images: int = Field(1024, ge=FEWEST, description="images of each set, at most")


@dataclass(frozen=True)
class Distance:
    """A set's distance from the source: float64 [norms] each, and the change of features."""

    shift: Floats
    spread: Floats
    features: float

    def rounded(self) -> dict[str, float]:
        """Means over norms, for JSON."""
        found = {
            "shift": self.shift.mean(),
            "spread": self.spread.mean(),
            "features": self.features,
        }
        return {name: round(float(value), 6) for name, value in found.items()}


def inspect(context: Context, options: Options) -> Inspection:
    """Statistics of every norm by set, and their distances from those of the source."""
    lineage = read_lineage(context.features) if context.features else {}
    network = copy.deepcopy(
        context.snapshot.feature_network(lineage.get("network", {}).get("role"))
    )
    network.without_labels = True  # as in extraction
    views = Views(**lineage["views"]) if "views" in lineage else WHOLE_IMAGE
    if not network.norms():
        raise NotApplicable("The network that gives the features has no batch norm.")
    sets = image_sets(context, options.images)
    found: dict[str, dict[str, Tensor]] = {RUNNING: statistics_of(network)}
    for name, images in sets.items():
        found[name] = measure(network, images, views, context)
    found = {name: found[name] for name in (SOURCE, NOISE, RUNNING, *sets)}
    # those that images pass: of others, networks of another role, nothing is measured
    norms = [
        name
        for name in network.norms()
        if not torch.equal(found[SOURCE][f"{name}.mean"], found[NOISE][f"{name}.mean"])
    ]
    read = next(name for name in (*_evaluated(sets), NOISE) if name in sets)
    features = {
        name: features_under(network, one, sets[read][:READ], views, context.device)
        for name, one in found.items()
    }
    distances = {
        name: Distance(
            *distance(one, found[SOURCE], norms), change(features[name], features[SOURCE])
        )
        for name, one in found.items()
        if name != SOURCE
    }
    counts = {name: len(images) for name, images in sets.items()}
    used = lineage.get("statistics", {}).get("kind", "real")
    numbers = {
        "distances": {name: one.rounded() for name, one in distances.items()},
        "norms": {
            norm: {name: _moments(one, norm) for name, one in found.items()} for norm in norms
        },
        "images": counts,
        "extraction": used,
        "read": read,
    }
    return Inspection(
        _sentence(distances, used, read),
        numbers,
        [Figure("norm_statistics", _chart(distances, norms))],
        _tables(found, distances, norms, counts, read),
    )


def image_sets(context: Context, count: int) -> dict[str, Images]:
    """Images of each set, at most `count` of them: uint8 [n, S, S, 3]. No image of the source is in
    another set of training images.
    """
    training = context.training_set
    count = min(count, len(training) // 2)
    if count < FEWEST:
        raise NotApplicable(
            f"Batch-norm statistics need {2 * FEWEST} training images; there are {len(training)}."
        )
    order = numpy_stream(context.seed, "inspect", "norm statistics").permutation(len(training))
    other = training.pixels(np.sort(order[count : 2 * count]))
    sets = {
        SOURCE: training.pixels(np.sort(order[:count])),
        NOISE: other,
        BATCH: training.pixels(np.sort(order[count : count + STATISTICS_BATCH])),
    }
    if context.features is not None:
        split, images = evaluated_images(context, count)
        if images.shape[1:] != other.shape[1:]:
            raise NotApplicable(
                f"Evaluated images have {images.shape[1]} px and training images {other.shape[1]}: "
                "these features are not of this snapshot."
            )
        sets[f"{split} images"] = images
    if "generator" in context.snapshot.networks:
        sets[GENERATED] = as_images(context.samples(count, "norm statistics"))
    sets[CONTROL] = np.rint(127.5 + 0.5 * (other - 127.5)).astype(np.uint8)
    return sets


def evaluated_images(context: Context, count: int) -> tuple[str, Images]:
    """The split and at most `count` images of the source that is evaluated: those of the test
    split, of the validation split where there is none.
    """
    assert context.features is not None and context.crops is not None  # they are given together
    table = read_rows(context.features)
    splits = table["split"].to_numpy(zero_copy_only=False)
    split = "test" if (splits == "test").any() else "validation"
    rows = np.flatnonzero(splits == split)
    if len(rows) < 2:
        raise NotApplicable("There are no evaluated images in the splits test and validation.")
    order = numpy_stream(context.seed, "inspect", "norm statistics", "target").permutation(rows)
    chosen = table.take(np.sort(order[:count]))
    shards = PixelShards(context.crops)
    places = shards.rows_of(chosen["image_id"].to_pylist(), chosen["box"].to_pylist())
    return split, shards.pixels(places)


def measure(
    network: FeatureNetwork, images: Images, views: Views, context: Context
) -> dict[str, Tensor]:
    """Statistics over images uint8 [n, S, S, 3] as '<norm>.mean' and '<norm>.variance' [channels];
    the network keeps them.
    """
    count, seed = len(images), context.seed
    set_statistics(network, lambda rows: images[rows], count, count, seed, context.device, views)
    return statistics_of(network)


def distance(
    statistics: dict[str, Tensor], source: dict[str, Tensor], norms: list[str]
) -> tuple[Floats, Floats]:
    """Shift and spread of each norm (see the head of this file): float64 [norms] each."""
    shift, spread = [], []
    for norm in norms:
        sigma, of_source = (
            (one[f"{norm}.variance"].double() + EPS).sqrt() for one in (statistics, source)
        )
        moved = statistics[f"{norm}.mean"].double() - source[f"{norm}.mean"].double()
        shift.append(float((moved.abs() / of_source).mean()))
        spread.append(float((sigma / of_source).log().abs().mean()))
    return np.array(shift), np.array(spread)


def features_under(
    network: FeatureNetwork,
    statistics: dict[str, Tensor],
    images: Images,
    views: Views,
    device: str,
) -> list[npt.NDArray[np.float32]]:
    """Features of images by layer, float32 [n, values], the norms using `statistics`."""
    restore_statistics(network, statistics)
    selection = select_layers(network, views=views)
    found, _ = extract_features(network.activations, images, selection, device=device)
    return [values.reshape(len(values), -1).astype(np.float32) for values in found.values()]


def change(features: list[npt.NDArray[np.float32]], source: list[npt.NDArray[np.float32]]) -> float:
    """Change of features relative to their deviation between images, averaged over layers."""
    ratios = [
        np.sqrt(np.square(a - b).mean() / max(b.var(0).mean(), 1e-12))
        for a, b in zip(features, source, strict=True)
    ]
    return float(np.mean(ratios))


def _evaluated(sets: dict[str, Images]) -> list[str]:
    return [name for name in ("test images", "validation images") if name in sets]


def _moments(statistics: dict[str, Tensor], norm: str) -> dict[str, float]:
    """Mean and standard deviation of a norm's input, averaged over channels."""
    deviation = statistics[f"{norm}.variance"].sqrt().mean()
    return {
        "mean": round(float(statistics[f"{norm}.mean"].mean()), 6),
        "deviation": round(float(deviation), 6),
    }


def _sentence(distances: dict[str, Distance], used: str, read: str) -> str:
    noise = distances[NOISE].features
    names = [name for name in distances if name not in (NOISE, CONTROL)]
    far = [name for name in names if distances[name].features > DIFFERS * noise]
    words = {name: f"{name} {100 * distances[name].features:.1f} %" for name in distances}
    own = "those stored in the snapshot" if used == "running" else "those over training images"
    text = f"Extraction uses {own}. "
    if distances[CONTROL].features <= DIFFERS * noise:
        return text + (
            "This comparison has no power here: images at half contrast change the features by "
            f"{100 * distances[CONTROL].features:.1f} %, other training images by "
            f"{100 * noise:.1f} %."
        )
    text += (
        f"Statistics over {NOISE} change the features of {read} by "
        f"{100 * noise:.1f} % of their deviation, which is sampling noise"
    )
    near = [words[name] for name in names if name not in far]
    if near:
        text += f"; within {DIFFERS:g} times that: " + ", ".join(near)
    if far:
        text += "; beyond it: " + ", ".join(words[name] for name in far)
    return text + f" (positive control: {words[CONTROL]})."


def _tables(
    found: dict[str, dict[str, Tensor]],
    distances: dict[str, Distance],
    norms: list[str],
    counts: dict[str, int],
    read: str,
) -> list[Table]:
    def cell(name: str, norm: str) -> str:
        one = _moments(found[name], norm)
        return f"{one['mean']:.3f} ± {one['deviation']:.3f}"

    by_norm = Table(
        ["norm", *(name.removesuffix(" images") for name in found)],  # short: many columns
        [[norm, *(cell(name, norm) for name in found)] for norm in norms],
        "Input of each norm: mean ± standard deviation of a channel, averaged over channels; each "
        "layer is normalised by the same set.",
    )
    by_set = Table(
        ["statistics of", "images", "shift", "spread", "change of features"],
        [
            [
                name,
                counts.get(name, "-"),
                f"{one.shift.mean():.3f}",
                f"{one.spread.mean():.3f}",
                f"{100 * one.features:.1f} %",
            ]
            for name, one in distances.items()
        ],
        f"Distance from the statistics of {counts[SOURCE]} {SOURCE}, averaged over channels and "
        "norms: shift of the mean in standard deviations, logarithm of the ratio of standard "
        f"deviations; and by how much the features of {min(counts[read], READ)} {read} change.",
    )
    return [by_set, by_norm]


def _chart(distances: dict[str, Distance], norms: list[str]) -> Images:
    """Shift and spread by norm, a line for each set, on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas((9, 4.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    titles = {"shift": "shift of the mean / σ", "spread": "|ln(σ / σ of training images)|"}
    for axes, (kind, title) in zip((left, right), titles.items(), strict=True):
        for name, one in distances.items():
            style = "k--" if name == NOISE else "k:" if name == CONTROL else "o-"
            axes.plot(norms, getattr(one, kind), style, label=name)
        axes.set(title=title, yscale="log")
        if len(norms) > 4:
            axes.set_xticks(
                range(len(norms)), norms, rotation=60, ha="right", rotation_mode="anchor"
            )
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()
