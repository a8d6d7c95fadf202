"""How far generated images are from training images, as distances of features.

With Inception weights (`weights`, read by torch-fidelity): FID, KID, IS, precision and recall.
Without them the same formulas on the discriminator's layers, under names that say so: they compare
only with numbers of the same extractor, training set and number of images.

Training images are divided into two halves that share none. One is what everything is compared
with; the other gives the floor, and, blurred and with noise added, the positive control: a metric
that does not rank those above the floor measures nothing here. Samples are compared as they are and
with the contrast of training images. For a conditional generator also the DCGAN authors' test
(mnist/train_cond_dcgan.py): a nearest-neighbour classifier on generated, labelled samples labels
real images.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from gan_core.config import Section
from gan_core.errors import RequestError
from gan_core.inspection.attributes import EXTRACTORS, extractor_of
from gan_core.inspection.base import (
    Context,
    Images,
    Inspection,
    NotApplicable,
    Table,
    as_float,
    as_images,
    image_sheet,
    match_contrast,
)
from gan_core.metrics.generation import (
    SUBSET_SIZE,
    Floats,
    Products,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from gan_core.metrics.intervals import wilson
from gan_core.networks.snapshot import generate
from gan_core.probes.knn import Neighbours
from gan_core.randomness import numpy_stream, torch_stream

ABOUT = "distances of samples to training images: FID and others, or their like without Inception"
TITLE = "Distance to training images"
VERSION = 1
ORDER = 110
DEFAULT = False  # seconds to minutes
EXAMPLES = ({"images": 64},)

FEWEST = 64  # images on either side
BLUR, NOISE = 1.0, 20.0  # of the control: standard deviations in pixels, and in levels of 255
BATCH = 64  # images that Inception reads at once
SHOWN = 8
SAMPLES, MATCHED, FLOOR, BLURRED, NOISY = (
    "samples",
    "samples with the contrast of training images",
    "other training images (floor)",
    "those blurred (control)",
    "those with noise (control)",
)


class Options(Section):
    """How many images, and which features."""

    images: int = Field(2000, ge=FEWEST, description="samples, and training images of each half")
    extractor: Literal["random", "discriminator"] = Field(
        "random",
        description="without weights: the discriminator's layers with random weights, or as "
        "trained",
    )
    weights: str = Field(
        "",
        description="file of torch-fidelity's Inception weights (weights-inception-2015-12-05): "
        "then FID, KID and IS",
    )


@dataclass(frozen=True)
class Extractor:
    """Features of images, and what they are called.

    Attributes:
        read: float [n, 3, S, S] in [-1, 1] to features [n, dims] and class logits [n, classes],
            or None.
        names: of the Frechet and of the kernel distance.
        about, resizer, library: what the figures depend on.
    """

    read: Callable[[Tensor], tuple[Floats, Tensor | None]]
    names: tuple[str, str]
    about: str
    resizer: str
    library: str


def inspect(context: Context, options: Options) -> Inspection:
    """Distances of samples, of real images and of degraded ones to training images."""
    half = min(options.images, len(context.training_set) // 2)
    if half < FEWEST:
        raise NotApplicable(f"The distance needs {2 * FEWEST} training images.")
    order = numpy_stream(context.seed, "inspect", "generation").permutation(
        len(context.training_set)
    )
    reference, other = (
        as_float(context.training_set.pixels(rows))
        for rows in (order[:half], order[half : 2 * half])
    )
    sets = _sets(context, reference, other)
    extractor = _inception(options.weights, context.device) if options.weights else None
    extractor = extractor or _of_discriminator(context, options.extractor, reference)
    real, _ = extractor.read(reference)
    found = {name: _measured(extractor, images, real) for name, images in sets.items()}
    power = all(
        found[name][metric] > found[FLOOR][metric]
        for name in (BLURRED, NOISY)
        for metric in ("frechet", "kernel")
    )
    numbers: dict[str, Any] = {
        "metrics": {name.split(" (")[0]: one for name, one in found.items()},
        "names": dict(zip(("frechet", "kernel"), extractor.names, strict=True)),
        "extractor": extractor.about,
        "images": half,
        "resizer": extractor.resizer,
        "library": extractor.library,
        "power": power,
    }
    tables = [_table(found, extractor, half)]
    name = extractor.names[0]
    sentence = (
        f"The {name} of {half} samples to {half} training images is {_shown(found, SAMPLES)}, with "
        f"the contrast of training images {_shown(found, MATCHED)}; of other training images "
        f"{_shown(found, FLOOR)}, of those blurred {_shown(found, BLURRED)} and with noise "
        f"{_shown(found, NOISY)}."
    )
    warnings = []
    if not power:
        warnings.append(
            f"The {name} or the {extractor.names[1]} does not rank degraded training images "
            "above others: it has no power here."
        )
    if context.snapshot.prior.classes:
        labelled = _labelled_test(context, order[:half], order[half : 2 * half])
        if labelled is not None:
            numbers["labelled_1nn"], table, text = labelled
            tables.append(table)
            sentence += text
    rows = [as_images(sets[name][:SHOWN]) for name in (SAMPLES, MATCHED, FLOOR, BLURRED, NOISY)]
    caption = f"from above: {'; '.join(sets)}"
    figures = [image_sheet("generation", np.stack(rows), SHOWN, caption)]
    return Inspection(" ".join([sentence, *warnings]), numbers, figures, tables, warnings)


def _sets(context: Context, reference: Tensor, other: Tensor) -> dict[str, Tensor]:
    """Name to the images that are compared with the reference: samples, and real images as they
    are and degraded.
    """
    samples = as_float(as_images(context.samples(len(other), "generation")))
    noise = torch.randn(
        other.shape, generator=torch_stream(context.seed, "inspect", "generation noise")
    )
    return {
        SAMPLES: samples,
        MATCHED: match_contrast(samples, reference),
        FLOOR: other,
        BLURRED: gaussian_blur(other, [7, 7], [BLUR, BLUR]),
        NOISY: (other + noise * NOISE / 127.5).clamp(-1, 1),
    }


def _measured(extractor: Extractor, images: Tensor, real: Floats) -> dict[str, float]:
    features, logits = extractor.read(images)
    products = Products.of(features, real)
    # subsets of all images would not differ
    size = min(SUBSET_SIZE, len(features) // 2)
    kernel, deviation = kernel_distance(products, size=size)
    precision, recall = precision_recall(products)
    found = {
        "frechet": frechet_distance(features, real),
        "kernel": kernel,
        "kernel_sd": deviation,
        "precision": precision,
        "recall": recall,
    }
    if logits is not None:
        from torch_fidelity.metric_isc import isc_features_to_metric

        scores = isc_features_to_metric(logits)
        found |= {name.removeprefix("inception_"): float(v) for name, v in scores.items()}
    return {name: round(value, 6) for name, value in found.items()}


def _shown(found: dict[str, dict[str, float]], name: str) -> str:
    return f"{found[name]['frechet']:.4g}"


def _table(found: dict[str, dict[str, float]], extractor: Extractor, count: int) -> Table:
    frechet, kernel = extractor.names
    scored = "score_mean" in found[SAMPLES]
    rows = [
        [
            name,
            f"{one['frechet']:.4g}",
            f"{one['kernel']:.3g} ± {one['kernel_sd']:.2g}",
            *([f"{one['score_mean']:.3f} ± {one['score_std']:.3f}"] if scored else []),
            f"{one['precision']:.3f}",
            f"{one['recall']:.3f}",
        ]
        for name, one in found.items()
    ]
    columns = ["images", frechet, kernel, *(["IS"] if scored else []), "precision", "recall"]
    caption = (
        f"{count} images each, against {count} training images; features: {extractor.about}; "
        f"resizer: {extractor.resizer}; {extractor.library}. ± is the standard deviation over "
        f"subsets{' or splits' if scored else ''}."
    )
    return Table(columns, rows, caption)


def _of_discriminator(context: Context, name: str, real: Tensor) -> Extractor:
    features = extractor_of(context, name, real)

    def read(images: Tensor) -> tuple[Floats, None]:
        return features(images).astype(np.float64), None

    label = {"random": "random-weight", "discriminator": "discriminator"}[name]
    size = f"none, {real.shape[-1]} px"
    return Extractor(
        read,
        (f"{label} Frechet distance", f"{label} kernel distance"),
        f"{EXTRACTORS[name]}, maps averaged, standardised, {len(features.mean):,} values",
        size,
        f"torch {torch.__version__}",
    )


def _inception(weights: str, device: str) -> Extractor:
    """Inception's features of 2,048 values through torch-fidelity.

    Raises: RequestError: no such file, one that is not these weights, no torch-fidelity.
    """
    path = Path(weights).expanduser()
    remedy = (
        "download weights-inception-2015-12-05-6726825d.pth from the releases of torch-fidelity "
        "(v0.2.0), or leave `weights` out for distances on the discriminator's layers"
    )
    if not path.is_file():
        raise RequestError(
            f"There is no file of Inception weights at {weights}.",
            expected="a file on this machine",
            remedy=remedy,
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise RequestError(
            "FID, KID and IS are computed with torch-fidelity, which is not installed.",
            remedy="pip install 'discern-gan[metrics]'",
        ) from None
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # a file that runs code is refused
        network: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], str(path)
        ).to(device)
    except Exception as error:
        raise RequestError(
            f"{weights} does not hold torch-fidelity's Inception weights: {error}",
            remedy=remedy,
        ) from error

    def read(images: Tensor) -> tuple[Floats, Tensor]:
        pixels = torch.from_numpy(as_images(images)).permute(0, 3, 1, 2)
        with torch.no_grad():
            parts = [
                [one.cpu() for one in network(batch.to(device))]
                for batch in torch.split(pixels, BATCH)
            ]
        features, logits = (torch.cat(list(one)) for one in zip(*parts, strict=True))
        return features.double().numpy(), logits

    return Extractor(
        read,
        ("FID", "KID"),
        f"Inception, {path.name}, 2,048 values",
        "bilinear to 299 px as in TensorFlow 1",
        f"torch-fidelity {importlib.metadata.version('torch-fidelity')}",
    )


def _labelled_test(
    context: Context, known: Any, asked: Any
) -> tuple[dict[str, Any], Table, str] | None:
    """Error of 1-NN on labelled samples, and on as many real images, that label the others; None
    where the training set has no labels.
    """
    labels = pc.fill_null(context.training_set.table["label"], -1).to_numpy()
    known, asked = known[labels[known] >= 0], asked[labels[asked] >= 0]
    if not len(known) or not len(asked):
        return None
    classes = torch.arange(len(known)) % context.snapshot.prior.classes
    latents = context.latents(len(known), "generation labelled")
    drawn = as_images(generate(context.snapshot, latents, labels=classes))
    real, queries = (context.training_set.pixels(rows) for rows in (known, asked))
    answers = {
        "labelled samples": (drawn, classes.numpy()),
        "real images": (real, labels[known]),
    }
    found: dict[str, Any] = {"queries": len(asked), "known": len(known)}
    rows = []
    for name, (images, truth) in answers.items():
        nearest = Neighbours(_flat(images), "cpu").nearest(_flat(queries), 1)[:, 0]
        error = float((truth[nearest] != labels[asked]).mean())
        low, high = wilson(error, len(asked))
        found[name.replace(" ", "_")] = {
            "error": round(error, 6),
            "low": round(low, 6),
            "high": round(high, 6),
        }
        rows.append([name, f"{100 * error:.2f} %", f"{100 * low:.2f} to {100 * high:.2f}"])
    table = Table(
        ["1-NN on", "error", "95 % interval"],
        rows,
        f"{len(asked)} real images labelled by their nearest of {len(known)}, on pixels.",
    )
    text = (
        f" A nearest-neighbour classifier on {len(known)} labelled samples mislabels {rows[0][1]} "
        f"of real images, on as many real ones {rows[1][1]}."
    )
    return found, table, text


def _flat(images: Images) -> Any:
    return images.reshape(len(images), -1).astype(np.float32)
