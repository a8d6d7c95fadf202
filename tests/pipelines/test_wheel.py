"""The wheel outside a checkout: installed without its dependencies, next to this environment's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """(runs a program of a fresh environment in an empty folder, the environment)."""
    place = tmp_path_factory.mktemp("wheel")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "build", "--quiet", "--wheel", "--out-dir", place, ROOT], check=True)
    venv = place / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    wheel = next(place.glob("discern_gan-*.whl"))
    options = ["--quiet", "--no-deps", "--python", str(venv / "bin" / "python"), str(wheel)]
    subprocess.run([*uv, "pip", "install", *options], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    empty = place / "empty"
    empty.mkdir()
    outside = {"PYTHONPATH", "DISCERN_HOME", "VIRTUAL_ENV"}
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in outside and not name.startswith("PREFECT_")
    }
    clean["XDG_DATA_HOME"] = str(place / "user-data")

    def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(venv / "bin" / program), *words]
        return subprocess.run(command, cwd=empty, env=clean, capture_output=True, text=True)

    return run, place


def test_the_code_is_the_wheels_and_its_recipes_are_there(installed: tuple[Run, Path]) -> None:
    run, place = installed
    code = "import gan_core, flows, tasks; print(*(m.__file__ for m in (gan_core, flows, tasks)))"
    files = run("python", "-c", code).stdout.split()
    assert len(files) == 3 and all(Path(file).is_relative_to(place) for file in files)
    listed = json.loads(run("discern", "list", "recipes", "--json").stdout)["recipes"]
    assert set(listed) == {path.stem for path in (ROOT / "gan_core/recipes").glob("*.yaml")}


def test_a_run_from_an_empty_folder_ends_with_a_report(installed: tuple[Run, Path]) -> None:
    run, place = installed
    words = ["digits", "--scale", "debug", "--device", "cpu"]
    for setting in (
        "train.kimg=0.5",
        "dedup.mode=off",
        "sources.train.digits.limit=200",
        "evaluate.probes=[{name: ridge, grid: [1.0]}]",
        "evaluate.baselines=[pixels]",
        "inspect=[samples]",
    ):
        words += ["--set", setting]
    answer = run("discern", "run", *words, "--json")
    assert answer.returncode == 0, answer.stderr
    report = Path(json.loads(answer.stdout)["report"])
    # without a checkout the home is the user's data folder
    assert report.is_relative_to(place / "user-data" / "discern") and report.is_file()
    assert "base64" in report.read_text()


def test_a_server_is_set_up_started_and_given_the_deployments(installed: tuple[Run, Path]) -> None:
    run, place = installed
    steps = run("discern", "setup")
    assert steps.returncode == 0, steps.stderr
    file = next(
        word for word in steps.stdout.replace("\n", " ").split() if word.endswith("prefect.yaml")
    )
    assert Path(file).read_bytes() == (ROOT / "prefect.yaml").read_bytes()
    try:
        assert run("discern", "server", "start").returncode == 0
        worker = place / "user-data" / "discern" / "prefect" / "worker.env"
        assert worker.is_file()
        folder = Path(sys.executable).parent
        command = (
            f"set -a; . '{worker}'; set +a; cd {place}; PATH={place}/venv/bin:$PATH "
            f"{place}/venv/bin/python {folder}/prefect --no-prompt deploy --all "
            f"--prefect-file '{file}'"
        )
        done: Any = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        doctor = json.loads(run("discern", "doctor", "--json").stdout)
        assert "all 8 of prefect.yaml" in json.dumps(doctor)
    finally:
        assert run("discern", "server", "stop").returncode == 0
