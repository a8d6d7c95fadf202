"""Attributes of images: numbers that say how much of something an image shows.

An attribute is named in an inspection's options in one of three ways:

    slant, width, ...        an exact function of the image (FUNCTIONS)
    sun, tree, ...           a class of the segmenter: the share of pixels that show it
    smile=1, pose>3, ...     a column of the training set (label, label_name or an attribute of the
                             source): a logistic probe on the features of the snapshot

The score of a probe is its logit, on images that have the contrast of training images. A probe sees
labels of the training set; the networks do not.
"""

from __future__ import annotations

import copy
import json
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.errors import UnknownName, nearest
from gan_core.inspection.base import Context, NotApplicable, as_float
from gan_core.inspection.segmenters import Segmenter
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import initialise
from gan_core.randomness import numpy_stream, torch_stream

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

PRESENT = 0.005  # share of pixels from which on a class is present (ours)
ROWS = 4000  # training images that a probe sees, at most
FEWEST = 20  # images on either side, below which no probe is fitted
C = 1e-3  # inverse regularisation of a probe, on standardised features
GRID, BATCH = 4, 256
Scores = npt.NDArray[np.float64]
_RULE = re.compile(r"(\w+)\s*(=|<|>)\s*(.+)")
_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Attribute:
    """A score of generated images, and from where on the attribute is present.

    Attributes:
        score: images float [n, 3, S, S] in [-1, 1] to float [n].
        threshold: above it the attribute is present; None: the median of samples decides.
        quality: of a probe its area under the ROC curve on held-out training images (`auc`) and
            the number of images that it was fitted on (`images`); empty for exact functions.
    """

    name: str
    score: Callable[[Tensor], Tensor]
    threshold: float | None = None
    quality: dict[str, float] = field(default_factory=dict)

    def scores(self, images: Tensor) -> Scores:
        """float64 [n]."""
        return np.asarray(self.score(images).double().numpy())

    def sentence(self) -> str:
        """How far a probe can be trusted; '' for exact functions."""
        if not self.quality:
            return ""
        return (
            f" The probe of {self.name} ranks held-out training images with an area under the "
            f"ROC curve of {self.quality['auc']:.2f} (0.5 is chance)."
        )


def find(context: Context, name: str, segmenter: Segmenter | None = None) -> Attribute:
    """The attribute of that name.

    Args: segmenter: of generated images.
    Raises:
        UnknownName: there is none, with the nearest.
        NotApplicable: a probe that cannot be fitted here.
    """
    if name in FUNCTIONS:
        return Attribute(name, FUNCTIONS[name])
    classes = list(segmenter.classes) if segmenter else []
    if segmenter and name in classes:
        number = classes.index(name)
        return Attribute(
            name, lambda images: (segmenter(images) == number).float().mean((1, 2)), PRESENT
        )
    if rule := _RULE.fullmatch(name):
        return _probe(context, name, *rule.groups())
    columns = [f"{column}=..." for column in _columns(context)] if context.packs else []
    raise UnknownName("attribute", name, [*FUNCTIONS, *classes, *columns])


def _columns(context: Context) -> dict[str, list[Any]]:
    """Labels and attributes of the training images by column."""
    table = context.training_set.table
    rows = [json.loads(text or "{}") for text in table["attributes"].to_pylist()]
    names = sorted({name for row in rows for name in row})
    found = {name: [row.get(name) for row in rows] for name in names}
    return {
        **found,
        "label": table["label"].to_pylist(),
        "label_name": table["label_name"].to_pylist(),
    }


def _probe(context: Context, name: str, column: str, sign: str, value: str) -> Attribute:
    columns = _columns(context)
    if column not in columns:
        raise UnknownName("column of the training set", column, columns)
    kept = numpy_stream(context.seed, "inspect", "probe", name).permutation(
        [n for n, one in enumerate(columns[column]) if one is not None]
    )[:ROWS]
    values = [columns[column][row] for row in kept]
    wanted: Any = value if any(isinstance(one, str) for one in values) else _number(value)
    truth = np.array([_TESTS[sign](one, wanted) for one in values], bool)
    if min(truth.sum(), (~truth).sum()) < FEWEST:
        known = sorted({str(one) for one in values})
        near = nearest(value, known)
        raise NotApplicable(
            f"A probe of {name} needs {FEWEST} training images on either side; "
            f"{int(truth.sum())} of {len(truth)} have it. Values of {column}: "
            f"{', '.join(known[:8])}{'; the nearest is ' + near if near else ''}."
        )
    images = as_float(context.training_set.pixels(kept))
    features = Features(context.snapshot.feature_network(), images, context.device)
    x = features(images)
    held = np.arange(len(x)) % 4 == 0
    # Imported here: most inspections that use this module fit nothing, and scikit-learn takes a
    # second.
    from sklearn.metrics import roc_auc_score

    auc = roc_auc_score(truth[held], _fitted(x[~held], truth[~held]).decision_function(x[held]))
    weights = _fitted(x, truth)

    def score(generated: Tensor) -> Tensor:
        return torch.from_numpy(weights.decision_function(features(context.match(generated))))

    return Attribute(name, score, 0.0, {"auc": round(float(auc), 4), "images": len(x)})


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _fitted(x: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, class_weight="balanced", max_iter=500).fit(x, truth)


