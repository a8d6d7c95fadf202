"""Finds what a recipe names: a plug-in is one file, and its name is the file's.

A file of a plug-in folder is a plug-in if it assigns `ABOUT` at its top level; a dotted path names
a module outside the project. In addition to `ABOUT` a plug-in may assign `VERSION` (an integer, 1
by default, in the keys of the nodes that use it), `TITLE` (for the report), further literals that
its kind defines, and it may define `class Options(Section)`, the settings that it has of its own.

All of these are read from the syntax tree, so that listing and planning import nothing heavy. An
`Options` may use pydantic, typing, `gan_core.config`, and the literals and sections of its file;
for one that uses more, planning imports the whole file.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from gan_core.errors import RequestError, UnknownName
from gan_core.validation import Section, explain

# folder of the plug-ins to the word for one of them
KINDS = {
    "methods": "method",
    "networks": "network",
    "datasets": "dataset",
    "probes": "probe",
    "baselines": "baseline",
    "inspection": "inspection",
}

# what the file of a plug-in must define in addition to ABOUT
_REQUIRED = {
    "methods": ("Method",),
    "networks": ("IMAGE_SIZE", "LATENT_DIM", "PRIOR"),
    "datasets": ("open_source",),
    "probes": ("SETTING", "GRID", "fit"),
    "baselines": ("dims", "make"),
    "inspection": ("inspect",),
}

# What the definition of an `Options` class may import without the plug-in being imported itself.
_LIGHT = ("__future__", "typing", "collections.abc", "pydantic", "gan_core.config")


def names(kind: str) -> list[str]:
    """Names of the plug-ins of a kind, sorted."""
    if kind not in KINDS:
        raise UnknownName("kind of plug-in", kind, KINDS)
    folder = Path(__file__).parent / kind
    return sorted(path.stem for path in folder.glob("*.py") if is_plugin(path))


def is_name(kind: str, name: str) -> bool:
    """Whether a name is that of a plug-in of this kind, or a dotted path."""
    return "." in name or name in names(kind)


def is_plugin(path: Path) -> bool:
    """Whether a file of a plug-in folder is one, and not a base that they share."""
    return path.parent.name in KINDS and "ABOUT" in _literals(path)


def check(kind: str, name: str) -> str:
    """The name itself if it names a complete plug-in; a dotted path's parent packages are imported.

    Raises:
        UnknownName: there is no such plug-in, with the nearest name.
        RequestError: a dotted path that leads to no module; a file that lacks what it must define.
    """
    path = _file(kind, name)
    defined = _defined(path)
    missing = [word for word in _REQUIRED[kind] if word not in defined]
    if missing and "*" not in defined:
        raise RequestError(
            f"The {KINDS[kind]} {name} does not define {', '.join(missing)}.",
            expected=f"{', '.join(_REQUIRED[kind])} at the top level of {path}",
            remedy="docs/reading-order.md says where each kind of plug-in is described",
        )
    return name


def _file(kind: str, name: str) -> Path:
    """Where a plug-in's source lies. Raises: as `check`, for a name that leads nowhere."""
    if "." not in name:
        if name not in names(kind):
            plural = "inspections" if kind == "inspection" else kind
            remedy = f"`discern list {plural}` shows each with a sentence"
            raise UnknownName(KINDS[kind], name, names(kind), remedy=remedy)
        return Path(__file__).parent / kind / f"{name}.py"
    known = ", ".join(names(kind))
    expected = f"a name of gan_core/{kind} ({known}) or the dotted path of a module"
    remedy = "put its folder on PYTHONPATH or install it"
    try:
        spec = importlib.util.find_spec(name)
    except ImportError as error:
        message = f"The module {name!r} cannot be imported: {error}."
        raise RequestError(message, expected=expected, remedy=remedy) from error
    if spec is None or spec.origin is None:
        message = f"There is no module {name!r}."
        raise RequestError(message, expected=expected, remedy=remedy)
    return Path(spec.origin)


