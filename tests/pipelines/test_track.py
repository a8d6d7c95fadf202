"""A finished run in experiment trackers; each is skipped where its package is not installed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.commands.track import FIGURES, read_run, track
from gan_core.errors import RequestError, UnknownName


def test_what_is_logged_of_a_run(finished: tuple[Path, dict[str, Any]]) -> None:
    (folder,) = (finished[0] / "runs").iterdir()
    run = read_run(str(finished[0]), folder.name)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert run.parameters["train.kimg"] == recipe["train"]["kimg"]
    means = [value for name, value in run.metrics.items() if name.endswith("/mean")]
    assert means and all(0 < value <= 1 for value in means)
    snapshots = sorted((finished[0] / "artifacts" / "train").rglob("*.safetensors"))
    assert snapshots
    for path in snapshots:
        assert run.digests[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "report/report.html" in run.files and all(one.is_file() for one in run.files.values())
    assert any(one.suffix in FIGURES for one in run.files.values())


def test_requests_that_cannot_be_met(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = (finished[0] / "runs").iterdir()
    home = str(finished[0])
    with pytest.raises(UnknownName, match="'mlflow'"):
        track(folder.name, "mlflo", home)
    with pytest.raises(UnknownName, match="run called"):
        track("another", "mlflow", home)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(RequestError, match="not installed") as refused:
        track(folder.name, "mlflow", home)
    assert "discern-gan[mlflow]" in refused.value.remedy


def test_mlflow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder,) = (home / "runs").iterdir()
    track(folder.name, "mlflow", str(home))
    (found,) = mlflow.search_runs(experiment_names=["discern"], output_format="list")
    wanted = read_run(str(home), folder.name)
    assert found.data.metrics == pytest.approx(wanted.metrics)
    assert found.data.tags["digest.train"] == wanted.digests["train"]
    assert list((home / "mlflow").rglob("report/report.html"))


def test_wandb(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (folder,) = (home / "runs").iterdir()
    track(folder.name, "wandb", str(home))
    (written,) = (home / "wandb").glob(f"offline-run-*-{folder.name}")
    assert list(written.glob("*.wandb")) and (written / "files/report/report.html").is_file()