class Features:
    """Standardised activations of all convolutional layers, max-pooled to 4 x 4 (DCGAN paper, 5.1).

    Args:
        images: float [n, 3, S, S]: batch norm and the scale of each value are of these.
        grid: maps are pooled to grid x grid; 1: their mean.
    """

    def __init__(
        self, network: LayeredNetwork, images: Tensor, device: str = "cpu", grid: int = GRID
    ) -> None:
        self.network, self.device, self.grid = copy.deepcopy(network), device, grid
        starts = range(0, len(images) - 1, BATCH)  # batch norm refuses a batch of one image
        self.network.calibrate(images[n : n + BATCH].to(device) for n in starts)
        self.layers = [info.name for info in network.layers() if info.maps]
        raw = self._raw(images)
        self.mean, self.scale = raw.mean(0), raw.std(0).clip(min=1e-6)

    @torch.no_grad()
    def _raw(self, images: Tensor) -> npt.NDArray[np.float32]:
        rows = []
        for start in range(0, len(images), BATCH):
            found = self.network.activations(
                images[start : start + BATCH].to(self.device), self.layers
            )
            pool = F.adaptive_avg_pool2d if self.grid == 1 else F.adaptive_max_pool2d
            pooled = [
                pool(x.float(), min(self.grid, x.shape[-1])).flatten(1) for x in found.values()
            ]
            rows.append(torch.cat(pooled, 1).cpu().numpy())
        return np.concatenate(rows)

    def __call__(self, images: Tensor) -> npt.NDArray[np.float32]:
        """float32 [n, values]."""
        found: npt.NDArray[np.float32] = (self._raw(images) - self.mean) / self.scale
        return found


EXTRACTORS = {
    "random": "the discriminator's layers with random weights",
    "discriminator": "the discriminator's features",
}


def extractor_of(context: Context, name: str, real: Tensor) -> Features:
    """The extractor of a distance between images, one of EXTRACTORS, its maps averaged.

    Args: real: float [n, 3, S, S]: batch norm and the scale of each value are of these.
    """
    network = context.snapshot.feature_network()
    if name == "random":
        network = copy.deepcopy(network)
        initialise(network, torch_stream(context.seed, "inspect", "artifact extractor"))
    return Features(network, real, context.device, grid=1)


def extremes(scores: Scores, count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Rows of the `count` highest and lowest scores, the outermost first."""
    order = np.argsort(scores, kind="stable")
    return order[::-1][:count].tolist(), order[:count].tolist()


def luminance(images: Tensor) -> Tensor:
    """Brightness above the image's median, [n, S, S], at least 0: the drawn part of an image."""
    grey = images.float().mean(1)
    return (grey - grey.flatten(1).median(1).values[:, None, None]).clamp(min=0)


def _central(images: Tensor, rows: int, columns: int) -> Tensor:
    """Central moments of the luminance, [n], divided by its sum."""
    weight = luminance(images) + 1e-6
    side = weight.shape[-1]
    place = torch.arange(side, dtype=torch.float32, device=weight.device)
    total = weight.sum((1, 2))
    y = (weight.sum(2) * place).sum(1) / total
    x = (weight.sum(1) * place).sum(1) / total
    down = (place[None] - y[:, None]) ** rows
    across = (place[None] - x[:, None]) ** columns
    return torch.einsum("nij,ni,nj->n", weight, down, across) / total


def width(images: Tensor) -> Tensor:
    """Horizontal extent: the luminance's standard deviation across columns, in pixels."""
    return _central(images, 0, 2).clamp(min=0).sqrt()


def slant(images: Tensor) -> Tensor:
    """Shear of the drawn part: covariance of row and column over the rows' variance."""
    return _central(images, 1, 1) / _central(images, 2, 0).clamp(min=1e-6)


def brightness(images: Tensor) -> Tensor:
    """Mean value of the image. Linear in pixels: their sum gets it right by construction."""
    return images.float().mean((1, 2, 3))


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of the image's values."""
    return images.float().flatten(1).std(1)


def redness(images: Tensor) -> Tensor:
    """Mean of red minus blue. Linear in pixels."""
    return (images[:, 0] - images[:, -1]).float().mean((1, 2))


def balance(images: Tensor) -> Tensor:
    """Horizontal centre of the drawn part, in pixels from the left."""
    weight = luminance(images) + 1e-6
    place = torch.arange(weight.shape[-1], dtype=torch.float32, device=weight.device)
    return (weight.sum(1) * place).sum(1) / weight.sum((1, 2))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    function.__name__: function
    for function in (width, slant, brightness, contrast, redness, balance)
}
