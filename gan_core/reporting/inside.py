"""The figures of `inspect` as the page shows them: sheets taken apart into labelled blocks, with a
sentence each.
"""

from __future__ import annotations

from typing import Any

from gan_core.reporting import sentences as words
from gan_core.reporting.images import (
    Image,
    Pixels,
    as_image,
    lay_out,
    read_image,
    sheet_image,
    tiles_of,
)
from gan_core.reporting.inputs import ReportInputs


def image_side(summary: dict[str, Any]) -> int | None:
    """Side of a generated image in pixels, as the snapshot records it."""
    return (summary["training"].get("network") or {}).get("image_size")


def sheet(
    inputs: ReportInputs, name: str, summary: dict[str, Any], alt: str, columns: int | None = None
) -> Image | None:
    """A sheet of the inspect artifact, or None. Args: columns: lay it out anew with so many images
    in a row.
    """
    for folder in inputs.inspect:
        found = sheet_image(folder / name, image_side(summary), alt=alt, columns=columns)
        if found:
            return found
    return None


def _tiles(inputs: ReportInputs, name: str, summary: dict[str, Any]) -> Pixels | None:
    side = image_side(summary)
    for folder in inputs.inspect:
        path = folder / name
        if side and path.is_file():
            return tiles_of(read_image(path), side)
    return None


def guided_figure(inputs: ReportInputs, summary: dict[str, Any]) -> dict[str, Any] | None:
    """Three blocks, a row for each feature: images, what trained filters answer to in them, the
    same of random filters.
    """
    numbers = summary["inspect"].get("guided")
    tiles = _tiles(inputs, "guided.png", summary)
    if not numbers or tiles is None or tiles.shape[1] != 3 * numbers["columns"]:
        return None
    wide = numbers["columns"]
    titles = (f"strongest {numbers['of']}", "trained filters", "random filters")
    blocks = [
        as_image(lay_out(tiles[:, i * wide : (i + 1) * wide]), title, title)
        for i, title in enumerate(titles)
    ]
    return {"blocks": blocks, "sentence": words.guided_sentence(numbers)}


def arithmetic_figure(inputs: ReportInputs, summary: dict[str, Any]) -> dict[str, Any] | None:
    """Rows A, B, C (exemplars, and what their mean latent gives), the sum with its neighbours, and
    the sum in pixels.
    """
    numbers = summary["inspect"].get("arithmetic")
    tiles = _tiles(inputs, "arithmetic.png", summary)
    if not numbers or tiles is None or tiles.shape[:2] != (3, 9):
        return None
    rows = [
        {
            "sign": sign,
            "exemplars": as_image(lay_out(tiles[row : row + 1, :3]), alt=f"exemplars of {sign}"),
            "mean": as_image(tiles[row, 3], alt="generated from their mean latent"),
        }
        for row, sign in enumerate(("A", "− B", "+ C"))
    ]
    return {
        "rows": rows,
        "result": as_image(lay_out(tiles[:, 4:7]), alt="the sum, with eight neighbours around it"),
        "pixels": as_image(tiles[1, 8], alt="the same sum in pixels"),
        "sentence": words.arithmetic_sentence(numbers),
    }
