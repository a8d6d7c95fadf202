"""A network's files as the planner sees them: what changes a key, what does not, and nothing of it
is run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gan_core.config import ExtractConfig
from gan_core.errors import RequestError
from gan_core.features.external.fingerprint import Stamp, stamp_of

MODULE = (
    "import json\nimport blocks\nfrom parts import heads\nraise RuntimeError('this module "
    "was run')\n"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    for name, text in {
        "mine.py": MODULE,
        "blocks.py": "from parts.deep import x\n",
        "unrelated.py": "y = 1\n",
        "parts/__init__.py": "",
        "parts/heads.py": "from . import shared\n",
        "parts/shared.py": "import mine\n",
        "parts/deep.py": "",
        "parts/other.py": "",
        "weights.pth": "w",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def stamp(folder: Path, network: str = "mine:Net", weights: str | None = "weights.pth") -> Stamp:
    found = stamp_of(ExtractConfig(network=network, weights=weights), folder)
    assert found is not None
    return found


def test_modules_next_to_it_are_followed_and_nothing_is_run(project: Path) -> None:
    found = stamp(project)
    wanted = [
        "blocks.py",
        "mine.py",
        "parts/__init__.py",
        "parts/deep.py",
        "parts/heads.py",
        "parts/shared.py",
    ]
    assert sorted(found.sources) == wanted
    assert found.root == project and found.weights == project / "weights.pth"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("mine.py", True),
        ("parts/deep.py", True),
        ("weights.pth", True),
        ("unrelated.py", False),
        ("parts/other.py", False),
    ],
)
def test_what_changes_a_key(project: Path, file: str, changes: bool) -> None:
    before = stamp(project).part()
    (project / file).write_text((project / file).read_text() + "# changed\n")
    assert (stamp(project).part() != before) is changes


def test_a_module_inside_a_package_and_the_random_control(project: Path) -> None:
    found = stamp(project, "parts.heads:Net")
    assert (
        found.root == project
        and {"parts/__init__.py", "parts/heads.py", "parts/shared.py"} <= found.sources.keys()
    )
    fresh = found.part(weights=False)
    (project / "weights.pth").write_text("other")
    assert stamp(project, "parts.heads:Net").part(weights=False) == fresh, (
        "fresh weights do not hang on the file"
    )


def test_installed_packages_are_followed_within_themselves(project: Path) -> None:
    found = stamp(project, "safetensors.torch:load", None)
    assert "safetensors/torch.py" in found.sources and all(
        name.startswith("safetensors/") for name in found.sources
    )
    assert found.digest is None


@pytest.mark.parametrize(
    ("network", "weights", "message"),
    [
        ("mime:Net", None, "did you mean 'mine'"),
        ("mine:Net", "weigths.pth", "did you mean 'weights.pth'"),
        ("./mine.py:Net", None, "without '.py'"),
        ("math:Net", None, "no module 'math'"),
    ],
)
def test_mistakes_name_the_nearest(
    project: Path, network: str, weights: str | None, message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        stamp(project, network, weights)
    assert message in caught.value.explain()


def test_parts_of_a_snapshot_have_no_stamp(project: Path) -> None:
    assert stamp_of(ExtractConfig(), project) is None
