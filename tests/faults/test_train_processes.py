"""Two processes over gloo, started by torchrun, against one process on the same global batch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gan_core.errors import RequestError
from gan_core.training.distributed import join

# A network from outside whose constructor draws a weight without a seed: every process would begin
# with another one
NETWORK = """
import torch
from torch import nn
from gan_core.networks import dcgan32_svhn
from gan_core.networks.dcgan32_svhn import ABOUT, IMAGE_SIZE, LATENT_DIM, PRIOR, generator
class Scaled(nn.LeakyReLU):
    def __init__(self):
        super().__init__(0.2)
        self.scale = nn.Parameter(torch.rand(1) + 0.5)
    def forward(self, x):
        return super().forward(x) * self.scale
def discriminator(width=1.0, outputs=1):
    made = dcgan32_svhn.discriminator(width, outputs)
    made.layer("conv1").activation = Scaled()
    return made
"""
PROGRAM = """
import sys
from pathlib import Path
import numpy as np, torch
from gan_core.config import TrainConfig
from gan_core.training.data import ArrayImages
from gan_core.training.distributed import join
from gan_core.training.context import Context
from gan_core.training.loop import train
torch.set_num_threads(1)
processes, device = join("cpu")
images, folder, mode, kimg, network, *options = sys.argv[1:]
more = {"augment": ["color", "translation", "cutout"], "r1": 1.0} if options else {}
settings = TrainConfig(
    network={"name": network, "width": 0.125}, batch=16, kimg=float(kimg), log_kimg=0.032,
    state_kimg=0.032, flip=True, beta1=0.5, options={"mode": mode, **more},
)
place = Path(folder) / str(processes.rank)
context = Context(settings, place, 32, device=device, processes=processes, max_seconds=300.0)
trained = train(ArrayImages(np.load(images)), context)
networks = trained.state.networks.values()
weights = sum(float(p.double().sum()) for network in networks for p in network.parameters())
torch.distributed.destroy_process_group() if processes.count > 1 else None
ended = (processes.rank, processes.count, trained.complete, trained.started_at, weights)
(Path(folder) / f"ended-{processes.rank}").write_text(" ".join(map(str, ended)))
"""


def run(folder: Path, name: str, processes: int, *how: str) -> list[list[str]]:
    """What each process wrote at its end. Each has a state folder of its own, so that only the
    first finds what the first left.

    Into files: the processes share one standard output, where gloo's own messages come in between a
        line and its end.
    """
    (folder / "program.py").write_text(PROGRAM)
    (folder / "outside").mkdir(exist_ok=True)
    (folder / "outside" / "scaled.py").write_text(NETWORK)
    np.save(
        folder / "images.npy", np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
    )
    started = [sys.executable]
    if processes > 1:
        started += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{root}{os.pathsep}{folder}",
    }
    command = [
        *started,
        str(folder / "program.py"),
        str(folder / "images.npy"),
        str(folder / name),
        *how,
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [(folder / name / f"ended-{rank}").read_text().split() for rank in range(processes)]


def agree(one: Path, two: Path) -> None:
    """The newest snapshots in two folders are equal up to the rounding of sums."""
    path = max((one / "products").glob("snapshot-*"))
    first, second = load_file(path), load_file(two / "products" / path.name)
    assert first.keys() == second.keys()
    moved = 0.0
    for name, value in first.items():
        if "running" in name or name == "grid_latents":
            continue
        # sums over processes round differently, and Adam's first steps have the same size however
        # small the gradient
        assert (value - second[name]).abs().mean() < 2e-5, name
        moved = max(moved, float((value - second[name]).abs().max()))
    assert moved < 2e-3  # six steps of 2e-4 each way at the very most
    lines = [(folder / "stats.jsonl").read_text().count("\n") for folder in (one, two)]
    assert lines == [3, 3]  # the second process writes none


def test_two_processes_go_on_from_the_state_of_the_first_and_agree_with_one(tmp_path: Path) -> None:
    """With augmentation, whose every image is changed as one process changes it, and R1 through
    synchronised norms; the second process sees nothing of the state, and both draw a first weight
    of their own."""
    how = ("outside.scaled", "options")
    run(tmp_path, "one", 1, "modern", "0.032", *how)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    run(tmp_path, "one", 1, "modern", "0.096", *how)
    result = run(tmp_path, "two", 2, "modern", "0.096", *how)
    assert [line[:4] for line in result] == [["0", "2", "True", "32"], ["1", "2", "True", "32"]]
    agree(tmp_path / "one" / "0", tmp_path / "two" / "0")


@pytest.mark.slow
def test_several_processes_begin_with_the_weights_of_the_first(tmp_path: Path) -> None:
    first, second = run(tmp_path, "two", 2, "modern", "0.032", "outside.scaled")
    assert first[4] == second[4] and first[3] == "0"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["modern", "paper"])
def test_two_processes_agree_with_one(tmp_path: Path, mode: str) -> None:
    run(tmp_path, "one", 1, mode, "0.096", "dcgan32_svhn")
    run(tmp_path, "two", 2, mode, "0.096", "dcgan32_svhn")
    agree(tmp_path / "one" / "0", tmp_path / "two" / "0")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun would start them; the number of GPUs is this machine's."""
    here = torch.cuda.device_count() + 1
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": str(here)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        RequestError,
        match=f"{here} processes are to train on this machine's GPUs, and it has {here - 1}",
    ):
        join("cuda")


def test_norm_statistics_are_over_all_processes() -> None:
    """Batch norm's sums over two shares give the formula on the whole batch, forwards and
    backwards.
    """
    import torch.multiprocessing as multiprocessing

    multiprocessing.spawn(_share, args=(2,), nprocs=2)


def _share(rank: int, count: int) -> None:
    import tempfile

    from gan_core.networks.layers import BatchNorm

    torch.set_num_threads(1)
    store = Path(tempfile.gettempdir()) / f"discern-norms-{os.getppid()}"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count
    )
    x = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    whole, mine = x.clone().requires_grad_(True), x[rank::count].clone().requires_grad_(True)
    alone, shared = BatchNorm(5), BatchNorm(5)
    shared.across = True
    expected = alone(whole)
    (expected * target).sum().backward()
    out = shared(mine)
    (out * target[rank::count]).sum().backward()
    assert torch.allclose(out, expected[rank::count], atol=1e-5)
    assert whole.grad is not None and mine.grad is not None
    assert torch.allclose(mine.grad, whole.grad[rank::count], atol=1e-5)
    assert torch.allclose(shared.running_mean, alone.running_mean, atol=1e-6)
    assert torch.allclose(shared.running_var, alone.running_var, atol=1e-6)
    torch.distributed.destroy_process_group()
    if rank == 0:
        store.unlink(missing_ok=True)
