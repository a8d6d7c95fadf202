"""The layers of docs/architecture.md: no circle of files or packages, no import upwards.

Read from the syntax trees, so that imports inside functions and for type checking count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("gan_core", "tasks", "flows")
    for path in (ROOT / top).rglob("*.py")
}
LIBRARIES = {
    f"gan_core.{name}"
    for name in [
        "baselines",
        "datasets",
        "dedup",
        "evaluation",
        "features",
        "importers",
        "inspection",
        "methods",
        "metrics",
        "networks",
        "probes",
        "recipes",
        "reporting",
        "training",
        "vision",
    ]
}
# A layer may import those before it, and its own. gan_core's own modules and gan_core.config are
# the ground.
RANK = {
    **{"gan_core": 0, "gan_core.artifacts": 1, "gan_core.stages": 3, "gan_core.pipeline": 4},
    **dict.fromkeys(LIBRARIES, 2),
    **{"tasks": 5, "flows": 6},
}
# the public API and `python -m gan_core`
ENTRY_POINTS = {"gan_core", "gan_core.api", "gan_core.__main__"}


def imports(path: Path) -> Iterator[str]:
    """Modules of the project that a file imports anywhere."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else node.module


GRAPH = {
    name: {other for other in imports(path) if other in FILES and other != name}
    for name, path in FILES.items()
}


def package(module: str) -> str:
    """'gan_core' for the ground, 'gan_core.dedup', 'tasks', 'flows'."""
    parts = module.split(".")
    if parts[0] != "gan_core" or parts[1:2] == ["config"]:
        return parts[0]
    inner = len(parts) > 2 or (len(parts) == 2 and (ROOT / "gan_core" / parts[1]).is_dir())
    return ".".join(parts[:2]) if inner else "gan_core"


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Sets of nodes that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        found, waiting = set(), list(graph[start])
        while waiting:
            if (name := waiting.pop()) not in found:
                found.add(name)
                waiting += graph.get(name, ())
        reach[start] = found
    return {
        frozenset(other for other in graph if other in reach[name] and name in reach[other])
        for name in graph
        if name in reach[name]
    }


def test_no_circle_of_files() -> None:
    assert not circles(GRAPH)


def test_no_circle_of_packages() -> None:
    packages: dict[str, set[str]] = {package(name): set() for name in GRAPH}
    for name, others in GRAPH.items():
        if name not in ENTRY_POINTS:
            packages[package(name)] |= {package(other) for other in others} - {package(name)}
    assert not circles(packages)


def test_no_import_upwards() -> None:
    upwards = {
        f"{name} -> {other}"
        for name, others in GRAPH.items()
        for other in others
        if name not in ENTRY_POINTS and RANK[package(other)] > RANK[package(name)]
    }
    assert not upwards


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {frozenset("bc")}
