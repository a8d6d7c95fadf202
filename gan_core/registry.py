"""Finds what a recipe names: the file's name in a room is its name; a dotted path reaches a module
outside the project.

Listing looks at file names only, so that `discern list` and the planner import nothing heavy.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from gan_core.errors import RequestError, UnknownName

KINDS = ("methods", "networks", "datasets", "probes", "baselines")


def names(kind: str) -> list[str]:
    """Names that the room `kind` offers, sorted."""
    if kind not in KINDS:
        raise UnknownName("room", kind, KINDS)
    folder = Path(__file__).parent / kind
    return sorted(path.stem for path in folder.glob("*.py") if _assigned(path, "ABOUT") is not None)


@functools.cache
def _assigned(path: Path, name: str) -> Any:
    """The literal that a file assigns to `name` at its top level, or None; nothing is imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(value)
    return None


def check(kind: str, name: str) -> None:
    """Raises UnknownName when `name` stands for nothing in the room `kind`; imports nothing but a
    dotted path's parents.
    """
    if "." in name:
        try:
            spec = importlib.util.find_spec(name)
        except ImportError as error:
            raise RequestError(
                f"The module {name!r} cannot be imported: {error}.",
                expected=(
                    f"a name of gan_core/{kind} ({', '.join(names(kind))}) or the dotted "
                    "path of a module"
                ),
                remedy="put its folder on PYTHONPATH or install it",
            ) from error
        if spec is None:
            raise RequestError(
                f"There is no module {name!r}.",
                expected=(
                    f"a name of gan_core/{kind} ({', '.join(names(kind))}) or the dotted "
                    "path of a module"
                ),
                remedy="put its folder on PYTHONPATH or install it",
            )
    elif name not in names(kind):
        raise UnknownName(
            kind.rstrip("s"),
            name,
            names(kind),
            remedy=f"`discern list {kind}` shows each with a sentence",
        )


def load(kind: str, name: str) -> ModuleType:
    """The module behind a name.

    Raises:
        UnknownName: no such file in the room, with the nearest name.
        RequestError: a dotted path that cannot be imported.
    """
    check(kind, name)
    return importlib.import_module(name if "." in name else f"gan_core.{kind}.{name}")


def about(kind: str, name: str) -> str:
    """The `ABOUT` sentence of an entry, read from its syntax tree so that nothing heavy is
    imported.
    """
    return str(_assigned(Path(__file__).parent / kind / f"{name}.py", "ABOUT"))
