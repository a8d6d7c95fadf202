"""A run of one stage whose input goes between plan and work: it ends, and its record says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gan_core.artifacts.store import Store
from gan_core.errors import StoreError
from gan_core.pipeline.request import Prepared, RunRequest, prepare
from gan_core.pipeline.runner import execute


def test_an_input_that_goes_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import represent, run_plan

    store = Store(tmp_path)
    (node,) = prepare(RunRequest(recipe="digits", until="ingest", home=str(tmp_path)), store).nodes
    made = execute(store, node, {})

    def plan_and_lose(request: RunRequest, store: Store) -> Prepared:
        prepared = prepare(request, store)
        assert made.ref
        shutil.rmtree(store.path(made.ref))
        return prepared

    monkeypatch.setattr(run_plan, "prepare", plan_and_lose)
    with pytest.raises(StoreError, match="gone or damaged"):
        represent.run(RunRequest(recipe="digits", only="crop", home=str(tmp_path)))
    (record,) = (tmp_path / "runs").glob("*/run.json")
    message = json.loads(record.read_text())
    assert message["state"] == "failed" and "gone or damaged" in message["error"]
