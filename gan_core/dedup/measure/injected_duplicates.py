"""Known duplicates, made on purpose: how many of them a setting finds, and what it ties together
besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from gan_core.dedup.search.find_duplicates import find_duplicates
from gan_core.progress import Progress, silent
from gan_core.randomness import numpy_stream
from gan_core.vision.sheets import encode_jpeg

if TYPE_CHECKING:
    from gan_core.config import DedupConfig
    from gan_core.dedup.groups import Groups
    from gan_core.dedup.tables import Found

Image = npt.NDArray[np.uint8]
Alteration = Callable[[Image], Image]


def _jpeg(quality: int) -> Alteration:
    def alter(image: Image) -> Image:
        data = np.frombuffer(encode_jpeg(image, quality), np.uint8)
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        return np.ascontiguousarray(decoded[..., ::-1], np.uint8)

    return alter


def _affine(dx: float = 0, dy: float = 0, scale: float = 1, degrees: float = 0) -> Alteration:
    """Shift in 32nds of the side, scale and turn about the centre; borders repeat."""

    def alter(image: Image) -> Image:
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
        matrix[:, 2] += (dx * width / 32, dy * height / 32)
        moved = cv2.warpAffine(
            image,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(moved, np.uint8)

    return alter


def _tone(gain: float = 1, offset: float = 0, gamma: float = 1) -> Alteration:
    def alter(image: Image) -> Image:
        values = 255 * (image / 255.0) ** gamma * gain + offset
        return np.clip(values.round(), 0, 255).astype(np.uint8)

    return alter


def _through(share: float) -> Alteration:
    """Made smaller by area, and large again."""

    def alter(image: Image) -> Image:
        height, width = image.shape[:2]
        small = cv2.resize(
            image, (round(width * share), round(height * share)), interpolation=cv2.INTER_AREA
        )
        return np.asarray(
            cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8
        )

    return alter


def _noise(sigma: float) -> Alteration:
    def alter(image: Image) -> Image:
        # Fixed by the image's own content: the same image gets the same noise everywhere.
        noise = numpy_stream(int(image.sum()), "injection", "noise").normal(0, sigma, image.shape)
        return np.clip((image + noise).round(), 0, 255).astype(np.uint8)

    return alter


def _grey(image: Image) -> Image:
    return np.repeat(
        np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)[..., None], 3, axis=2
    )


def _mirror(image: Image) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


ALTERATIONS: dict[str, Alteration] = {
    "identical": lambda image: image.copy(),
    "JPEG 90": _jpeg(90),
    "JPEG 50": _jpeg(50),
    "JPEG 20": _jpeg(20),
    "JPEG 10": _jpeg(10),
    "shift 1 px": _affine(dx=1, dy=-1),
    "shift 2 px": _affine(dx=-2, dy=2),
    "shift 3 px": _affine(dx=3, dy=3),
    "crop 95 %": _affine(scale=1 / 0.95),
    "crop 90 %": _affine(scale=1 / 0.9),
    "crop 80 %": _affine(scale=1 / 0.8),
    "turned 3 degrees": _affine(degrees=3),
    "turned 8 degrees": _affine(degrees=8),
    "brighter by 30": _tone(offset=30),
    "contrast x 0.7": _tone(gain=0.7),
    "gamma 1.5": _tone(gamma=1.5),
    "through 3/4 size": _through(0.75),
    "through 1/2 size": _through(0.5),
    "noise of 8 levels": _noise(8),
    "noise of 16 levels": _noise(16),
    "grey": _grey,
    "mirror": _mirror,
    "mirror, JPEG 50, shift 2 px": lambda image: _affine(dx=2, dy=-1)(_jpeg(50)(_mirror(image))),
}


def injected_recall(
    pixels: npt.NDArray[np.uint8],
    config: DedupConfig,
    each: int = 200,
    seed: int = 0,
    progress: Progress = silent,
    search: Callable[[Image], tuple[Groups, Found]] | None = None,
) -> dict[str, Any]:
    """Adds altered duplicates to the originals and searches all of them for duplicates.

    Args:
        pixels: uint8 [n, S, S, 3]; of `each` images (another draw for each alteration) a duplicate
            is added.
        search: finds groups and pairs among images uint8 [m, S, S, 3], lower rows preferred; None:
            mode verified by `config`.

    Returns:
        rows; each: duplicates of each kind; recall {alteration: share of the duplicates paired with
        their original}; kept_out {alteration: share of the duplicates whose group holds their
        original}; other_pairs: pairs found between different originals (real duplicates of the set,
        or errors).
    """
    count = len(pixels)
    each = min(each, count)
    parts, origin, kind = [pixels], [np.arange(count)], [np.full(count, -1)]
    for number, (name, alter) in enumerate(ALTERATIONS.items()):
        chosen = np.sort(numpy_stream(seed, "injection", name).choice(count, each, replace=False))
        parts.append(np.stack([alter(image) for image in pixels[chosen]]))
        origin.append(chosen)
        kind.append(np.full(each, number))
    everything, source, kinds = np.concatenate(parts), np.concatenate(origin), np.concatenate(kind)
    if search is None:
        duplicates = find_duplicates(
            lambda rows: everything[rows], np.arange(len(everything)), config, progress=progress
        )
        groups, found = duplicates.groups, duplicates.found
    else:
        groups, found = search(everything)
    paired = np.zeros(len(everything), np.bool_)
    i, j = found.i, found.j
    direct = (source[i] == source[j]) & (np.minimum(i, j) == source[i])
    paired[np.maximum(i, j)[direct]] = True
    together = groups.representative == groups.representative[source]
    names = list(ALTERATIONS)
    return {
        "rows": len(everything),
        "each": each,
        "recall": {
            name: round(float(paired[kinds == number].mean()), 4)
            for number, name in enumerate(names)
        },
        "kept_out": {
            name: round(float(together[kinds == number].mean()), 4)
            for number, name in enumerate(names)
        },
        "other_pairs": int((source[i] != source[j]).sum()),
    }
