"""The nearest training images of test images by their features, and how often labels agree.

Nearest is largest cosine, as in `discern similar`. The same search on raw pixels and the share of
equal labels among training images drawn at random are the baselines.
"""

from __future__ import annotations

import cv2
import numpy as np
from pydantic import Field

from gan_core.config import Section
from gan_core.inspection.base import Context, Figure, Images, Inspection, NotApplicable, Table
from gan_core.inspection.labelled import (
    Labelled,
    Rows,
    agreement,
    interval_words,
    mean_with_interval,
    nearest,
    read_labelled,
)
from gan_core.vision.sheets import sheet

ABOUT = "nearest training images of test images by features, and how often their labels agree"
TITLE = "Nearest neighbours"
VERSION = 1
ORDER = 50
NEEDS = ("features",)
EXAMPLES = ({"queries": 20, "shown": 2},)

QUERIES_IN_ROW = 5
SIDE = 64  # pixels of an image in the figure, at least
FRAME = 3
SAME, OTHER, QUERY = (42, 127, 113), (189, 91, 23), (29, 28, 26)  # RGB of the frames


class Options(Section):
    """How much is searched and shown."""

    k: int = Field(5, ge=1, le=20, description="neighbours of each query")
    queries: int = Field(500, ge=10, description="test images that are looked up, at most")
    against: int = Field(5000, ge=10, description="training images searched, at most")
    shown: int = Field(10, ge=1, le=50, description="queries in the figure")


def inspect(context: Context, options: Options) -> Inspection:
    """Precision of labels at k for features and pixels; queries with their neighbours."""
    queries = read_labelled(context, "test", options.queries, "neighbours queries")
    known = read_labelled(context, "train", options.against, "neighbours against")
    k = options.k
    if len(known.labels) < k:
        raise NotApplicable(f"There are fewer than {k} labelled training images.")
    rows = nearest(queries.features, known.features, k)
    ours = agreement(rows, queries.labels, known.labels)
    raw = nearest(queries.pixels, known.pixels, k)
    pixels = agreement(raw, queries.labels, known.labels)
    chance = float((known.labels == queries.labels[:, None]).mean())
    found = {
        "features": mean_with_interval(ours),
        "pixels": mean_with_interval(pixels),
        "difference": mean_with_interval(ours - pixels),
    }
    gap = found["difference"]
    verdict = (
        "more than" if gap["low"] > 0 else "less than" if gap["high"] < 0 else "no different from"
    )
    sentence = (
        f"Of the {k} nearest training images of a {queries.split} image by features, "
        f"{100 * found['features']['mean']:.1f} % have its label: {verdict} by raw pixels "
        f"({100 * found['pixels']['mean']:.1f} %); training images at random: "
        f"{100 * chance:.1f} %."
    )
    numbers = {
        **found,
        "chance": round(chance, 6),
        "k": k,
        "queries": len(ours),
        "against": len(known.labels),
        "split": queries.split,
    }
    table = Table(
        [f"label of the {k} nearest is the query's", "share", "95 % interval"],
        [
            ["features", *interval_words(found["features"])],
            ["raw pixels", *interval_words(found["pixels"])],
            ["training images at random", f"{100 * chance:.1f} %", ""],
        ],
        f"{len(ours)} {queries.split} images among {len(known.labels)} training images, by cosine. "
        "The intervals are over queries; the verdict is on the paired difference.",
    )
    caption = (
        f"{QUERIES_IN_ROW} {queries.split} images in a row (dark frame), each above its {k} "
        "nearest training images: green frames have the same label, orange ones another"
    )
    figure = Figure("neighbours", _drawn(queries, known, rows[: options.shown]), caption)
    return Inspection(sentence, numbers, [figure], [table])


def _drawn(queries: Labelled, known: Labelled, rows: Rows) -> Images:
    """Blocks of `QUERIES_IN_ROW` queries; below each its neighbours, the nearest first."""
    blocks = []
    for start in range(0, len(rows), QUERIES_IN_ROW):
        chosen = np.arange(start, min(start + QUERIES_IN_ROW, len(rows)))
        names = [queries.names[int(queries.labels[n])] for n in chosen]
        cells = [_framed(queries.images[n], QUERY) for n in chosen]
        for place in range(rows.shape[1]):
            for n in chosen:
                row = rows[n, place]
                same = known.labels[row] == queries.labels[n]
                cells.append(_framed(known.images[row], SAME if same else OTHER))
                names.append(known.names[int(known.labels[row])])
        blocks.append(sheet(np.stack(cells), len(chosen), 6, names))
    width = max(block.shape[1] for block in blocks)
    fitted = [
        np.pad(b, ((0, 12), (0, width - b.shape[1]), (0, 0)), constant_values=255) for b in blocks
    ]
    return np.concatenate(fitted)


def _framed(image: Images, colour: tuple[int, int, int]) -> Images:
    """An image, enlarged by whole pixels to `SIDE`, with a frame."""
    factor = -(-SIDE // image.shape[0])
    large = image.repeat(factor, 0).repeat(factor, 1)
    framed = cv2.copyMakeBorder(
        large, FRAME, FRAME, FRAME, FRAME, cv2.BORDER_CONSTANT, value=colour
    )
    return np.asarray(framed, np.uint8)
