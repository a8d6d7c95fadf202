"""What a plug-in's file says of itself is read without importing it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_core import registry
from gan_core.errors import RequestError, UnknownName

PLUGIN = """
from __future__ import annotations

from typing import Literal

import not_installed_anywhere
from pydantic import Field

from gan_core.config import Section

ABOUT = "an external probe"
VERSION = 3
TITLE = "My probe"
SETTING = ""
GRID = [0.0]
SHIFTS = (0, 1)
Kind = Literal["flat", "round"]


class Inner(Section):
    depth: int = 1


class Options(Section):
    kind: Kind = "flat"
    shifts: list[int] = Field(list(SHIFTS), min_length=1)
    inner: Inner = Inner()


def fit(features, labels, values=GRID, *, seed=0, device="cpu"):
    return []
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_plugins").mkdir()
    (tmp_path / "my_plugins" / "__init__.py").touch()
    (tmp_path / "my_plugins" / "mine.py").write_text(PLUGIN)
    (tmp_path / "my_plugins" / "incomplete.py").write_text('ABOUT, GRID = "no fit", [0.0]')
    (tmp_path / "my_plugins" / "broken.py").write_text("ABOUT = 1\ndef fit(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_plugins.mine"
    sys.modules.pop("my_plugins", None)


def test_a_dotted_plugin_is_read_without_importing_it(mine: str) -> None:
    assert registry.about("probes", mine) == "an external probe"
    assert registry.version("probes", mine) == 3 and registry.title("probes", mine) == "My probe"
    assert registry.options("probes", mine, {}).key_part() == {}
    given = registry.options("probes", mine, {"kind": "round", "inner": {"depth": 2}})
    assert given.key_part() == {"kind": "round", "inner": {"depth": 2}}
    assert mine not in sys.modules


def test_wrong_options_name_the_nearest(mine: str) -> None:
    with pytest.raises(UnknownName, match="no option of the probe my_plugins.mine called 'knd'; d"):
        registry.options("probes", mine, {"knd": "flat"})
    with pytest.raises(RequestError, match="kind is 'rond'; did you mean 'round'"):
        registry.options("probes", mine, {"kind": "rond"})


def test_a_file_that_is_incomplete_or_no_python_is_named(mine: str) -> None:
    with pytest.raises(RequestError, match=r"my_plugins.incomplete does not define SETTING, fit"):
        registry.check("probes", "my_plugins.incomplete")
    with pytest.raises(RequestError, match=r"broken.py is not valid Python: .* in line 2"):
        registry.check("probes", "my_plugins.broken")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_plugin_has_options_with_defaults_and_a_version(kind: str) -> None:
    for name in registry.names(kind):
        assert registry.about(kind, name) and registry.version(kind, name) >= 1, name
        assert registry.options(kind, name, {}).key_part() == {}, name


def test_planning_imports_no_torch() -> None:
    code = """
import sys
from gan_core import registry
for kind in registry.KINDS:
    for name in registry.names(kind):
        registry.options(kind, name, {}), registry.title(kind, name)
        heavy = {"torch", "cv2", "faiss", "prefect", "sklearn"} & set(sys.modules)
        assert not heavy, f"{kind}/{name}.py imports {heavy}"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
