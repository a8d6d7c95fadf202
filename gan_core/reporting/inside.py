"""The inspections of the page: the content of `inspection.json` of each artifact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gan_core.reporting.images import Image, sheet_image
from gan_core.reporting.inputs import ReportInputs, read_inspections

COLUMN = 820  # pixels of the page's column: 1,120 less its margins and the headings


def enlarged(figure: Image) -> Image:
    """A small figure at twice its size: sheets of 32 pixels an image are hard to see otherwise."""
    if 2 * figure.width > COLUMN:
        return figure
    return replace(figure, width=2 * figure.width, height=2 * figure.height)


def image_side(summary: dict[str, Any]) -> int | None:
    """Side of a generated image in pixels, as the snapshot records it."""
    return (summary["training"].get("network") or {}).get("image_size")


def inspections(inputs: ReportInputs, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Title, sentence, figures and tables of each inspection, in the order of the recipe."""
    side = image_side(summary)
    found = []
    for folder, content in read_inspections(inputs):
        figures = [
            sheet_image(
                folder / figure["file"],
                side,
                caption=figure["caption"],
                alt=figure["caption"] or content["title"],
            )
            for figure in content["figures"]
        ]
        shown = [enlarged(figure) for figure in figures if figure is not None]
        keys = ("name", "title", "sentence", "tables")
        found.append({**{key: content[key] for key in keys}, "figures": shown})
    return found
