"""One new file adds one new thing: a copy of a plug-in of each kind under a new name, in a copy of
the project, is found, planned and run from recipe to report.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COPIED = {
    "methods": "dcgan",
    "networks": "dcgan32_svhn",
    "datasets": "digits",
    "probes": "ridge",
    "baselines": "pixels",
    "inspection": "samples",
}
RECIPE = {
    "name": "new-names",
    "sources": {"train": [{"name": "own", "dataset": "new_digits", "limit": 400}]},
    "train": {
        "method": "new_dcgan",
        "network": {"name": "new_dcgan32_svhn", "width": 0.125},
        "kimg": 0.5,
        "batch": 32,
        "precision": "float32",
    },
    "dedup": {"measure": False},
    "evaluate": {
        "labels_per_class": ["all"],
        "draws": 1,
        "probes": [{"name": "new_ridge", "grid": [10.0]}],
        "baselines": ["new_pixels"],
    },
    "inspect": {"new_samples": {}},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("gan_core", "tasks", "flows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for kind, name in COPIED.items():
        rooms = folder / "gan_core" / kind
        shutil.copyfile(rooms / f"{name}.py", rooms / f"new_{name}.py")
    (folder / "new.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def discern(checkout: Path, *words: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words, "--json"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_copied_file_is_listed_and_planned(checkout: Path) -> None:
    plan = discern(checkout, "run", "new.yaml", "--dry-run", "--home", str(checkout / "home"))
    nodes = {row["node"] for row in plan["plan"]}
    assert {"inspect:new_samples", "extract:own:new_pixels"} <= nodes
    assert {"evaluate:own:new_pixels:new_ridge", "evaluate:own:discriminator:new_ridge"} <= nodes


@pytest.mark.slow
def test_a_copied_file_of_each_kind_runs_to_the_report(checkout: Path) -> None:
    made = discern(checkout, "run", "new.yaml", "--home", str(checkout / "home"))
    assert made["state"] == "completed"
    nodes = {node["node"]: node for node in made["nodes"]}
    assert nodes["inspect:new_samples"]["ref"] and nodes["report"]["ref"]
    scored = {(row["features"], row["probe"]) for row in made["summary"]["scores"]}
    assert {("new_pixels", "new_ridge"), ("discriminator", "new_ridge")} <= scored
    page = Path(made["report"]).read_text()
    assert "new_pixels" in page or "raw pixels" in page
