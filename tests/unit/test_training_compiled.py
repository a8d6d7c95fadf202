"""CUDA graphs: refused with a reason where they cannot be had; errors of a GPU name their
remedy.
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
from gan_core.training.compiled import choose_compile, gpu_errors, reason_against
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


def test_reasons() -> None:
    assert "several exchange gradients" in reason_against("cuda", 2)
    assert reason_against("cuda:0", 1) == ""
    assert [resolve_compile("auto", device) for device in ("cpu", "cuda")] == ["off", "graphs"]


def test_auto_leaves_short_trainings_alone_and_an_error_of_the_gpu_names_its_remedy() -> None:
    def never() -> None:
        raise AssertionError("a short training is not tried")

    assert choose_compile(TrainConfig(kimg=100), "cuda", 1, never) == "off"
    for error, words in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "train.batch"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "train.compile=off"),
    ):
        with pytest.raises(TransientError) as caught, gpu_errors("auto"):
            raise error
        assert words in caught.value.remedy and "last saved state" in caught.value.remedy
    with pytest.raises(RuntimeError, match="a bug"), gpu_errors("auto"):
        raise RuntimeError("a bug")
