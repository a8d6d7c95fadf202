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

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from gan_core.config import Section
from gan_core.inspection.base import (
    Context,
    Figure,
    Images,
    Inspection,
    NotApplicable,
    Table,
    as_float,
    as_images,
    image_sheet,
    match_contrast,
)
from gan_core.networks.snapshot import Snapshot
from gan_core.probes import linear_svm
from gan_core.randomness import numpy_stream, torch_stream

ABOUT = "the subspace of the discriminator's features that its score reads, and the rest"
TITLE = "Subspaces of the features (Mao-style, a reconstruction)"
VERSION = 1
ORDER = 110
DEFAULT = False  # it takes minutes

BATCH = 128
DRAWS = 3  # random subspaces of each rank
GRID = [0.1, 1.0, 10.0, 100.0]  # C of the SVM, on features of mean squared length 1
LINEAR = 1e-4  # relative deviation of gradients up to which the head counts as linear
SHOWN = 8  # images of a row
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


@dataclass(frozen=True)
class Subspace:
    """A subspace of a layer's activations.

    Attributes:
        basis: orthonormal columns, float32 [values or channels, rank].
        maps: of the channels, at each place alike; else of all values.
    """

    basis: Tensor
    maps: bool

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    @property
    def name(self) -> str:
        return f"{'maps' if self.maps else 'values'}, rank {self.rank}"

    @property
    def expected(self) -> float:
        """The share of energy that a random subspace of this rank holds."""
        return self.rank / self.basis.shape[0]

    def coordinates(self, x: Tensor) -> Tensor:
        """The part within the subspace, by its coordinates: activations [n, C, H, W] to [n, rank,
        places].
        """
        return torch.einsum("ncp,ck->nkp", x.reshape(self._as(x)), self.basis)

    def rest(self, x: Tensor) -> Tensor:
        """The part orthogonal to the subspace: [n, C, H, W] to [n, values]."""
        flat = x.reshape(self._as(x))
        return (flat - torch.einsum("nkp,ck->ncp", self.coordinates(x), self.basis)).flatten(1)

    def share(self, x: Tensor) -> float:
        """The part's share of the energy of activations [n, C, H, W]."""
        return float(self.coordinates(x).square().sum() / x.square().sum())

    def _as(self, x: Tensor) -> tuple[int, int, int]:
        return (len(x), self.basis.shape[0], x[0].numel() // self.basis.shape[0])


def task_subspace(gradients: Tensor, rank: int, maps: bool) -> Subspace:
    """The subspace of a rank that holds most of the energy of gradients [n, C, H, W]."""
    channels = gradients.shape[1]
    rows = gradients.transpose(0, 1).reshape(channels, -1).T if maps else gradients.flatten(1)
    rows = rows.double()
    if rows.shape[1] <= len(rows):
        vectors = torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, :rank]
    else:
        vectors = rows.T @ torch.linalg.eigh(rows @ rows.T)[1].flip(1)[:, :rank]
    return Subspace(torch.linalg.qr(vectors)[0].float(), maps)


def random_subspace(like: Subspace, random: torch.Generator) -> Subspace:
    """A uniformly drawn subspace of the same space and rank."""
    drawn = torch.randn(like.basis.shape, generator=random, dtype=torch.float64)
    return Subspace(torch.linalg.qr(drawn)[0].float(), like.maps)


def prepared(snapshot: Snapshot, real: Tensor, device: str) -> Snapshot:
    """A copy whose batch-norm statistics are those of real images float [n, 3, S, S].

    Raises: NotApplicable: the method gives images no score.
    """
    if "discriminator" not in snapshot.networks:
        raise NotApplicable("The snapshot has no discriminator.")
    own = copy.deepcopy(snapshot)
    for network in own.networks.values():
        network.without_labels = True
    starts = range(0, len(real) - 1, BATCH)  # batch norm refuses a batch of one image
    own.feature_network("discriminator").calibrate(
        real[start : start + BATCH].to(device) for start in starts
    )
    if own.realness(real[:2].to(device)) is None:
        raise NotApplicable("The method gives images no score of realness.")
    return own


