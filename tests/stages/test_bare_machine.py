"""Where neither Prefect nor FAISS nor what the command line needs is installed: every stage can be
loaded, a recipe runs to its report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ABSENT = ("prefect", "faiss", "typer", "rich")
# `python` runs a sitecustomize before anything else; None in sys.modules is a module that cannot be
# found.
SITE = f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\n"


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of such a machine, which its children share."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    found = [str(tmp_path / "site"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found), "OMP_WAIT_POLICY": "PASSIVE"}


def test_every_stage_can_be_loaded(bare: dict[str, str]) -> None:
    code = (
        "import importlib; from gan_core.specs import STAGES; import gan_core.training.loop, "
        "gan_core.features.extract\n"
        "import gan_core.probes.linear_svm, gan_core.probes.knn, gan_core.__main__, "
        "gan_core.pipeline.runner, gan_core.pipeline.run_record, gan_core.pipeline.preflight\n"
        "for name in STAGES: importlib.import_module(f'gan_core.stages.{name}')\n"
        "try: import prefect\nexcept ImportError: print('absent')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "absent", done.stderr


def test_an_estimate_and_a_training_import_no_compiler(tmp_path: Path) -> None:
    """torch imports its compiler at the first use of many of its parts: seconds of each process."""
    code = """
import sys
from pathlib import Path
import numpy as np
from gan_core.recipes import load_recipe
from gan_core.pipeline.estimates import needs
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train
recipe, _ = load_recipe("digits", scale="debug", overrides=["train.kimg=0.064"])
needs(recipe, "cpu", {"digits": 900})
pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
assert train(ArrayImages(pixels), Context(recipe.train, Path(sys.argv[1]), 32)).complete
heavy = {"torch._dynamo", "scipy.stats", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)


@pytest.mark.slow
def test_a_recipe_runs_to_its_report(bare: dict[str, str], tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "bare.py"),
        "digits",
        "--home",
        str(tmp_path / "home"),
    ]
    options = ["--scale", "debug", "--device", "cpu", "--set", "dedup.mode=off"]
    done = subprocess.run([*command, *options], env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nodes = [json.loads(line)["node"].split(":")[0] for line in done.stdout.splitlines()]
    assert {"train", "extract", "evaluate", "report"} <= set(nodes)
    assert list((tmp_path / "home" / "artifacts" / "report").rglob("report.html"))


def test_the_benchmark_of_training_serves_the_engine() -> None:
    """Its tables are made where time is short: with names that have moved it would end there."""
    loop = {"label": "engine", "kind": "engine", "precision": "float32", "compile": "off"}
    asked = {
        "threads": 1,
        "device": "cpu",
        "network": "dcgan32_svhn",
        "width": 0.05,
        "batch": 4,
        "loop": loop,
    }
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "training.py"),
        "--serve",
        json.dumps(asked),
    ]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
