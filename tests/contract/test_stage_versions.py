"""Code that decides a stage's content does not change unnoticed: each change is either a new
version or recorded as harmless.

`stage_sources.yaml` next to this file remembers, for each stage, its version and a hash of the
syntax trees of its code (comments, docstrings and formatting left out).
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest
import yaml

from gan_core import registry
from gan_core.specs import STAGES, StageSpec

REMEMBERED = Path(__file__).with_name("stage_sources.yaml")
CORE = Path(__file__).resolve().parents[2] / "gan_core"
_QUIET = {
    "ctx",
    "kind",
    "type_comment",
    "type_params",
    "type_ignores",
}  # differ between Python versions, mean nothing here


def code_hash(spec: StageSpec) -> str:
    """16 hex digits over the syntax trees of a stage's code."""
    whole = hashlib.sha256()
    for name in spec.code:
        place = CORE / name
        assert place.exists(), f"{spec.name} names {name}, which is not there"
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if registry.is_plugin(path):  # its own VERSION is in the keys
                continue
            whole.update(
                f"{path.relative_to(CORE).as_posix()}\n{tree_text(path.read_text())}\n".encode()
            )
        for path in sorted(place.rglob("*.j2")):
            whole.update(path.read_bytes())
    return whole.hexdigest()[:16]


def tree_text(source: str) -> str:
    """A syntax tree as text, without docstrings and positions."""
    return _dump(ast.parse(source))


def _dump(node: object) -> str:
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name in _QUIET:
                continue
            if (
                name == "body"
                and isinstance(value, list)
                and value
                and _is_docstring(node, value[0])
            ):
                value = value[1:]
            fields.append(f"{name}={_dump(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_dump(item) for item in node)}]"
    return repr(node)


def _is_docstring(owner: ast.AST, first: object) -> bool:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return (
        isinstance(owner, owners)
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_code_and_version_move_together(stage: str) -> None:
    spec = STAGES[stage]
    remembered = yaml.safe_load(REMEMBERED.read_text()).get(stage, {})
    line = f"{stage}: {{version: {spec.version}, code: '{code_hash(spec)}'}}"
    now = {"version": spec.version, "code": code_hash(spec)}
    assert remembered == now, (
        f"The code of stage {stage} changed. If it now writes other content for the same request, "
        "raise its version in "
        f"gan_core/specs.py; then put this line into {REMEMBERED.name}:\n{line}"
    )


def test_comments_and_docstrings_are_no_change() -> None:
    plain = "def f(x):\n    return x + 1\n"
    message = (
        '"""A module."""\n# a comment\ndef f(x):\n    """Adds."""\n'
        "    return (x +\n            1)\n"
    )
    assert tree_text(plain) == tree_text(message)
    assert tree_text(plain) != tree_text(plain.replace("1", "2"))
