"""Two orthogonal subspaces of the discriminator's features: one that its score reads, and the rest.

"Mao-style (reconstruction)": Mao et al. (Is Discriminator a Good Feature Extractor?, 1912.00789)
factorise features into a part that serves the discriminator's task and an orthogonal part that is
free of it, say that the second is free of noise, and follow the ratio of both. Their method section
was not at hand, so the construction is ours. The first part is the projection of a layer's
activation f on the subspace in which the gradient of the score moves over real and generated
images:

- values, rank 1: of all values of the layer. Below a linear head, score = w.f + b, the gradient is
  w for every image: the split is exact, and the score of the rest is b, always.
- maps, rank k: of the channels, the same at all places (the top eigenvectors of the gradients'
  second moments): removing one direction of thousands hardly touches a classifier.

Each part is compared with a random subspace of the same rank: its share of the features' energy, an
L2-SVM's accuracy on class labels and on real against generated, and the accuracy on noisy images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.inspection.base import (
    Context,
    Figure,
    Inspection,
    NotApplicable,
    as_float,
    match_contrast,
)
from gan_core.inspection.score_subspace import (
    Subspace,
    prepared,
    random_subspace,
    read,
    task_subspace,
)
from gan_core.inspection.subspaces_report import (
    CAPTION,
    DRAWS,
    draw,
    extremes,
    history_table,
    sentence,
    table,
)
from gan_core.networks.snapshot import Snapshot, generate
from gan_core.probes import linear_svm
from gan_core.randomness import numpy_stream, torch_stream

ABOUT = "the subspace of the discriminator's features that its score reads, and the rest"
TITLE = "Subspaces of the features (Mao-style, a reconstruction)"
VERSION = 1
ORDER = 110
DEFAULT = False  # it takes minutes
EXAMPLES = ({"ranks": [1], "images": 60, "samples": 60, "noise": []},)

GRID = [0.1, 1.0, 10.0, 100.0]  # C of the SVM, on features of mean squared length 1
LINEAR = 1e-4  # relative deviation of gradients up to which the head counts as linear
OVER_TRAINING = 512  # images of each kind for each snapshot of the training
Labels = npt.NDArray[np.int64]


class Options(Section):
    """Which layer and ranks, and how much is measured."""

    layer: str = Field("", description="layer of the discriminator; empty: the last of maps")
    ranks: list[int] = Field(
        default_factory=lambda: [1, 4, 16], min_length=1, description="ranks in the space of maps"
    )
    images: int = Field(3000, ge=60, description="training images: half fit the SVM, a third test")
    samples: int = Field(1000, ge=60, description="generated images")
    noise: list[float] = Field(
        default_factory=lambda: [0.05, 0.1, 0.2],
        description="standard deviations of Gaussian noise on images, whose range is 2",
    )


def accuracies(
    parts: Sequence[Tensor], labels: Sequence[Labels], noisy: Sequence[Tensor] = ()
) -> list[float]:
    """Test accuracy of an L2-SVM, then that on each noisy version of the test images.

    Args:
        parts, labels: of the images that fit it, that choose C, and that test it: [n, values].
        noisy: features of the test images with noise.
    """
    mean = parts[0].mean(0)
    scale = (parts[0] - mean).square().sum(1).mean().sqrt().clamp(min=1e-12)
    fit, choose, *tests = (((x - mean) / scale).numpy() for x in (*parts, *noisy))
    models = linear_svm.fit(fit, labels[0], GRID)
    best = max(models, key=lambda one: float((one.predict(choose) == labels[1]).mean()))
    return [float((best.predict(x) == labels[2]).mean()) for x in tests]


@dataclass(frozen=True)
class Data:
    """A layer's activations [n, C, H, W] of all images, labelled.

    Attributes:
        parts, labels: training images that fit, choose and test.
        noisy: the test images with each noise.
        realness, real: real and generated images that fit, choose and test, and which are real.
    """

    parts: Sequence[Tensor]
    labels: Sequence[Labels]
    noisy: Sequence[Tensor]
    realness: Sequence[Tensor]
    real: Sequence[Labels]

    def score(self, part: Any) -> tuple[list[float], float]:
        """Accuracy on classes (clean, then by noise), and on real against generated.

        Args: part: activations [n, C, H, W] to features [n, ...].
        """
        cut = [[part(x).flatten(1) for x in xs] for xs in (self.parts, self.noisy, self.realness)]
        return accuracies(cut[0], self.labels, cut[1]), accuracies(cut[2], self.real)[0]


def inspect(context: Context, options: Options) -> Inspection:
    """Energy, accuracies and robustness of both parts and of random ones; the share over
    training.
    """
    device = context.device
    real, labels = _labelled_images(context, options.images)
    own = prepared(context.snapshot, real, device)
    layer = options.layer or [info.name for info in own.discriminator.layers() if info.maps][-1]
    generated = match_contrast(context.samples(options.samples, "subspaces"), real)
    f, gradients = read(own, layer, real, device)
    g, more = read(own, layer, generated, device)
    mixed = torch.cat([gradients[: len(more)], more[: len(gradients)]])
    linear = float((mixed - mixed.mean(0)).norm() / mixed.norm()) < LINEAR
    ranks = sorted({rank for rank in options.ranks if 0 < rank < f.shape[1]})
    subspaces = [task_subspace(mixed, 1, maps=False)]
    subspaces += [task_subspace(mixed, rank, maps=True) for rank in ranks]
    random = torch_stream(context.seed, "inspect", "subspaces")
    test = real[_cuts(len(real))[1] :]
    noisy = [read(own, layer, _with_noise(test, sd, random), device)[0] for sd in options.noise]
    measured = _divide(f, g, labels, noisy, random)
    whole = measured.score(lambda x: x)
    found = {one.name: _measure(measured, one, f, g, random) for one in subspaces}
    history = [_over_training(one, context, layer, subspaces) for one in context.history()]
    history = history if len(history) > 1 else []
    numbers = {
        "layer": layer,
        "linear_head": linear,
        "values": f[0].numel(),
        "maps": f.shape[1],
        "test_images": len(test),
        "noise": options.noise,
        "all": {"classes": _rounded(whole[0]), "realness": round(whole[1], 4)},
        "subspaces": found,
        "over_training": history,
    }
    return Inspection(
        sentence(numbers, subspaces),
        numbers,
        [
            Figure("subspaces", draw(numbers, subspaces), CAPTION),
            extremes(subspaces[-1], (f, g), (real, generated)),
        ],
        [table(numbers), *([history_table(history)] if history else [])],
    )


def _labelled_images(context: Context, count: int) -> tuple[Tensor, Labels]:
    """Training images drawn at random, float32 [n, 3, S, S], and their labels [n].

    Raises: NotApplicable: labels are missing, or all the same.
    """
    data = context.training_set
    rows = numpy_stream(context.seed, "inspect", "subspaces").permutation(len(data))[:count]
    given = [data.table["label"][int(row)].as_py() for row in rows]
    if None in given or len(set(given)) < 2:
        raise NotApplicable("The training images have no labels to score the parts with.")
    return as_float(data.pixels(rows)), np.array(given, np.int64)


def _cuts(count: int) -> list[int]:
    """Where training images that choose, and those that test, begin."""
    return [count // 2, 2 * count // 3]


def _with_noise(images: Tensor, sd: float, random: torch.Generator) -> Tensor:
    return (images + sd * torch.randn(images.shape, generator=random)).clamp(-1, 1)


def _divide(
    f: Tensor, g: Tensor, labels: Labels, noisy: Sequence[Tensor], random: torch.Generator
) -> Data:
    """Activations of real images `f` and generated ones `g`, divided for both tasks."""
    cuts, both = _cuts(len(f)), min(len(f), len(g))
    order = torch.randperm(2 * both, generator=random)
    mixture, is_real = torch.cat([f[:both], g[:both]])[order], (order < both).long()
    halves = [both, 3 * both // 2]
    return Data(
        f.tensor_split(cuts),
        np.split(labels, cuts),
        noisy,
        mixture.tensor_split(halves),
        np.split(is_real.numpy(), halves),
    )


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _measure(
    data: Data, task: Subspace, f: Tensor, g: Tensor, random: torch.Generator
) -> dict[str, Any]:
    """JSON numbers of one subspace and of random ones of its rank (means over DRAWS)."""
    drawn = [random_subspace(task, random) for _ in range(DRAWS)]

    def scores(parts: Sequence[Any]) -> dict[str, Any]:
        found = [data.score(part) for part in parts]
        classes = np.mean([one[0] for one in found], 0)
        return {
            "classes": _rounded(classes.tolist()),
            "realness": round(float(np.mean([one[1] for one in found])), 4),
        }

    return {
        "rank": task.rank,
        "expected": round(task.expected, 6),
        "energy": _energy(task, f, g),
        "task": scores([task.coordinates]),
        "rest": scores([task.rest]),
        "random": scores([one.coordinates for one in drawn]),
        "random_rest": scores([one.rest for one in drawn]),
    }


def _energy(task: Subspace, f: Tensor, g: Tensor) -> dict[str, float]:
    """The subspace's share of energy, of real and generated images, with and without the mean."""
    return {
        "real": round(task.share(f), 6),
        "generated": round(task.share(g), 6),
        "real_centred": round(task.share(f - f.mean(0)), 6),
        "generated_centred": round(task.share(g - g.mean(0)), 6),
    }


def _over_training(
    snapshot: Snapshot, context: Context, layer: str, like: Sequence[Subspace]
) -> dict[str, Any]:
    """The shares of energy in a snapshot of the same training."""
    real = as_float(context.training_images(OVER_TRAINING, "subspaces over training"))
    own = prepared(snapshot, real, context.device)
    latents = context.latents(OVER_TRAINING, "subspaces over training")
    generated = match_contrast(generate(own, latents), real)
    f, gradients = read(own, layer, real, context.device)
    g, more = read(own, layer, generated, context.device)
    mixed = torch.cat([gradients, more])
    shares = {one.name: _energy(task_subspace(mixed, one.rank, one.maps), f, g) for one in like}
    return {"kimg": snapshot.meta.get("kimg"), "energy": shares}
