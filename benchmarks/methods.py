"""What an image costs each method, relative to dcgan on the same network; and what a bias in the
discriminator's first layer (dcgan's option `first_bias`) does to contrast and features.

    python benchmarks/methods.py cost [--network dcgan32_svhn] [--width 0.5] [--rounds 5]
    python benchmarks/methods.py networks [--networks dcgan32 resnet64 ...] [--rounds 3]
    python benchmarks/methods.py first_bias [--kimg 8] [--width 0.125] [--seeds 3]

Cost: the methods take turns, one period of minibatches each, so that what else the machine does
meets all alike; the median over rounds of one thread's processor time per real image (of generated
ones for methods that are shown no real ones). Methods that lack a role on this network are left
out.

Networks: every network at width 1 in a process of its own, float32, batch 16, one thread: forward
passes of generator and discriminator, a training step of dcgan, and the growth of the process's
peak memory, which holds weights, gradients, moments and activations.

First bias: trainings on scikit-learn's digits (32 px), with the option and without, the same seeds;
contrast of samples over real images (mean of the last five lines of statistics), and the accuracy
of the linear probe on held-out labels at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from sklearn.datasets import load_digits

from gan_core import registry
from gan_core.config import TrainConfig
from gan_core.errors import RequestError
from gan_core.networks.make import Make
from gan_core.networks.snapshot import sample_latents
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages
from gan_core.training.loop import train
from gan_core.training.probe import PROBED, Probe, each_log
from gan_core.training.step import step
from gan_core.training.step_cost import step_cost
from gan_core.training.trainer_state import build

CLASSES, BATCH = 10, 32


def cost(given: argparse.Namespace) -> None:
    size = Make({"name": given.network}).image_size
    states, network = {}, {"name": given.network, "width": given.width}
    for name in registry.names("methods"):
        settings = TrainConfig(method=name, network=network, batch=BATCH, ema_kimg=0)
        try:
            states[name] = build(settings, seed=0, device="cpu", image_size=size, classes=CLASSES)
        except RequestError:
            continue
    pixels = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8)
    labels = torch.arange(BATCH) % CLASSES
    seconds: dict[str, list[float]] = {name: [] for name in states}
    for number in range(given.rounds + 1):
        for name, state in states.items():
            context = Context(state.settings, Path(), size, classes=CLASSES)
            count = max(1, state.method.period)
            started = time.process_time()
            for _ in range(count):
                step(state, context, pixels, labels)
            if number:  # the first round allocates
                seconds[name].append((time.process_time() - started) / (count * BATCH))
    base = statistics.median(seconds["dcgan"])
    flops = step_cost(states["dcgan"].settings, CLASSES).gflop_per_image
    print("| method | ms an image | times dcgan | lowest to highest round | FLOPs, times dcgan |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        mine, own = statistics.median(values), step_cost(states[name].settings, CLASSES)
        print(
            f"| `{name}` | {1000 * mine:.1f} | {mine / base:.2f} | {min(values) / base:.2f} to "
            f"{max(values) / base:.2f} | {own.gflop_per_image / flops:.2f} |"
        )


def networks(given: argparse.Namespace) -> None:
    every = registry.names("networks")
    names = given.networks or [name for name in every if Make({"name": name}).image_size >= 32]
    print(
        "| network | px | weights G, D (million) | ms forward G, D | ms step | GFLOP step "
        "| MiB, batch 16 |"
    )
    print("|---|---|---|---|---|---|---|")
    spawned = multiprocessing.get_context("spawn")
    for name in names:
        with spawned.Pool(1) as pool:  # a fresh process: its peak memory is this network's
            print(pool.apply(network_row, (name, given.rounds)), flush=True)


def network_row(name: str, rounds: int) -> str:
    """One line of the table of networks."""
    torch.set_num_threads(1)
    size, batch = Make({"name": name}).image_size, 16
    settings = TrainConfig(network={"name": name}, batch=batch, ema_kimg=0)
    try:
        cost = step_cost(settings)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        state = build(settings, seed=0, device="cpu", image_size=size, classes=0)
    except RequestError as error:
        return f"| `{name}` | {size} | {str(error)[:60]} | | | | |"
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    context = Context(settings, Path(), size)
    latents = sample_latents(state.prior, batch, torch.Generator().manual_seed(0))
    real = torch.zeros(batch, *state.networks["discriminator"].input_shape)
    generator, discriminator = (state.networks[role] for role in ("generator", "discriminator"))
    took: dict[str, list[float]] = {"g": [], "d": [], "step": []}
    for _ in range(rounds + 1):
        with torch.no_grad():
            took["g"].append(seconds_of(lambda: generator(latents)))
            took["d"].append(seconds_of(lambda: discriminator(real)))
        took["step"].append(seconds_of(lambda: step(state, context, pixels, None)))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    g, d, steps = (1000 * statistics.median(values[1:]) / batch for values in took.values())
    weights = [cost.parameters(role) / 1e6 for role in ("generator", "discriminator")]
    return (
        f"| `{name}` | {size} | {weights[0]:.1f}, {weights[1]:.1f} | {g:.1f}, {d:.1f} | "
        f"{steps:.1f} | {cost.gflop_per_image:.2f} | {grown / 1024:.0f} |"
    )


def seconds_of(work: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def first_bias(given: argparse.Namespace) -> None:
    digits = load_digits()
    levels = (digits.images * 15.9375).astype(np.uint8)
    pixels = np.stack([cv2.cvtColor(cv2.resize(d, (32, 32)), cv2.COLOR_GRAY2RGB) for d in levels])
    images, labels = ArrayImages(pixels), digits.target.astype(np.int64)
    print("| first_bias | seed | contrast of samples | probe accuracy |")
    print("|---|---|---|---|")
    for seed in range(given.seeds):
        for option in (False, True):
            settings = TrainConfig(
                options={"first_bias": option},
                network={"name": "dcgan32_svhn", "width": given.width},
                kimg=given.kimg,
                batch=BATCH,
                log_kimg=given.kimg / 20,
                probe_kimg=given.kimg,
                on_divergence="warn",
            )
            found = run(images, labels, settings, seed)
            contrast = statistics.mean(line["contrast"] for line in found[-5:])
            print(f"| {option} | {seed} | {contrast:.3f} | {found[-1][PROBED]:.1%} |", flush=True)


def run(
    images: ArrayImages, labels: np.ndarray[Any, Any], settings: TrainConfig, seed: int
) -> list[dict[str, Any]]:
    """The lines of statistics of a training."""
    with tempfile.TemporaryDirectory() as folder:
        context = Context(settings, Path(folder), 32, seed=seed)
        read = each_log(Probe(images, labels, seed), settings)
        return train(images, context, each_log=read).stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["cost", "networks", "first_bias"])
    parser.add_argument("--network", default="dcgan32_svhn")
    parser.add_argument("--width", type=float)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kimg", type=float, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.width is None:
        given.width = 0.5 if given.what == "cost" else 0.125
    {"cost": cost, "networks": networks, "first_bias": first_bias}[given.what](given)


if __name__ == "__main__":
    main()
