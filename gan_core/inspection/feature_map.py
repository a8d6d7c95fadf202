"""A map of the features of test images by t-SNE (van der Maaten and Hinton 2008), and how far it
can be trusted.

A map shows clusters even where there are none, so the purity of neighbourhoods is measured: the
share of an image's nearest others that have its label, in the map, in feature space, among raw
pixels, and with shuffled labels. Features and pixels are compared by cosine.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from gan_core.config import Section
from gan_core.inspection.base import Context, Figure, Images, Inspection, NotApplicable, Table
from gan_core.inspection.labelled import (
    Floats,
    Labelled,
    Rows,
    agreement,
    interval_words,
    mean_with_interval,
    nearest,
    read_labelled,
    unit_rows,
)
from gan_core.probes.knn import Neighbours
from gan_core.randomness import numpy_stream

ABOUT = "a map of test images by t-SNE of their features, with the purity of neighbourhoods"
TITLE = "Map of the features"
VERSION = 1
ORDER = 45
DEFAULT = False  # t-SNE takes seconds for 500 images and minutes for 5,000
NEEDS = ("features",)
EXAMPLES = ({"images": 80, "k": 3},)

COMPONENTS = 50  # principal components that t-SNE reads, as in its authors' examples
FEWEST = 16  # images
SIDE = 760  # of a figure in pixels
NAMED = 20  # classes that are named on the map
THUMBNAIL, FRAME = 44, 3  # side and frame in pixels
MARGIN = 0.06


class Options(Section):
    """What is mapped."""

    images: int = Field(500, ge=FEWEST, description="test images on the map, at most")
    perplexity: float = Field(30.0, gt=1, description="t-SNE's number of effective neighbours")
    k: int = Field(10, ge=1, description="neighbours that purity counts")


def inspect(context: Context, options: Options) -> Inspection:
    """The map as points and as thumbnails; purity against pixels and shuffled labels."""
    data = read_labelled(context, "test", options.images, "feature map")
    count = len(data.labels)
    if count < FEWEST:
        raise NotApplicable(f"A map needs {FEWEST} labelled images; there are {count}.")
    k = min(options.k, count - 2)
    places = tsne(data.features, min(options.perplexity, (count - 1) / 3), context.seed)
    in_features = others(nearest(data.features, data.features, k + 1))
    in_pixels = others(nearest(data.pixels, data.pixels, k + 1))
    in_map = others(Neighbours(places, "cpu").nearest(places, k + 1))
    shuffled = numpy_stream(context.seed, "inspect", "shuffled labels").permutation(data.labels)
    shares = {
        "map": agreement(in_map, data.labels, data.labels),
        "features": agreement(in_features, data.labels, data.labels),
        "pixels": agreement(in_pixels, data.labels, data.labels),
        "shuffled": agreement(in_features, shuffled, shuffled),
    }
    found = {name: mean_with_interval(values) for name, values in shares.items()}
    gap = mean_with_interval(shares["features"] - shares["pixels"])
    verdict = "above" if gap["low"] > 0 else "below" if gap["high"] < 0 else "level with"
    percent = {name: f"{100 * one['mean']:.1f} %" for name, one in found.items()}
    sentence = (
        f"Of the {k} nearest neighbours of a {data.split} image, {percent['features']} have its "
        f"label by features, {verdict} raw pixels ({percent['pixels']}); on the map "
        f"{percent['map']}, with shuffled labels {percent['shuffled']}."
    )
    title = {
        "map": "on the map",
        "features": "by features",
        "pixels": "by raw pixels",
        "shuffled": "by features, labels shuffled",
    }
    table = Table(
        [f"{k} nearest neighbours with the same label", "share", "95 % interval"],
        [[title[name], *interval_words(one)] for name, one in found.items()],
        f"{count} {data.split} images, by cosine, on the map by distance. The intervals are over "
        "images; the verdict is on the paired difference.",
    )
    numbers = {**found, "difference": gap, "k": k, "images": count, "split": data.split}
    figures = [
        Figure("feature_map", _points(places, data), f"t-SNE of {count} {data.split} images"),
        Figure("feature_map_images", _thumbnails(places, data), "the same map as images"),
    ]
    return Inspection(sentence, numbers, figures, [table])


def tsne(features: Floats, perplexity: float, seed: int) -> Floats:
    """Places of rows on a map, float32 [n, 2], from their first principal components."""
    rows = unit_rows(features)
    reduced = PCA(min(COMPONENTS, *rows.shape), random_state=seed).fit_transform(rows)
    # scikit-learn scales the first two components for the start itself
    mapped = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    return np.asarray(mapped, np.float32)


def others(neighbours: Rows) -> Rows:
    """Neighbours without the image itself: [n, k + 1] to [n, k]. Where an equal image takes its
    place the farthest is left out instead.
    """
    own = neighbours == np.arange(len(neighbours))[:, None]
    own[~own.any(1), -1] = True
    kept: Rows = neighbours[~own].reshape(len(neighbours), -1)
    return kept


def _colours(data: Labelled) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Labels, and an RGB colour of each, 0 to 1; they repeat after 20."""
    import matplotlib

    labels = sorted(data.names)
    palette = matplotlib.colormaps["tab10" if len(labels) <= 10 else "tab20"]
    return labels, np.array([palette(n % palette.N)[:3] for n in range(len(labels))])


def _scaled(places: Floats) -> Floats:
    """Places in 0 to 1 with a margin; one scale for both axes would waste room."""
    low, high = places.min(0), places.max(0)
    scaled: Floats = MARGIN + (1 - 2 * MARGIN) * (places - low) / np.maximum(high - low, 1e-6)
    return scaled


def _points(places: Floats, data: Labelled) -> Images:
    """A point for each image in its label's colour; a label's name at the point that is nearest to
    the others of its label.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patheffects import withStroke

    labels, colours = _colours(data)
    figure = Canvas((SIDE / 100, SIDE / 100), dpi=100)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(1, 0))
    axes.axis("off")
    at = _scaled(places)
    axes.scatter(*at.T, s=40, c=colours[np.searchsorted(labels, data.labels)], linewidths=0)
    for label, colour in zip(labels, colours, strict=True) if len(labels) <= NAMED else ():
        own = at[data.labels == label]
        middle = own[np.linalg.norm(own[:, None] - own, axis=2).sum(1).argmin()]
        axes.text(
            *middle,
            data.names[label],
            fontsize=20,
            fontweight="bold",
            color=0.7 * colour,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=4, foreground="white")],
        )
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3].copy()


def _thumbnails(places: Floats, data: Labelled) -> Images:
    """The images themselves in frames of their label's colour; where several would lie on one
    another, one is drawn.
    """
    labels, colours = _colours(data)
    out = np.full((SIDE, SIDE, 3), 255, np.uint8)
    frames = (255 * colours[np.searchsorted(labels, data.labels)]).astype(np.uint8)
    corners = (_scaled(places) * (SIDE - THUMBNAIL)).astype(int)
    taken: list[npt.NDArray[np.int64]] = []
    for (x, y), image, frame in zip(corners, data.images, frames, strict=True):
        if any(abs(x - left) < THUMBNAIL and abs(y - top) < THUMBNAIL for left, top in taken):
            continue
        taken.append(np.array([x, y]))
        out[y : y + THUMBNAIL, x : x + THUMBNAIL] = frame
        side = THUMBNAIL - 2 * FRAME
        inside = out[y + FRAME :, x + FRAME :][:side, :side]
        inside[:] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return out
