"""The sentence, the tables and the figures of `subspaces.py`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan_core.inspection.base import Figure, Images, Table, as_images, image_sheet
from gan_core.inspection.score_subspace import Subspace

DRAWS = 3  # random subspaces of each rank
SHOWN = 8  # images of a row
CAPTION = (
    "accuracy of both parts by noise on the images; share of energy by rank; share over training, "
    "as a multiple of a random subspace's"
)
_PARTS = {
    "task": "read by the score",
    "rest": "the rest",
    "random": "random",
    "random_rest": "the rest of random",
}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share >= 0.01 else f"{100 * share:.2g}"


def sentence(numbers: dict[str, Any], subspaces: Sequence[Subspace]) -> str:
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


def table(numbers: dict[str, Any]) -> Table:
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


def history_table(history: Sequence[dict[str, Any]]) -> Table:
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


def extremes(space: Subspace, features: Sequence[Tensor], images: Sequence[Tensor]) -> Figure:
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
