"""A refreshed training that is killed: another try continues it, and only the next refresh begins
again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

from gan_core.artifacts.locks import file_lock
from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import TrainingDiverged, TransientError
from gan_core.pipeline import gpu_lock as gpus
from gan_core.pipeline import runner
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.request import RunRequest, prepare
from gan_core.pipeline.run_record import Run
from gan_core.pipeline.runner import StageResult, execute, fresh_state
from tests.faults.test_child_process import children
from tests.stages.digits_artifacts import digits_crops


def test_a_killed_refresh_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    digits_crops(store.work("pack", "p"), count=80)
    manifest = Manifest(stage="pack", version=1, key="p", digest="", part={})
    pack, _ = store.publish(store.work("pack", "p"), manifest, ("crops.parquet", "pixels-*.npy"))
    network = {"name": "dcgan32_svhn", "width": 0.125}
    train = {"network": network, "kimg": 0.64, "batch": 16, "state_kimg": 0.064, "log_kimg": 0.016}
    part = {"train": train, "seed": 0, "threads": 1, "image_size": 32}
    node = Node("train", "train", part, part, {"pack": ("pack",)}, {"device": "cpu"})

    def kill_at_half(done: float, total: float, unit: str, **figures: float) -> None:
        if done >= total / 2:
            for pid in children():
                os.kill(pid, signal.SIGKILL)

    # On the way: a device that another process holds is waited for. There need be none: the lock is
    # one of files.
    monkeypatch.setattr(runner, "identities", lambda device, processes: ["one"])
    monkeypatch.setattr(gpus, "PLACE", tmp_path)
    caplog.set_level("INFO", "gan_core")
    holder = contextlib.ExitStack()
    holder.enter_context(file_lock(tmp_path / "discern-gpu-one.lock", "holder"))
    threading.Timer(1, holder.close).start()
    with pytest.raises(TransientError, match="signal 9"):
        execute(store, node, {"pack": pack}, refresh=True, progress=kill_at_half)
    assert "waiting for holder" in caplog.text and "which has the GPU" in caplog.text
    # As the task's retry, the run's retry, and the same command do: they ask for a refresh again.
    continued = execute(store, node, {"pack": pack}, refresh=True)
    assert continued.outcome.summary["started_at_kimg"] >= 0.2 and not continued.cached
    (state,) = (tmp_path / "state" / "train").iterdir()
    with fresh_state(state, "train") as mark:
        assert [path.name for path in state.iterdir()] == [mark.name], (
            "it was complete: the next refresh begins again"
        )
        (state / "state.json").touch()
    with fresh_state(state, "train"), pytest.raises(TrainingDiverged):
        assert (state / "state.json").exists(), "and is continued until it is complete,"
        with fresh_state(state, "train"):
            raise TrainingDiverged("a planted fault")
    with fresh_state(state, "train"):
        assert not (state / "state.json").exists(), "or has diverged"


def test_a_run_that_is_tried_again_knows_what_it_has_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    prepared = prepare(RunRequest(recipe="digits", home=str(tmp_path)), store)
    ref = ArtifactRef(stage="pack", key="k", digest="d" * 64)
    for flow_run, made in (("this", "pack"), ("another", "train")):
        earlier = Run(store, prepared, flow_run=flow_run)
        earlier.add(StageResult(node=made, ref=ref, cached=False))
        earlier.add(StageResult(node="hash", ref=ref, cached=True))
        earlier.finish("failed")
    run = Run(store, prepared, flow_run="this")
    run.follows_up()
    assert run.made_before == {"pack"}
