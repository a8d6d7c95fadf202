"""kill -9 in the middle of training, again and again, at arbitrary places: the weights at the
end are those of a quiet run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import sys
from pathlib import Path
import numpy as np, torch
from gan_core.config import TrainConfig
from gan_core.training.data import ArrayImages
from gan_core.training.context import Context
from gan_core.training.loop import train
torch.set_num_threads(1)
settings = TrainConfig(
    network={"width": 0.125}, batch=16, kimg=1.6, log_kimg=0.1, state_kimg=0.064,
    options={"mode": sys.argv[3]}, flip=True,
)
def said(done, total, unit, **figures):
    print(done, flush=True)
context = Context(settings, Path(sys.argv[2]), 32, precision=sys.argv[4])
train(ArrayImages(np.load(sys.argv[1])), context, progress=said)
"""


def start(images: Path, folder: Path, mode: str, precision: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(images), str(folder), mode, precision]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.parametrize(
    ("mode", "precision"),
    [("modern", "bf16"), pytest.param("paper", "float32", marks=pytest.mark.slow)],
)
def test_killed_anywhere_it_ends_in_the_same_weights(
    tmp_path: Path, mode: str, precision: str
) -> None:
    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8))
    quiet = start(images, tmp_path / "quiet", mode, precision)
    assert quiet.communicate()[0] and quiet.returncode == 0

    chance, kills = random.Random(0), 0
    while True:
        process = start(images, tmp_path / "killed", mode, precision)
        assert process.stdout is not None
        for _ in range(chance.randrange(8, 60)):  # let it get some minibatches further
            if not process.stdout.readline():
                break
        time.sleep(
            chance.random() * 0.02
        )  # and die at any place within one, or while it writes its state
        if process.poll() is not None or kills >= 3:
            process.communicate()
            assert process.returncode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    assert kills >= 2
    names = {p.name for p in (tmp_path / "quiet" / "products").glob("snapshot-*")}
    assert names == {"snapshot-000001_600.safetensors"}
    (name,) = names
    assert (tmp_path / "quiet/products" / name).read_bytes() == (
        tmp_path / "killed/products" / name
    ).read_bytes()
