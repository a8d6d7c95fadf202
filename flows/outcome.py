"""What a run wrote, in figures, where there is no report to take them from: sizes of features, scores, and why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gan_core.files import read_json
from gan_core.stages.contract import ArtifactRef
from gan_core.store import Store

_CONTROLS = ("pixels", "random")


def folder_of(store: Store, node: dict[str, Any]) -> Path:
    """The artifact's folder of a node of `run.json`."""
    return store.path(ArtifactRef.model_validate(node["ref"]))


def feature_sets(store: Store, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each set of features but the plain controls: {'node', 'folder', 'length', 'dims', 'assumed'}."""
    found = []
    for node in nodes:
        if node["ref"] and node["node"].startswith("extract:") and node["node"].rsplit(":", 1)[1] not in _CONTROLS:
            folder = folder_of(store, node)
            said = read_json(folder / "manifest.json")["outcome"]["summary"]
            named = {name: said[name] for name in ("length", "dims", "assumed") if name in said}
            found.append({"node": node["node"], "folder": str(folder), **named})
    return found


def scores(store: Store, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as in a report's `scores`, from the cells of a run that ended before its report."""
    from gan_core.reporting.gather import ReportInputs
    from gan_core.reporting.scores import score_rows

    cells = [folder_of(store, node) for node in nodes if node["ref"] and node["node"].startswith("evaluate:")]
    return score_rows(ReportInputs(cells=tuple(cells)))