def read(snapshot: Snapshot, layer: str, images: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """A layer's activations of images, and the gradients of their scores by them: float32 [n, C, H,
    W] both, on the CPU.
    """
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_())
        return kept[-1]

    found, gradients = [], []
    hook = snapshot.discriminator.layer(layer).register_forward_hook(keep)
    try:
        for some in torch.split(images, BATCH):
            score = snapshot.realness(some.to(device))
            assert score is not None
            (gradient,) = torch.autograd.grad(score.sum(), kept[-1])
            found.append(kept[-1].detach().float().cpu())
            gradients.append(gradient.float().cpu())
            kept.clear()
    finally:
        hook.remove()
    return torch.cat(found), torch.cat(gradients)


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
    data, device = context.training_set, context.device
    rows = numpy_stream(context.seed, "inspect", "subspaces").permutation(len(data))
    rows = rows[: options.images]
    given = [data.table["label"][int(row)].as_py() for row in rows]
    if None in given or len(set(given)) < 2:
        raise NotApplicable("The training images have no labels to score the parts with.")
    labels = np.array(given, np.int64)
    real = as_float(data.pixels(rows))
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

    cuts = [len(rows) // 2, 2 * len(rows) // 3]
    random = torch_stream(context.seed, "inspect", "subspaces")
    test = real[cuts[1] :]
    noisy = [
        read(
            own, layer, (test + sd * torch.randn(test.shape, generator=random)).clamp(-1, 1), device
        )[0]
        for sd in options.noise
    ]
    both = min(len(f), len(g))
    order = torch.randperm(2 * both, generator=random)
    mixture, is_real = torch.cat([f[:both], g[:both]])[order], (order < both).long()
    halves = [both, 3 * both // 2]
    measured = Data(
        f.tensor_split(cuts),
        np.split(labels, cuts),
        noisy,
        mixture.tensor_split(halves),
        np.split(is_real.numpy(), halves),
    )
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
        _sentence(numbers, subspaces),
        numbers,
        [
            Figure("subspaces", draw(numbers, subspaces), _CAPTION),
            _extremes(subspaces[-1], (f, g), (real, generated)),
        ],
        [_table(numbers), *([_history_table(history)] if history else [])],
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
    from gan_core.networks.snapshot import generate

    real = as_float(context.training_images(OVER_TRAINING, "subspaces over training"))
    own = prepared(snapshot, real, context.device)
    latents = context.latents(OVER_TRAINING, "subspaces over training")
    generated = match_contrast(generate(own, latents), real)
    f, gradients = read(own, layer, real, context.device)
    g, more = read(own, layer, generated, context.device)
    mixed = torch.cat([gradients, more])
    shares = {one.name: _energy(task_subspace(mixed, one.rank, one.maps), f, g) for one in like}
    return {"kimg": snapshot.meta.get("kimg"), "energy": shares}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share >= 0.01 else f"{100 * share:.2g}"


def _sentence(numbers: dict[str, Any], subspaces: Sequence[Subspace]) -> str:
    one, most = (numbers["subspaces"][space.name] for space in (subspaces[0], subspaces[-1]))
    every = numbers["all"]["classes"]
    head = (
        "the direction that the linear head reads"
        if numbers["linear_head"]
        else "the direction in which the score moves most"
    )
    right = {part: _percent(most[part]["classes"][0]) for part in _PARTS}
    text = (
        f"A reconstruction of Mao et al., at {numbers['layer']}: {head} holds "
        f"{_percent(one['energy']['real'])} % of the energy of real images' features (a random one "
        f"{_percent(one['expected'])} %), and the SVM is right on "
        f"{_percent(one['rest']['classes'][0])} % of test images without it, "
        f"{_percent(every[0])} % with it. The {most['rank']} directions of maps in which the score "
        f"moves most hold {_percent(most['energy']['real'])} % (random ones "
        f"{_percent(most['expected'])} %); alone they give {right['task']} % "
        f"({right['random']} %), the rest {right['rest']} % ({right['random_rest']} %)."
    )
    if numbers["noise"]:
        lost = {
            part: 100 * (most[part]["classes"][0] - most[part]["classes"][-1]) for part in right
        }
        text += (
            f" Noise of {numbers['noise'][-1]:g} takes {lost['task']:.1f} points from the former "
            f"({lost['random']:.1f} from random ones) and {lost['rest']:.1f} from the rest "
            f"({lost['random_rest']:.1f}); {100 * (every[0] - every[-1]):.1f} from all features."
        )
    return text


_PARTS = {
    "task": "read by the score",
    "rest": "the rest",
    "random": "random",
    "random_rest": "the rest of random",
}


def _table(numbers: dict[str, Any]) -> Table:
    def cells(scores: dict[str, Any]) -> list[str]:
        return [f"{100 * value:.1f}" for value in (*scores["classes"], scores["realness"])]

    rows: list[list[Any]] = [["all", "", "100", "100", *cells(numbers["all"])]]
    for name, found in numbers["subspaces"].items():
        share = {
            "task": found["energy"],
            "random": dict.fromkeys(found["energy"], found["expected"]),
        }
        for part, words in _PARTS.items():
            energy = share.get(part)
            shares = [_percent(energy[kind]) if energy else "" for kind in ("real", "generated")]
            rows.append([words, name, *shares, *cells(found[part])])
    noise = [f"noise {sd:g}" for sd in numbers["noise"]]
    return Table(
        ["part", "subspace", "energy, real", "energy, generated", "classes", *noise, "real or not"],
        rows,
        f"percent; accuracy of an L2-SVM on {numbers['test_images']} training images that it was "
        f"not fitted on; random: mean of {DRAWS} draws",
    )


def _history_table(history: Sequence[dict[str, Any]]) -> Table:
    names = list(history[0]["energy"])
    rows = [
        [
            f"{one['kimg']:g}",
            *(
                f"{_percent(one['energy'][name]['real'])} / "
                f"{_percent(one['energy'][name]['generated'])}"
                for name in names
            ),
        ]
        for one in history
    ]
    return Table(
        ["kimg", *names], rows, "share of energy over training in percent, real / generated"
    )


_CAPTION = (
    "accuracy of both parts by noise on the images; share of energy by rank; share over training, "
    "as a multiple of a random subspace's"
)


def draw(numbers: dict[str, Any], subspaces: Sequence[Subspace]) -> Images:
    """The chart: uint8 [H, W, 3]."""
    from matplotlib.figure import Figure as Chart
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    history = numbers["over_training"]
    chart = Chart((11 if history else 7.4, 3.6), dpi=100, layout="constrained")
    left, middle, *right = chart.subplots(1, 3 if history else 2)
    noise = [0, *numbers["noise"]]
    most = numbers["subspaces"][subspaces[-1].name]
    styles = {
        "task": ("C1", "-"),
        "rest": ("C0", "-"),
        "random": ("C1", ":"),
        "random_rest": ("C0", ":"),
    }
    left.plot(noise, [100 * x for x in numbers["all"]["classes"]], "k-o", label="all", markersize=4)
    for part, (colour, line) in styles.items():
        values = [100 * x for x in most[part]["classes"]]
        left.plot(noise, values, line, color=colour, marker="o", markersize=4, label=_PARTS[part])
    left.set(title=f"Test accuracy, %: {subspaces[-1].name}", xlabel="noise on images")
    left.legend(fontsize=8)
    found = [numbers["subspaces"][space.name] for space in subspaces if space.maps]
    ranks = [one["rank"] for one in found]
    for kind, colour in (("real", "C0"), ("generated", "C1")):
        for suffix, line in (("", "-"), ("_centred", "--")):
            values = [100 * one["energy"][kind + suffix] for one in found]
            name = kind + suffix.replace("_", ", ")
            middle.plot(ranks, values, line, color=colour, marker="o", markersize=4, label=name)
    middle.plot(ranks, [100 * one["expected"] for one in found], "k:", label="random")
    middle.set(title="Share of energy, %", xlabel="rank, of maps", xscale="log", yscale="log")
    middle.set_xticks(ranks, [str(rank) for rank in ranks])
    middle.legend(fontsize=8)
    for axes in right:
        kimg = [one["kimg"] for one in history]
        for number, space in enumerate(subspaces):
            for kind, line in (("real", "-"), ("generated", "--")):
                values = [one["energy"][space.name][kind] / space.expected for one in history]
                label = space.name if kind == "real" else None
                axes.plot(
                    kimg, values, line, color=f"C{number}", marker="o", markersize=3, label=label
                )
        axes.axhline(1, color="k", linestyle=":")
        axes.set(title="Energy over that of random", yscale="log")
        axes.set_xlabel("kimg (dashed: generated images)")
        axes.legend(fontsize=8)
    for axes in (middle, *right):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    drawn = io.BytesIO()
    chart.savefig(drawn, format="png")
    return np.array(Image.open(drawn).convert("RGB"))


def _extremes(space: Subspace, features: Sequence[Tensor], images: Sequence[Tensor]) -> Figure:
    """Images with the smallest and the largest share of energy in a subspace: rows of real ones,
    then of generated ones.
    """
    shown = []
    for x, some in zip(features, images, strict=True):
        share = space.coordinates(x).square().sum((1, 2)) / x.square().sum((1, 2, 3))
        order = share.argsort()
        shown += [some[order[:SHOWN]], some[order[-SHOWN:]]]
    caption = (
        f"least and most energy in the part that the score reads ({space.name}): training images "
        "in the first two rows, samples in the last two"
    )
    return image_sheet("subspaces_images", as_images(torch.cat(shown)), SHOWN, caption)
