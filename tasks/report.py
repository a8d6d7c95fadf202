"""The report stage as a Prefect task: what the report says, in short, and where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from gan_core.pipeline.runner import StageResult
from gan_core.reporting.summary import scores_table, table_notes
from tasks.base import stage_task


def _publish(result: StageResult, folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    create_markdown_artifact(
        key="report",
        markdown=_in_short(summary, folder),
        description="The report of this run, in short",
    )


def _in_short(summary: dict[str, Any], folder: Path) -> str:
    """Sentence, verdict, scores and caveat as Markdown; the page itself is a file, which a browser
    may not open from here.
    """
    parts = [f"# {summary.get('title') or 'Report'}"]
    parts += [str(summary[name]) for name in ("sentence", "verdict") if summary.get(name)]
    if rows := scores_table(summary):
        parts.append(
            "\n".join(
                [
                    "Test accuracy, % (95 % interval)",
                    "",
                    _row(rows[0]),
                    _row(["---"] * len(rows[0])),
                ]
            )
        )
        parts[-1] += "".join(f"\n{_row(row.values())}" for row in rows)
        parts += [note.replace("*", "\\*") for note in table_notes(summary)]
    if summary.get("caveat"):
        parts.append(f"> {summary['caveat']}")
    parts.append(f"The whole report, with its images, is one file: `{folder / 'report.html'}`")
    return "\n\n".join(parts)


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


report = stage_task("report", publish=_publish)
