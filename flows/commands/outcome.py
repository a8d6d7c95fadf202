"""What a run wrote and what a person should know of it: sizes of features, counts and scores where
no report tells them, warnings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef, StageOutcome
from gan_core.errors import UnknownName
from gan_core.files import read_json

_CONTROLS = ("pixels", "random")


def run_folder(store: Store, name: str) -> Path:
    """The folder of a run, given as a folder or by its name in the home.

    Raises:
        UnknownName: there is no such run.
    """
    folder = Path(name) if Path(name, "run.json").is_file() else store.home / "runs" / name
    if not (folder / "run.json").is_file():
        known = [path.parent.name for path in sorted((store.home / "runs").glob("*/run.json"))]
        of_recipe = [run for run in known if run.startswith(f"{name}-")]
        raise UnknownName(
            "run",
            name,
            known,
            remedy=f"the newest run of {name} is {of_recipe[-1]}"
            if of_recipe
            else "name a folder of <home>/runs",
        )
    return folder


def folder_of(store: Store, node: dict[str, Any]) -> Path:
    """The artifact's folder of a node of `run.json`."""
    return store.path(ArtifactRef.model_validate(node["ref"]))


def feature_sets(store: Store, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each set of features but the plain baselines: {'node', 'folder', 'length', 'dims',
    'assumed'}.
    """
    found = []
    for node in nodes:
        if (
            node["ref"]
            and node["node"].startswith("extract:")
            and node["node"].rsplit(":", 1)[1] not in _CONTROLS
        ):
            folder = folder_of(store, node)
            said = read_json(folder / "manifest.json")["outcome"]["summary"]
            named = {name: said[name] for name in ("length", "dims", "assumed") if name in said}
            found.append({"node": node["node"], "folder": str(folder), **named})
    return found


def scores(store: Store, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as in a report's `scores`, from the cells of a run that ended before its report."""
    from gan_core.reporting.inputs import ReportInputs
    from gan_core.reporting.scores import score_rows

    cells = [
        folder_of(store, node)
        for node in nodes
        if node["ref"] and node["node"].startswith("evaluate:")
    ]
    return score_rows(ReportInputs(cells=tuple(cells)))


def warnings(store: Store, nodes: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Each sentence that a stage has for a person, once, with the first node that says it: {'node',
    'warning'}.

    Cached stages are asked, too: what was lost in an earlier run is lost in this one.
    """
    found: dict[str, str] = {}
    for node in nodes:
        if node["ref"] and not node["node"].startswith("report"):
            for sentence in _said(store, node).warnings:
                found.setdefault(sentence, node["node"])
    return [{"node": node, "warning": sentence} for sentence, node in found.items()]


def ignored(store: Store, nodes: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Source to what lies among its files and was not read, by kind."""
    outcomes = {
        node["node"].partition(":")[2]: _said(store, node)
        for node in nodes
        if node["ref"] and node["node"].startswith("ingest:")
    }
    return {
        name: one.summary["ignored"] for name, one in outcomes.items() if one.summary.get("ignored")
    }


def counts(store: Store, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each node counted: {'node', 'counts'}."""
    return [
        {"node": node["node"], "counts": _said(store, node).counts} for node in nodes if node["ref"]
    ]


def _said(store: Store, node: dict[str, Any]) -> StageOutcome:
    """What its manifest says: of an object store no other file is fetched for it."""
    manifest = store.artifacts.get(ArtifactRef.model_validate(node["ref"]))
    return manifest.outcome if manifest else StageOutcome()
