"""Reconstructions G(E(x)) of training images: how far they are from x, and whether they keep its
class (Donahue and Simonyan 2019, 1907.02544, section 3.2: semantic rather than pixel agreement).

A logistic probe on the discriminator's features of labelled training images names the classes;
reconstructions are given the contrast of training images before. The images measured are not among
those that the probe was fitted on; the GAN was trained on both.
Baselines: the accuracy on the images themselves, and the reconstruction of another image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.inspection.attributes import Features
from gan_core.inspection.base import (
    Context,
    Inspection,
    NotApplicable,
    Table,
    as_float,
    as_images,
    image_sheet,
)
from gan_core.methods.base import pairs, relative_distance
from gan_core.metrics.intervals import wilson
from gan_core.networks.snapshot import generate
from gan_core.probes import logistic
from gan_core.randomness import numpy_stream

ABOUT = "reconstructions G(E(x)) beside real images: pixel error, and whether the class is kept"
TITLE = "Reconstructions"
VERSION = 2
ORDER = 25
NEEDS = ("encoder",)
EXAMPLES = ({"images": 50, "probe_images": 100},)

COLUMNS, ROWS = 8, 4  # of the figure
FEWEST = 50  # labelled images on either side of the probe
C = 1e-3  # inverse regularisation of the probe, on standardised features
BATCH = 256
Bools = npt.NDArray[np.bool_]


class Options(Section):
    """How many images are used."""

    images: int = Field(1000, ge=FEWEST, description="training images that are reconstructed")
    probe_images: int = Field(
        4000, ge=FEWEST, description="labelled training images that the probe is fitted on"
    )


def inspect(context: Context, options: Options) -> Inspection:
    """Rows of images above their reconstructions, relative errors, and the classes kept."""
    if "encoder" not in context.snapshot.networks:
        raise NotApplicable("Reconstructions need an encoder; this method trains none.")
    count = min(options.images, len(context.training_set) // 2)
    if not count:
        raise NotApplicable("There is no training set to take images of.")
    order = numpy_stream(context.seed, "inspect", "reconstructions").permutation(
        len(context.training_set)
    )
    rows, others = order[:count], order[count : count + options.probe_images]
    images = as_float(context.training_set.pixels(rows))
    rebuilt = reconstruct(context, images)
    numbers: dict[str, float | int | dict[str, float]] = {
        "images": count,
        "pixel_error": round(float(relative_distance(rebuilt, images)), 4),
    }
    sentence = (
        f"Reconstructions are {numbers['pixel_error']:.2f} times as far from their images, in "
        "pixels, as other images are."
    )
    shown = pairs(images[: COLUMNS * ROWS], rebuilt[: COLUMNS * ROWS], COLUMNS)
    figure = image_sheet(
        "reconstructions", as_images(shown), COLUMNS, "Training images, each row above its G(E(x))"
    )
    found = kept_classes(context, images, rebuilt, rows, others)
    if found is None:
        return Inspection(sentence + " Without labels no class can be compared.", numbers, [figure])
    shares = {name: _share(hits) for name, hits in found.items()}
    numbers |= shares
    ours, chance = shares["reconstruction"], shares["another"]
    verdict = "keep" if ours["low"] > chance["high"] else "do not keep"
    sentence += (
        f" They {verdict} the class: a probe gives {100 * ours['mean']:.1f} % of them the label of "
        f"their image, {100 * chance['mean']:.1f} % the label of another image, and "
        f"{100 * shares['original']['mean']:.1f} % of the images themselves their own label."
    )
    names = {
        "original": "images: own label",
        "reconstruction": "reconstructions: label of their image",
        "same": "reconstructions: what the probe says of their image",
        "another": "reconstructions: label of another image",
    }
    table = Table(
        ["what the probe says of", "share", "95 % interval"],
        [
            [
                words,
                f"{100 * shares[name]['mean']:.1f} %",
                f"{100 * shares[name]['low']:.1f} to {100 * shares[name]['high']:.1f} %",
            ]
            for name, words in names.items()
        ],
        f"{len(found['original'])} labelled training images that the probe was not fitted on.",
    )
    return Inspection(sentence, numbers, [figure], [table])


def _share(hits: Bools) -> dict[str, float]:
    """Mean and 95 % interval of bool [n]."""
    mean = float(hits.mean())
    low, high = wilson(mean, len(hits))
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}


@torch.no_grad()
def reconstruct(context: Context, images: Tensor) -> Tensor:
    """G(E(x)) of images float32 [n, 3, S, S], on the CPU."""
    out = []
    for batch in torch.split(images, BATCH):
        code, _, _ = context.snapshot.method.feature_inputs("generator", batch.to(context.device))
        out.append(generate(context.snapshot, code))
    return torch.cat(out)


def kept_classes(
    context: Context,
    images: Tensor,
    rebuilt: Tensor,
    rows: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
) -> dict[str, Bools] | None:
    """Whether a probe's class is the wanted one, for every labelled image: bool [n] each.

    Args: rows: of `images` in the training set; others: of those that the probe is fitted on.
    Returns: original, reconstruction, same, another (see the table); None where labels are few.
    """
    labels = np.array(
        [
            -1 if label is None else label
            for label in context.training_set.table["label"].to_pylist()
        ]
    )
    others, labelled = others[labels[others] >= 0], labels[rows] >= 0
    if min(len(others), labelled.sum()) < FEWEST or len(np.unique(labels[others])) < 2:
        return None
    role = "discriminator" if "discriminator" in context.snapshot.networks else None
    fitted_on = as_float(context.training_set.pixels(others))
    features = Features(context.snapshot.feature_network(role), fitted_on, context.device)
    (probe,) = logistic.fit(features(fitted_on), labels[others], [C], device=context.device)
    wanted, kept = labels[rows][labelled], torch.from_numpy(labelled)
    original = probe.predict(features(images[kept]))
    after = probe.predict(features(context.match(rebuilt[kept])))
    return {
        "original": original == wanted,
        "reconstruction": after == wanted,
        "same": after == original,
        "another": after == np.roll(wanted, 1),
    }
