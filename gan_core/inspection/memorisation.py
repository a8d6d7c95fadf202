"""Whether a generator draws its training images, by a check that must find planted ones.

Samples get the training images' contrast. Each is compared with every training image by the
correlation of their pixels, at the best of 25 shifts of up to two pixels; brightness and contrast
do not count. A sample counts as drawn from memory when it is more similar to a training image than
99 % of training images are to their nearest other one: that quantile is the threshold, and the rate
among training images is the baseline. The same search must find training images that were degraded
as samples are (their contrast, a shift of one pixel, noise of 8 levels): a check that finds fewer
than 90 % of these has no power, and says so.

The verification of stage dedup, which also aligns turned and stretched copies, is no help here: it
found 62 % of such planted copies on CIFAR-10 and none on digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.errors import WorkError
from gan_core.inspection.base import (
    Context,
    Images,
    Inspection,
    NotApplicable,
    Table,
    as_float,
    as_images,
    contrast_ratio,
    image_sheet,
    match_contrast,
)
from gan_core.metrics.intervals import wilson
from gan_core.networks.snapshot import Snapshot, generate, sample_latents
from gan_core.randomness import numpy_stream, torch_stream

ABOUT = "whether samples are copies of training images, with a positive control"
TITLE = "Memorisation"
VERSION = 1
ORDER = 60
EXAMPLES = ({"samples": 32, "planted": 16},)
POWER = 0.9  # share of planted copies that the check must find
SHIFT, NOISE = 1, 8.0  # pixels, levels of 255
SHOWN = 8  # suspicious samples that are shown above their training image
REACH = 2  # pixels of shift that are tried each way
QUANTILE = 0.99
BASELINE = 1000  # training images whose nearest other one gives the threshold
Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


class Options(Section):
    """How much is searched."""

    samples: int = Field(1024, ge=16, description="samples that are looked up")
    planted: int = Field(256, ge=16, description="degraded training images that must be found")
    against: int = Field(20_000, ge=16, description="training images searched, at most")


def inspect(context: Context, options: Options) -> Inspection:
    """Rates with intervals: samples, planted copies, training images among themselves."""
    training = context.training_images(options.against, "memorisation")
    samples = as_images(context.samples(options.samples, "memorisation"))
    found = check(samples, training, planted=options.planted, seed=context.seed)
    rates = {
        name: _rate(found[name], of)
        for name, of in (
            ("samples", len(samples)),
            ("planted", found["planted_count"]),
            ("training", found["training_count"]),
        )
    }
    power = rates["planted"]["rate"] >= POWER
    one = rates["samples"]
    sentence = (
        f"{found['samples']} of {len(samples)} samples ({100 * one['rate']:.2f} %, 95 % interval "
        f"{100 * one['low']:.2f} to {100 * one['high']:.2f}) are more similar to one of "
        f"{len(training)} training images than 99 % of training images are to their nearest other "
        "one. The check finds "
        f"{100 * rates['planted']['rate']:.1f} % of planted copies"
        + ("." if power else ": it has no power here, and a low rate means nothing.")
    )
    numbers = {
        "rates": rates,
        "power": power,
        "contrast_ratio": found["contrast_ratio"],
        "threshold": found["threshold"],
        "against": len(training),
    }
    rows = [
        [
            name,
            f"{100 * r['rate']:.2f} %",
            f"{100 * r['low']:.2f} to {100 * r['high']:.2f}",
            r["of"],
        ]
        for name, r in rates.items()
    ]
    table = Table(["looked up", "memorised", "95 % interval", "of"], rows)
    queries, rows_of = found["suspicious"]
    shown = queries[:SHOWN]
    figures = []
    if len(shown):
        pairs = np.concatenate([samples[shown], training[rows_of[:SHOWN]]])
        caption = "the most similar samples (above) and their training images (below)"
        figures = [image_sheet("memorised", pairs, len(shown), caption)]
    warnings = [] if power else ["The memorisation check has no power on this set."]
    return Inspection(sentence, numbers, figures, [table], warnings)


def check(samples: Images, training: Images, *, planted: int, seed: int) -> dict[str, Any]:
    """Counts of memorised images among samples, planted copies and training images.

    Args: samples, training: uint8 [n, S, S, 3], [m, S, S, 3].
    Returns: samples, planted, training (counts), planted_count, training_count, contrast_ratio,
        threshold, suspicious: the most similar samples and their training images.
    Raises: NotApplicable: fewer than 16 training images.
    """
    memorised = Memorised(training, seed)
    ratio = contrast_ratio(as_float(samples), memorised.real)
    order = numpy_stream(seed, "memorisation", "planted").permutation(len(training))
    some = np.sort(order[:planted])
    threshold, baseline = memorised.threshold, memorised.baseline
    score, partner = memorised.nearest(samples)
    found, row = memorised.nearest(degrade(training[some], ratio, seed))
    right = [
        bool(value > threshold and np.array_equal(training[one], training[wanted]))
        for value, one, wanted in zip(found, row, some, strict=True)
    ]
    best = np.argsort(-score, kind="stable")
    return {
        "samples": int((score > threshold).sum()),
        "planted": sum(right),
        "training": int((baseline > threshold).sum()),
        "planted_count": len(some),
        "training_count": len(baseline),
        "contrast_ratio": round(ratio, 4),
        "threshold": round(threshold, 4),
        "suspicious": (best, partner[best]),
    }


class Memorised:
    """Tells which images are copies of training images. Args: training: uint8 [m, S, S, 3]."""

    def __init__(self, training: Images, seed: int) -> None:
        if len(training) < 16:
            raise NotApplicable("There are too few training images to compare with.")
        order = numpy_stream(seed, "memorisation", "baseline").permutation(len(training))
        rows = np.sort(order[:BASELINE])
        self.real = as_float(training[:2048])
        self.similarity = Similarity(training)
        self.baseline = self.similarity.nearest(training[rows], skip=rows)[0]
        self.threshold = float(np.quantile(self.baseline, QUANTILE))

    def nearest(self, images: Images) -> tuple[Scores, Rows]:
        """The similarity of contrast-matched images to their nearest training image, and its
        row.
        """
        return self.similarity.nearest(as_images(match_contrast(as_float(images), self.real)))

    def __call__(self, images: Images) -> npt.NDArray[np.bool_]:
        """Which images are more similar than the threshold: bool [n]."""
        return self.nearest(images)[0] > self.threshold


class Similarity:
    """Training images, searchable by correlation at small shifts. Args: images: uint8 [m, S,
    S, 3].
    """

    def __init__(self, images: Images) -> None:
        self._grey = bool((images == images[..., :1]).all())
        self._interior = self._rows(_blurred(images)[:, :, REACH:-REACH, REACH:-REACH])

    def _rows(self, images: Tensor) -> Tensor:
        """Rows whose product is the correlation. With grey training images a query's channels are
        added before the product, which is the same number for a third of the work.
        """
        rows = _standardised(images)
        return rows.view(len(rows), 3, -1).sum(1) / 3**0.5 if self._grey else rows

    def nearest(self, queries: Images, skip: Rows | None = None) -> tuple[Scores, Rows]:
        """The best correlation of each query with a training image, -1 to 1, and that image's row.

        Args: skip: for each query a training row that does not count (the query itself).
        """
        blurred = _blurred(queries)
        side = blurred.shape[-1] - 2 * REACH
        best = torch.full((len(queries),), -2.0)
        row = torch.zeros(len(queries), dtype=torch.int64)
        for down in range(2 * REACH + 1):
            for across in range(2 * REACH + 1):
                cut = blurred[:, :, down : down + side, across : across + side]
                value, place = self._best(self._rows(cut), skip)
                row = torch.where(value > best, place, row)
                best = torch.maximum(value, best)
        return best.numpy().astype(np.float64), row.numpy()

    def _best(self, queries: Tensor, skip: Rows | None) -> tuple[Tensor, Tensor]:
        values, places = [], []
        for start in range(0, len(queries), 256):
            scores = queries[start : start + 256] @ self._interior.T
            if skip is not None:
                chosen = torch.from_numpy(skip[start : start + 256])
                scores[torch.arange(len(scores)), chosen] = -2.0
            value, place = scores.max(1)
            values.append(value)
            places.append(place)
        return torch.cat(values), torch.cat(places)


def _blurred(images: Images) -> Tensor:
    """float32 [n, 3, S, S], each pixel the mean of its 3 x 3 neighbourhood: noise counts less."""
    return torch.nn.functional.avg_pool2d(as_float(images), 3, 1, 1, count_include_pad=False)


def _standardised(images: Tensor) -> Tensor:
    """Rows of mean 0 and length 1: [n, values]. The product of two rows is their correlation."""
    rows = images.flatten(1)
    return torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)


def degrade(images: Images, contrast: float, seed: int) -> Images:
    """Images as samples are: their contrast scaled, shifted by a pixel, with noise of 8 levels."""
    random = torch_stream(seed, "memorisation", "degrade")
    x = as_float(images)
    mean = x.mean((2, 3), keepdim=True)
    x = torch.roll((x - mean) * contrast + mean, (SHIFT, SHIFT), (2, 3))
    noise = torch.randn(x.shape, generator=random) * (NOISE / 127.5)
    return as_images((x + noise).clamp(-1, 1))


def _rate(count: int, of: int) -> dict[str, float]:
    low, high = wilson(count / of, of)
    return {"rate": count / of, "low": round(low, 6), "high": round(high, 6), "of": of}


def draw(
    snapshot: Snapshot, count: int, *, seed: int, reject: Images | None = None
) -> tuple[Images, int]:
    """Samples of a snapshot, without those that are memorised training images.

    Args: reject: training images uint8 [m, S, S, 3], or None.
    Returns: uint8 [count, S, S, 3], and how many were rejected.
    Raises: WorkError: nearly everything is rejected.
    """
    stream = torch_stream(seed, "sample")
    memorised = None if reject is None else Memorised(reject, seed)
    kept: list[Images] = []
    have, rejected, tried = 0, 0, 0
    while have < count:
        number = count - have if memorised is None else max(256, count - have)
        images = as_images(generate(snapshot, sample_latents(snapshot.prior, number, stream)))
        tried += len(images)
        if memorised is not None:
            bad = memorised(images)
            rejected += int(bad.sum())
            images = images[~bad]
        kept.append(images)
        have += len(images)
        if tried > 20 * count + 1000:
            raise WorkError(
                f"Of {tried} samples {rejected} are copies of a training image: this generator "
                "draws its training set.",
                expected="a generator that makes new images",
                remedy="sample without rejecting, or train on more images",
            )
    return np.concatenate(kept)[:count], rejected
