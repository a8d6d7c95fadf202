"""Options of commands that are declared once, in a dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import COMMANDS, load_command, with_groups

seen: list[Any] = []


@dataclass(frozen=True, kw_only=True)
class Base:
    side: Annotated[int, typer.Option("--side", help="pixels", min=1)] = 8


@dataclass(frozen=True, kw_only=True)
class Group(Base):
    names: Annotated[list[str] | None, typer.Option("--name")] = None


def command(place: Annotated[str, typer.Argument()], *, options: Group, loud: bool = False) -> int:
    seen.append((place, options, loud))
    return 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["here"], ("here", Group(), False)),
        (
            ["--name", "a", "here", "--loud", "--name", "b", "--side", "2"],
            ("here", Group(side=2, names=["a", "b"]), True),
        ),
    ],
)
def test_the_fields_of_a_group_are_options_of_the_command(
    words: list[str], expected: tuple[Any, ...]
) -> None:
    app = typer.Typer()
    app.command()(with_groups(command))
    assert CliRunner().invoke(app, words).exit_code == 0
    assert seen.pop() == expected
    assert CliRunner().invoke(app, ["here", "--side", "0"]).exit_code == 2


def test_every_option_of_every_command_has_a_help_text() -> None:
    for name in COMMANDS:
        loaded = load_command(name)
        for one in getattr(loaded, "commands", {name: loaded}).values():
            lacking = [option.name for option in one.params if not option.help]
            assert not lacking, f"discern {name}: {lacking}"
