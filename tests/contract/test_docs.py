"""The documentation: links lead somewhere, README keeps its size, its commands and names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(#[^)\s]*)?\)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        file = (page.parent / target) if target else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor[1:] in anchors(file), f"{target}{anchor}"


def test_readme_is_short_and_indexes_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 100
    assert max(map(len, readme.splitlines())) <= 100
    linked = {target for target, _ in LINK.findall(readme)}
    pages = {str(page.relative_to(ROOT)) for page in PAGES[1:]}
    assert pages <= linked


def test_every_recipe_is_in_the_table() -> None:
    from gan_core.recipes import recipe_names

    table = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs" / "recipes.md").read_text(), re.M)
    assert set(recipe_names()) <= set(table)


def test_commands_in_the_documentation_exist() -> None:
    from flows.cli import COMMANDS, load_command

    known = {name: load_command(name) for name in COMMANDS}
    for page in PAGES:
        for block in re.findall(r"```(?:bash)?\n(.*?)```", page.read_text(), re.DOTALL):
            whole = block.replace("\\\n", " ")
            for line in re.findall(r"^(?:\S*bin/)?discern (.*)$", whole, re.M):
                words = shlex.split(line, comments=True)
                assert words[0] in known or words[0].startswith("-"), (page.name, line)
                options = {name for one in known[words[0]].params for name in one.opts}
                if words[0] != "server":
                    given = {word.split("=")[0] for word in words if word.startswith("--")}
                    assert given <= options | {"--help"}, (page.name, line)


def test_names_of_the_python_api_in_the_documentation_exist() -> None:
    import gan_core

    table = (ROOT / "docs" / "python.md").read_text()
    assert set(re.findall(r"^\| `(\w+)\(", table, re.M)) == set(gan_core.__all__)
    for page in PAGES:
        used = set(re.findall(r"\bgan_core\.(\w+)\(", page.read_text()))
        assert used <= set(gan_core.__all__), page.name
