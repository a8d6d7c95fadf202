"""Fixtures for all tests: where real data lies, a home of one's own, a way to run the command as a
user does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Two tests run at once: their threads must not wait for each other's cores. Before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
import flows  # noqa: F401  sets how OpenMP threads wait

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that DISCERN_DATA points to; skips where it is not set."""
    place = os.environ.get("DISCERN_DATA")
    if not place or not Path(place).is_dir():
        pytest.skip("DISCERN_DATA is not set: real image sets are not at hand")
    return Path(place)


@dataclass
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


@pytest.fixture
def discern(tmp_path: Path) -> Callable[..., Answer]:
    """Runs `discern ARGUMENTS` in a process of its own, with a home under tmp_path unless `home` is
    given.
    """

    def run(
        *arguments: str,
        home: Path | None = None,
        timeout: float = 1200,
        cwd: Path | None = None,
        **variables: str,
    ) -> Answer:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
        }
        environment = {
            **clean,
            "DISCERN_HOME": str(home or tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
            cwd=cwd or tmp_path,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run
