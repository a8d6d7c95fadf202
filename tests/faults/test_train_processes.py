"""Two processes over gloo, started by torchrun, against one process on the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

PROGRAM = """
import sys
from pathlib import Path
import numpy as np, torch
from gan_core.config import TrainConfig
from gan_core.training.data import ArrayImages
from gan_core.training.distributed import join
from gan_core.training.loop import Setting, train
torch.set_num_threads(1)
processes, device = join("cpu")
settings = TrainConfig(
    network={"width": 0.125}, batch=16, kimg=0.096, log_kimg=0.032, state_kimg=0.032, mode=sys.argv[3], flip=True, beta1=0.5,
    **({"augment": ["color", "translation", "cutout"], "r1": 1.0} if "options" in sys.argv else {}),
)
setting = Setting(settings, Path(sys.argv[2]), 32, device=device, processes=processes)
trained = train(ArrayImages(np.load(sys.argv[1])), setting)
torch.distributed.destroy_process_group() if processes.count > 1 else None
print("ended", processes.rank, processes.count, trained.complete, flush=True)
"""


def images(folder: Path) -> Path:
    path = folder / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8))
    return path


def run(folder: Path, name: str, processes: int, mode: str, *more: str) -> str:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    started = [sys.executable]
    if processes > 1:
        started += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    command = [*started, str(program), str(images(folder)), str(folder / name), mode, *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "how", ["modern options", pytest.param("modern", marks=pytest.mark.slow), pytest.param("paper", marks=pytest.mark.slow)]
)
def test_two_processes_agree_with_one(tmp_path: Path, how: str) -> None:
    """Options: augmentation, whose every picture is changed as one process changes it, and R1 through synchronised norms."""
    run(tmp_path, "one", 1, *how.split())
    said = run(tmp_path, "two", 2, *how.split())
    assert "ended 0 2 True" in said and "ended 1 2 True" in said
    (path,) = (tmp_path / "one" / "products").glob("snapshot-*")
    one, two = load_file(path), load_file(tmp_path / "two" / "products" / path.name)
    assert one.keys() == two.keys()
    moved = 0.0
    for name, value in one.items():
        if "running" in name or name == "grid_latents":
            continue
        # sums over processes round differently, and Adam's first steps have the same size however small the gradient
        assert (value - two[name]).abs().mean() < 2e-5, name
        moved = max(moved, float((value - two[name]).abs().max()))
    assert moved < 2e-3  # six steps of 2e-4 each way at the very most
    lines = [(tmp_path / name / "stats.jsonl").read_text().count("\n") for name in ("one", "two")]
    assert lines == [3, 3]  # the second process writes none


def test_norm_statistics_are_over_all_processes() -> None:
    """Batch norm's sums over two shares give the formula on the whole batch, forwards and backwards."""
    import torch.multiprocessing as multiprocessing

    multiprocessing.spawn(_share, args=(2,), nprocs=2)


def _share(rank: int, count: int) -> None:
    import tempfile

    from gan_core.networks.base import BatchNorm

    torch.set_num_threads(1)
    store = Path(tempfile.gettempdir()) / f"discern-norms-{os.getppid()}"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    x = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    whole, mine = x.clone().requires_grad_(True), x[rank::count].clone().requires_grad_(True)
    alone, shared = BatchNorm(5), BatchNorm(5)
    shared.across = True
    (alone(whole) * target).sum().backward()
    out = shared(mine)
    (out * target[rank::count]).sum().backward()
    assert torch.allclose(out, alone(x)[rank::count], atol=1e-5)
    assert whole.grad is not None and mine.grad is not None
    assert torch.allclose(mine.grad, whole.grad[rank::count], atol=1e-5)
    assert torch.allclose(shared.running_var, alone.running_var, atol=0.2)
    torch.distributed.destroy_process_group()
    if rank == 0:
        store.unlink(missing_ok=True)
