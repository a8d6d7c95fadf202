"""Dockerfile and compose file: what they copy is there, what they set and start exists. They are
not run here (docs/untested.md).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
INSTRUCTIONS = {
    *("FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "ENTRYPOINT", "CMD"),
}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line.strip()]


def test_the_image_copies_files_of_the_checkout_that_the_context_has() -> None:
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    assert {"gan_core", "flows", "tasks", "requirements.lock"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in ignored


def test_the_wheel_needs_no_file_that_the_image_lacks() -> None:
    """What pyproject.toml names must be copied before the project is installed."""
    copied = " ".join(rest for name, rest in instructions() if name == "COPY")
    named = re.findall(
        r'"(README\.md|LICENSE|prefect\.yaml)"', (ROOT / "pyproject.toml").read_text()
    )
    assert named and all(name in copied for name in named)


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_prefect_knows_every_setting(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import Settings

    given = COMPOSE["services"][service]["environment"]
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    known = Settings().to_environment_variables(exclude_unset=True)
    assert {name for name in given if name.startswith("PREFECT_")} <= known.keys()


def test_the_server_is_set_as_a_home_sets_its_own(tmp_path: Path) -> None:
    from flows.prefect_server.settings import server_environment

    own = server_environment(tmp_path / "prefect")
    given = COMPOSE["services"]["server"]["environment"]
    for name in own.keys() & given.keys():
        if any(word in name for word in ("RECORDER", "LEASE", "SLOT", "TIMEOUT", "CSRF")):
            assert given[name] == own[name], name


def test_the_commands_are_commands() -> None:
    from flows.cli import COMMANDS

    for service in COMPOSE["services"].values():
        assert service["build"] == "." and service["command"][0] in ("prefect", "sh")
        for part in " ".join(service["command"]).split("&&"):
            words = shlex.split(part.removeprefix("sh -c "))
            if words[0] == "discern":
                assert words[1] in COMMANDS
        for other in service.get("depends_on", {}):
            assert other in COMPOSE["services"]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or source.startswith("${")
