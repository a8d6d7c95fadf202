"""The notebooks of examples/ run from top to bottom; their cells are plain Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CHECKS = {
    "run_and_read.ipynb": "assert scores['pixels']['mean'] > 0.5 and samples.shape[0] == 16",
    "features_of_your_network.ipynb": "assert accuracy > 0.85",
    "near_duplicates.ipynb": (
        "assert {row['address'] for row in copies} == {f'{n}-small.png' for n in range(3)}"
    ),
}


def test_every_notebook_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.ipynb")} == CHECKS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    cells = json.loads((ROOT / "examples" / name).read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = "\n\n".join([*code, CHECKS[name]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