def load(kind: str, name: str) -> ModuleType:
    """The module of a plug-in, imported.

    Raises:
        RequestError: as `check`.
    """
    check(kind, name)
    return importlib.import_module(_module(kind, name))


def literal(kind: str, name: str, constant: str, default: Any = None) -> Any:
    """The literal that a plug-in assigns to `constant` at its top level, else `default`."""
    return _literals(_file(kind, name)).get(constant, default)


def about(kind: str, name: str) -> str:
    """A plug-in's sentence about itself."""
    return str(literal(kind, name, "ABOUT", ""))


def version(kind: str, name: str) -> int:
    """A plug-in's version: raised when the same request would give other content."""
    return int(literal(kind, name, "VERSION", 1))


def title(kind: str, name: str) -> str:
    """How a plug-in is called where people read; without a `TITLE` its name."""
    return str(literal(kind, name, "TITLE", "") or name.rpartition(".")[2].replace("_", " "))


def options(kind: str, name: str, given: Mapping[str, Any]) -> Section:
    """A plug-in's options: what is given, checked, and its defaults for the rest.

    Raises:
        RequestError: an unknown plug-in; an unknown option, with the nearest one; a wrong value.
    """
    check(kind, name)
    model = _options_class(kind, name)
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise explain(error, model, f"the {KINDS[kind]} {name}", "option") from None


def _module(kind: str, name: str) -> str:
    return name if "." in name else f"gan_core.{kind}.{name}"


def _options_class(kind: str, name: str) -> type[Section]:
    """The `Options` of a plug-in, without importing the plug-in where its definition allows it."""
    module = _module(kind, name)
    imported = getattr(sys.modules.get(module), "Options", None)
    found = imported or _defined_options(_file(kind, name), module)
    if found is None:  # it needs more than it may import for planning
        found = importlib.import_module(module).Options
    return found  # type: ignore[no-any-return]


@functools.cache
def _defined_options(path: Path, module: str) -> Any:
    """`Options` from the syntax tree: the light imports, the literals and the sections of a file.

    None where the definition needs anything else; a class without options where there is none.
    """
    body: list[ast.stmt] = []
    defined = False
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and _is_section(node):
            defined = defined or node.name == "Options"
            body.append(node)
        elif isinstance(node, ast.Import):
            if all(alias.name in _LIGHT for alias in node.names):
                body.append(node)
        elif isinstance(node, ast.ImportFrom):
            if node.module in _LIGHT and not node.level:
                body.append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and _is_literal(node):
            body.append(node)
    if not defined:
        return type("Options", (Section,), {"__module__": __name__})
    scope = ModuleType(f"{module}:options")
    sys.modules[scope.__name__] = scope  # where pydantic resolves the annotations
    try:
        exec(compile(ast.Module(body, []), str(path), "exec"), scope.__dict__)
    except NameError:
        return None
    return scope.Options


def _is_section(node: ast.ClassDef) -> bool:
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return "Section" in bases or "Options" in bases


def _is_literal(node: ast.Assign | ast.AnnAssign) -> bool:
    try:
        return node.value is not None and ast.literal_eval(node.value) is not ...
    except ValueError:
        # an alias of a type, such as Choice = Literal["a", "b"]
        return isinstance(node.value, ast.Subscript) and isinstance(node.value.value, ast.Name)


@functools.cache
def _literals(path: Path) -> dict[str, Any]:
    """The names to which a file assigns literals at its top level; nothing is imported."""
    found: dict[str, Any] = {}
    for node in _tree(path).body:
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and node.value is not None:
                try:
                    found[target.id] = ast.literal_eval(node.value)
                except ValueError:
                    continue
    return found


@functools.cache
def _defined(path: Path) -> frozenset[str]:
    """The names that a file defines or imports, those inside its functions included."""
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return frozenset(found)


@functools.cache
def _tree(path: Path) -> ast.Module:
    """Raises: RequestError: the file is not valid Python."""
    try:
        return ast.parse(path.read_text(), str(path))
    except SyntaxError as error:
        message = f"{path} is not valid Python: {error.msg} in line {error.lineno}."
        raise RequestError(message, remedy="correct the file") from error
