"""Compiled networks: refused with a reason where they cannot be had, and the same weights however
training is interrupted.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.config import TrainConfig
from gan_core.devices import resolve_compile
from gan_core.errors import TransientError
from gan_core.training.compiled import compiling, gpu_errors, reason_against
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train

BASE = {
    "network": {"width": 0.125},
    "batch": 16,
    "kimg": 0.16,
    "log_kimg": 0.048,
    "state_kimg": 0.048,
}


def noise() -> ArrayImages:
    return ArrayImages(np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8))


def test_what_cannot_be_compiled_trains_without_and_says_why_in_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trained = train(
            noise(),
            Context(TrainConfig(**{**BASE, "kimg": 0.032, "compile": "graphs"}), tmp_path, 32),
        )
    assert trained.complete and trained.compiled == "off"
    (line,) = [
        record.getMessage() for record in caplog.records if "step by step" in record.getMessage()
    ]
    assert "CUDA graphs need a GPU" in line


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "second derivatives" in reason_against(TrainConfig(r1=1.0), "on", "cpu", 1)
    assert "synchronised" in reason_against(TrainConfig(), "on", "cpu", 2)
    assert "several exchange gradients" in reason_against(TrainConfig(), "graphs", "cuda", 2)
    assert reason_against(TrainConfig(r1=1.0), "graphs", "cuda:0", 1) == ""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler" in reason_against(TrainConfig(), "on", "cpu", 1)
    assert [resolve_compile("auto", device) for device in ("cpu", "cuda")] == ["off", "graphs"]


def test_auto_leaves_short_trainings_alone_and_an_error_of_the_gpu_names_its_remedy() -> None:
    def never(how: str) -> None:
        raise AssertionError("a short training is not tried")

    assert compiling(TrainConfig(kimg=100), "cuda", 1, never) == "off"
    for error, words in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "train.batch"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "train.compile=off"),
    ):
        with pytest.raises(TransientError) as caught, gpu_errors("auto"):
            raise error
        assert words in caught.value.remedy and "last saved state" in caught.value.remedy
    with pytest.raises(RuntimeError, match="a bug"), gpu_errors("auto"):
        raise RuntimeError("a bug")


@pytest.mark.slow
def test_compiled_training_ends_in_the_same_weights_however_it_was_interrupted(
    tmp_path: Path,
) -> None:
    settings = TrainConfig(**BASE, compile="on")
    whole = train(noise(), Context(settings, tmp_path / "whole", 32))
    starts = 1
    while not train(noise(), Context(settings, tmp_path / "state", 32, max_seconds=0.02)).complete:
        starts += 1
    assert whole.compiled == "on" and starts > 1
    (name,) = (path.name for path in (tmp_path / "whole" / "products").glob("snapshot-*"))
    files = [tmp_path / part / "products" / name for part in ("whole", "state")]
    assert files[0].read_bytes() == files[1].read_bytes()
