"""What a terminal shows: a user's own text unchanged, lost output and unread warnings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.commands import console, outcome
from flows.commands.run import _show_warnings
from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import Store
from gan_core.contract import StageOutcome

NASTY = "the one of [/x], [draft] and :cat:"


def test_words_of_a_recipe_are_no_marks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.say(NASTY, "yellow")
    console.print_scores({"caveat": NASTY, "sentence": NASTY, "next": [NASTY], "scores": []})
    row = {
        "node": "extract:cat:discriminator [/x]",
        "state": "cached",
        "key": "0" * 32,
        "seconds": 1.0,
        "why": NASTY,
    }
    monkeypatch.setattr(console, "plan_rows", lambda statuses: [row])
    recipe = SimpleNamespace(name="mine", scale="[/x]")
    console.print_plan(SimpleNamespace(recipe=recipe, statuses={}, to_fetch=[], locations={}))
    result = capsys.readouterr()
    assert result.err.strip() == NASTY
    assert (
        result.out.count(NASTY) == 4
        and "extract:cat:discriminator [/x]" in result.out
        and "scale [/x]" in result.out
    )


def made(store: Store, node: str, key: str, **message: Any) -> dict[str, Any]:
    stage = node.partition(":")[0]
    work = store.work(stage, key)
    (work / "file").write_text(key)
    manifest = Manifest(
        stage=stage,
        version=1,
        key=key,
        digest="",
        node=node,
        part={},
        outcome=StageOutcome(**message),
        made={"at": "now"},
    )
    ref, _ = store.publish(work, manifest, ("file",))
    return {"node": node, "ref": ref.model_dump(), "cached": True}


def test_warnings_of_all_stages_are_reported_once_and_what_was_ignored_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    nodes = [
        made(
            store,
            "ingest:cats",
            "1" * 32,
            warnings=["2 of 9 images cannot be used"],
            summary={"ignored": {".txt files": 3}},
        ),
        made(store, "evaluate:cats:pixels:knn", "2" * 32, warnings=["too few labels"]),
        made(
            store,
            "evaluate:cats:random:knn",
            "3" * 32,
            warnings=["too few labels", *(f"remark {n}" for n in range(9))],
        ),
        made(
            store,
            "evaluate:cats:random:linear_svm",
            "5" * 32,
            warnings=[
                f"random / linear_svm at {n} labels: the best C is the largest tried ({n}); a "
                "wider grid"
                for n in ("10", "all")
            ],
        ),
        made(store, "report", "4" * 32, warnings=["a check of the report, which shows it"]),
        {"node": "train", "ref": None, "cached": False},
    ]
    found = outcome.warnings(store, nodes)
    assert found[:2] == [
        {"node": "ingest:cats", "warning": "2 of 9 images cannot be used"},
        {"node": "evaluate:cats:pixels:knn", "warning": "too few labels"},
    ]
    assert len(found) == 13
    _show_warnings(found, outcome.ignored(store, nodes))
    result = capsys.readouterr().err
    assert (
        "ignored   in cats: 3 .txt files" in result
        and "ingest:cats: 2 of 9 images cannot be used" in result
    )
    assert result.count("too few labels") == 1 and "and 4 more" in result
    _show_warnings(found[-2:], {})
    assert (
        capsys.readouterr().err.strip()
        == "2 times in evaluate: the best C is the largest tried; a wider grid"
    )


def test_the_version_is_the_installed_one() -> None:
    from importlib import metadata

    from typer.testing import CliRunner

    from flows.cli import app

    answer = CliRunner().invoke(app, ["--version"])
    assert answer.exit_code == 0
    assert answer.output == f"discern {metadata.version('discern-gan')}\n"


def test_help_imports_no_command_and_no_command_imports_torch_or_prefect() -> None:
    code = (
        "import sys; from flows.cli import COMMANDS, app, load_command\n"
        "app(['--help'], standalone_mode=False)\n"
        "print([name for name in sys.modules if name.startswith('flows.commands')])\n"
        "for name in COMMANDS: load_command(name)\n"
        "print([name for name in ('torch', 'prefect', 'faiss', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "similar" in done.stdout and done.stdout.splitlines()[-2:] == ["[]", "[]"]


@pytest.mark.parametrize("code", [0, 1])
def test_the_number_that_a_command_returns_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    from typer.testing import CliRunner

    from flows.cli import app
    from flows.commands import doctor

    monkeypatch.setattr(doctor, "doctor", lambda: code)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == code
