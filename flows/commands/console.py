"""What the command line prints: tables for people, one JSON object for programs, logs on standard
error.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from gan_core.pipeline.nodes import NodeStatus
from gan_core.pipeline.request import Prepared

MARKS = {"cached": "[green]cached[/]", "to do": "[yellow]to do[/]", "after": "[dim]after[/]"}


def log_to_stderr(verbose: bool) -> None:
    """Sends the core's log to standard error, one plain line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("gan_core")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def say(text: str, style: str | None = None) -> None:
    """A line for a person, on standard error. Nothing in it is read as
    markup.
    """
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False).print(
        text, style=style
    )


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def plan_rows(statuses: dict[str, NodeStatus]) -> list[dict[str, Any]]:
    """The plan as plain rows: node, state, key, digest, why."""
    return [
        {
            "node": name,
            "state": status.state,
            "key": status.key,
            "digest": status.manifest.digest if status.manifest else None,
            "seconds": status.manifest.made.get("seconds") if status.manifest else None,
            "why": status.why,
        }
        for name, status in statuses.items()
    ]


def print_plan(prepared: Prepared) -> None:
    """The plan as a table on standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(f"{prepared.recipe.name} (scale {prepared.recipe.scale})"),
        title_justify="left",
        box=None,
    )
    for column in ("stage", "state", "key", "why or seconds"):
        table.add_column(column, no_wrap=True)
    for row in plan_rows(prepared.statuses):
        note = row["why"] or (f"{row['seconds']:.1f} s" if row["seconds"] is not None else "")
        table.add_row(
            escape(row["node"]), MARKS[row["state"]], (row["key"] or "")[:12], escape(note)
        )
    # no emoji: `evaluate:cat:pixels` holds the code of one
    console = Console(width=None if sys.stdout.isatty() else 140, emoji=False)
    console.print(table)
    for name in prepared.to_fetch:
        console.print(
            f"source {name} would be downloaded to {prepared.locations[name].path}", markup=False
        )


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The report's summary.json, or None."""
    try:
        content = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def print_scores(summary: dict[str, Any]) -> None:
    """The scores with their baselines, the caveat, and what to try next."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gan_core.reporting.summary import scores_table, table_notes

    console = Console(
        width=None if sys.stdout.isatty() else 140, markup=False, emoji=False, highlight=False
    )
    rows = scores_table(summary)
    if rows:
        table = Table(title="Test accuracy, % (95 % interval)", title_justify="left", box=None)
        for column in rows[0]:
            table.add_column(str(column))
        for row in rows:
            table.add_row(*[Text(str(value)) for value in row.values()])
        console.print(table)
        for note in table_notes(summary):
            console.print(note, style="dim")
    for name in ("sentence", "verdict", "leaks", "caveat"):
        if summary.get(name):
            console.print(str(summary[name]))
    if summary.get("next"):
        console.print("Next: " + "\n      ".join(summary["next"]))
