"""server.env: what a shell reads is what Discern reads, a person's changes stay, no other user may
look.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from flows.prefect_server import settings
from gan_core.errors import RequestError


def as_a_shell_reads(path: Path) -> dict[str, str]:
    command = ["sh", "-c", f"set -a; . ./{path.name}; env -0"]
    done = subprocess.run(
        command,
        capture_output=True,
        check=True,
        env={"PATH": os.defpath},
        text=True,
        cwd=path.parent,
    )
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


def test_a_shell_reads_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "it's a home" / "prefect"
    first = settings.ensure_server_file(folder)
    assert settings.database(folder) == str(folder / "prefect.db")
    path = settings.server_file(folder)
    read = settings.read_file(path)
    assert set(read) == set(first) and read.items() <= as_a_shell_reads(path).items()
    assert settings.ensure_server_file(folder) == []
    assert path.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700


def test_what_a_person_changed_stays(tmp_path: Path) -> None:
    settings.ensure_server_file(tmp_path)
    settings.ensure_worker_file(tmp_path, "/home")
    path = settings.server_file(tmp_path)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("DO_NOT_TRACK")]
    own = "postgresql+asyncpg://discern:se#cret@db/prefect"
    lines = [
        f"# ours\nexport PREFECT_SERVER_DATABASE_CONNECTION_URL='{own}'"
        if "DATABASE_CON" in line
        else line
        for line in lines
    ]
    path.write_text("\n".join([*lines, "MINE=1"]))
    assert settings.ensure_server_file(tmp_path) == ["DO_NOT_TRACK"], (
        "only what is missing is written"
    )
    before = settings.credentials(tmp_path)
    moved = settings.ensure_server_file(tmp_path, port=4567)
    assert len(moved) == 3
    read = settings.read_file(path)
    assert (
        read["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == own
        and read["MINE"] == "1"
        and "# ours" in path.read_text()
    )
    assert "se#cret" not in settings.database(tmp_path) and settings.database(tmp_path).endswith(
        "@db/prefect"
    )
    assert settings.credentials(tmp_path) == before
    assert (
        settings.read_file(settings.worker_file(tmp_path))["PREFECT_API_URL"]
        == "http://127.0.0.1:4567/api"
    )


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "server.env").write_text("A=1\nthis is no setting\n")
    with pytest.raises(RequestError, match="Line 2"):
        settings.read_file(tmp_path / "server.env")
