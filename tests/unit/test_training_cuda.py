"""Training and extraction on a GPU: the same as on a CPU, by graphs as step by step, and with an
error that says what to do.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_core.config import TrainConfig
from gan_core.devices import use_gpu
from gan_core.methods.base import Batch
from gan_core.training import cuda_graphs as graphs
from gan_core.training.context import Context
from gan_core.training.cuda_graphs import make_step, trial
from gan_core.training.data import ArrayImages, Feed, Order
from gan_core.training.loop import train
from gan_core.training.step import step
from gan_core.training.trainer_state import TrainerState, build
from gan_core.vision.tensors import to_float

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU here; docs/untested.md says what to run on one"
)

DEVICE = "cuda"
BASE: dict[str, Any] = {"network": {"width": 0.25}, "batch": 32, "log_kimg": 0.1, "flip": True}
ALL = {"options": {"augment": ["color", "translation", "cutout"], "r1": 1.0, "spectral_norm": True}}
KINDS: dict[str, dict[str, Any]] = {
    "paper": {"options": {"mode": "paper"}},
    "modern": {},
    "options": ALL,
    "conditional": {
        "options": {"mode": "paper"},
        "network": {"name": "dcgan28_mnist", "width": 0.25},
    },
}


def noise(size: int = 32, count: int = 320) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_one_minibatch_gives_the_losses_and_gradients_of_a_cpu(kind: str) -> None:
    use_gpu(DEVICE, "float32")
    settings = TrainConfig(
        **{**BASE, **KINDS[kind], "augment": []}
    )  # augmentation draws on the device, and devices draw differently
    size = 28 if kind == "conditional" else 32
    images, latents = torch.rand(32, 3, size, size) * 2 - 1, torch.rand(32, 100) * 2 - 1
    found: dict[str, list[torch.Tensor]] = {}
    for device in ("cpu", DEVICE):
        state, out = build(settings, seed=0, device=device, image_size=size), []
        for index in range(2):
            labels = (torch.arange(32) % 10).to(device)
            batch = Batch(
                index,
                images.to(device),
                labels,
                lambda d=device: latents.to(d),
                torch.Generator(device),
            )
            for update in state.method.updates(batch):
                update.loss.backward()  # type: ignore[no-untyped-call]
                gradients = [
                    p.grad.flatten().cpu()
                    for p in state.parameters(update.name)
                    if p.grad is not None
                ]
                out += [update.loss.detach().cpu()[None], *gradients]
                for p in state.parameters(
                    update.name
                ):  # weights stay: Adam's first steps magnify the last bit
                    p.grad = None
        found[device] = out
    for cpu, gpu in zip(found["cpu"], found[DEVICE], strict=True):
        assert float((cpu - gpu).norm() / cpu.norm().clamp_min(1e-6)) < 2e-3


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_steps_agree_with_ordinary_ones(tmp_path: Path, kind: str, precision: str) -> None:
    use_gpu(DEVICE, precision, search=True)
    settings = TrainConfig(**{**BASE, **KINDS[kind]})
    size = 28 if kind == "conditional" else 32
    context = Context(
        settings, tmp_path, size, device=DEVICE, precision=precision, compiled="graphs"
    )
    pixels = torch.from_numpy(noise(size)).to(DEVICE).view(10, 32, size, size, 3)
    labels = (torch.arange(32) % 10).to(DEVICE) if size == 28 else None
    batches = [(batch, labels) for batch in pixels]
    trial(lambda: build(settings, seed=0, device=DEVICE, image_size=size), context, step, batches)


@pytest.mark.parametrize("mode", ["paper", "modern"])
def test_ten_minibatches_by_graphs_and_step_by_step_and_in_two_parts(
    tmp_path: Path, mode: str
) -> None:
    use_gpu(DEVICE, "float32")
    torch.backends.cudnn.deterministic = True
    ways: dict[str, TrainerState] = {}
    try:
        for way, compile in (("off", "off"), ("graphs", "graphs"), ("state", "graphs")):
            for kimg in (0.16, 0.32) if way == "state" else (0.32,):
                settings = TrainConfig(
                    **BASE, options={"mode": mode}, compile=compile, kimg=kimg, on_divergence="warn"
                )
                trained = train(
                    ArrayImages(noise()), Context(settings, tmp_path / way, 32, device=DEVICE)
                )
                assert trained.complete and trained.compiled == compile, (
                    "graphs were refused: the line in the log says why"
                )
            ways[way] = trained.state
    finally:
        torch.backends.cudnn.deterministic = False
    start = build(settings, seed=0, device=DEVICE, image_size=32)
    for name in start.optimisers:
        weights = [p.detach() for p in start.parameters(name)]
        for way in ("graphs", "state"):
            assert graphs.deviation(ways["off"], ways[way], name, weights) < 0.1
    assert (
        ways["off"].position.updates
        == ways["graphs"].position.updates
        == ways["state"].position.updates
    )


def test_what_is_saved_on_a_gpu_comes_back_bit_for_bit(tmp_path: Path) -> None:
    settings = TrainConfig(**BASE, kimg=0.32, compile="graphs")
    state = train(ArrayImages(noise()), Context(settings, tmp_path, 32, device=DEVICE)).state
    found = state.load_state(tmp_path, state.position.images)
    assert found is not None
    other = build(settings, seed=1, device=DEVICE, image_size=32)
    other.restore(*found)
    mine, theirs = state.tensors(), other.tensors()
    assert mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) for name in mine
    )


@pytest.mark.parametrize("resident", [True, False])
def test_the_feed_gives_every_batch_whole_whatever_the_gpu_is_busy_with(resident: bool) -> None:
    array, labels = noise(count=300), np.arange(300) * 7
    feed = Feed(ArrayImages(array), 32, seed=1, device=DEVICE, labels=labels, resident=resident)
    assert feed.resident is resident
    batches, seen = feed.batches(5), []
    # of its own: where recording a graph has failed, the default generator may still believe that
    # it is being capture
    busy = torch.randn(3000, 3000, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    for _ in range(12):
        pixels, given = next(batches)
        assert given is not None
        for _ in range(5):
            busy = (busy @ busy).clamp_(-1, 1)
        seen.append(
            (pixels.clone(), given.clone())
        )  # behind the products: by then the next copy is under way
    batches.close()  # type: ignore[attr-defined]
    for number, (pixels, given) in enumerate(seen):
        rows = Order(300, 1).rows(5 + 32 * number, 32)
        assert (
            np.array_equal(pixels.cpu().numpy(), array[rows])
            and given.tolist() == labels[rows].tolist()
        )


def test_float32_features_are_not_rounded_to_tf32() -> None:
    network = (
        build(TrainConfig(**BASE), seed=0, device="cpu", image_size=32)
        .networks["discriminator"]
        .eval()
        .requires_grad_(False)
    )
    images, apart = to_float(torch.from_numpy(noise(count=64))), {}
    exact = network.double().run_to(images.double(), "conv3")
    for precision in ("float32", "bf16"):
        use_gpu(
            DEVICE, precision
        )  # under bf16, float32 may be TF32: the arithmetic here is float32's in both
        found = network.float().to(DEVICE).run_to(images.to(DEVICE), "conv3").double().cpu()
        apart[precision] = float((found - exact).norm() / exact.norm())
    use_gpu(DEVICE, "float32")
    assert apart["float32"] < 1e-5 < 1e-4 < apart["bf16"]


def test_a_step_that_cannot_be_recorded_trains_step_by_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def waiting(
        state: TrainerState, context: Context, pixels: Any, labels: Any, random: Any = None
    ) -> None:
        step(state, context, pixels, labels, random)
        float(
            next(state.networks["generator"].parameters()).sum()
        )  # the host may not wait in a graph

    settings = TrainConfig(**BASE)
    state = build(settings, seed=0, device=DEVICE, image_size=32)
    context = Context(settings, tmp_path, 32, device=DEVICE, compiled="graphs")
    with caplog.at_level(logging.WARNING):
        take, context = make_step(state, context, waiting, (32, 32, 3), False)
    assert context.compiled == "off" and "could not be capture" in caplog.text
    for number in range(3):
        take(torch.from_numpy(noise()[32 * number : 32 * number + 32]).to(DEVICE), None)
    assert (
        state.position.index == 3
        and torch.isfinite(next(state.networks["generator"].parameters())).all()
    )


LOST = """
import torch
from gan_core.config import TrainConfig
from gan_core.training.compiled import compiling
def attempt(how):
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].item()
compiling(TrainConfig(compile="graphs"), "cuda", 1, attempt)
"""


def test_an_error_that_stays_with_the_process_ends_it_with_the_remedy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert (
        done.returncode == 1
        and "WorkError" in done.stderr
        and "--set train.compile=off" in done.stderr
    )
