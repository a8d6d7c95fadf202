"""The inspections of the page: the content of `inspection.json` of each artifact."""

from __future__ import annotations

from typing import Any

from gan_core.reporting.images import sheet_image
from gan_core.reporting.inputs import ReportInputs, read_inspections


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
        shown = [figure for figure in figures if figure is not None]
        keys = ("name", "title", "sentence", "tables")
        found.append({**{key: content[key] for key in keys}, "figures": shown})
    return found
