"""Images per second of the training engine against the loop that a person would write from the PyTorch DCGAN tutorial.

    python benchmarks/training.py [--networks dcgan32_svhn dcgan64] [--width 1] [--batch 128] [--rounds 5] [--seconds 3] [--threads N]

Both train the same networks on the same pictures, in turn, in one process; figures are medians over the rounds. The plain loop: eager
float32, a DataLoader over a Dataset that converts each picture, torch.optim.Adam as it comes. Ours: `training.loop.step`, as `train` runs
it, in float32 and in bf16. CPU seconds are given beside wall seconds, because other work on the machine distorts only the latter.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from gan_core.config import NetworkConfig, TrainConfig
from gan_core.devices import bf16_units, cpu_cores, resolve_device
from gan_core.networks.base import LayeredNetwork
from gan_core.training import loop
from gan_core.training.compiled import compile_networks
from gan_core.training.data import ArrayImages, Feed
from gan_core.training.parts import build


class Pictures(Dataset[torch.Tensor]):
    """What the tutorial's ImageFolder with ToTensor and Normalize gives, without the decoding."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> torch.Tensor:
        return (torch.from_numpy(self.array[index]).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def plain_network(network: LayeredNetwork) -> nn.Sequential:
    """The same layers from torch's own modules in torch's own memory layout."""
    layers: list[nn.Module] = []
    for info in network.layers():
        layer = network.layer(info.name)
        operation = copy.deepcopy(layer.operation).to(memory_format=torch.contiguous_format)
        layers += [nn.Flatten(), operation] if info.kind == "head" else [operation]
        if layer.norm is not None:
            kind = nn.BatchNorm1d if isinstance(operation, nn.Linear) else nn.BatchNorm2d
            layers.append(kind(layer.norm.channels, eps=layer.norm.eps))
        if layer.activation is not None:
            layers.append(layer.activation)
        if info.kind == "project":
            layers.append(nn.Unflatten(1, info.shape))
    return nn.Sequential(*layers).train()


def plain_loop(settings: TrainConfig, array: np.ndarray, device: str) -> Iterator[None]:
    """The tutorial's loop, a batch for each `next`."""
    parts = build(settings, seed=0, device=device, image_size=array.shape[1])
    generator, discriminator = (
        parts.networks[role].to(memory_format=torch.contiguous_format) for role in ("generator", "discriminator")
    )
    criterion = nn.BCEWithLogitsLoss()
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    adam_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    while True:
        for real in DataLoader(Pictures(array), batch_size=settings.batch, shuffle=True, drop_last=True):
            real = real.to(device)
            ones, zeros = torch.ones(len(real), 1, device=device), torch.zeros(len(real), 1, device=device)
            discriminator.zero_grad()
            loss_real = criterion(discriminator(real), ones)
            loss_real.backward()
            fake = generator(torch.rand(len(real), parts.prior.dim, device=device) * 2 - 1)
            loss_fake = criterion(discriminator(fake.detach()), zeros)
            loss_fake.backward()
            adam_d.step()
            generator.zero_grad()
            loss_generator = criterion(discriminator(fake), ones)
            loss_generator.backward()
            adam_g.step()
            (loss_real + loss_fake).item(), loss_generator.item()  # the tutorial keeps them at every step
            yield


def our_loop(settings: TrainConfig, array: np.ndarray, device: str, precision: str, compiled: str = "off") -> Iterator[None]:
    """The engine's step and average, a batch for each `next`. Args: compiled: 'off', 'on' or 'graphs' (CUDA)."""
    setting = loop.Setting(
        settings, Path(tempfile.gettempdir()), array.shape[1], device=device, precision=precision, compiled=compiled
    )
    parts = build(settings, seed=0, device=device, image_size=array.shape[1])
    if compiled != "off":
        compile_networks(parts.networks.values(), compiled)
    assert parts.average is not None
    for batch in Feed(ArrayImages(array), settings.batch, seed=0, device=device).batches(0):
        loop.step(parts, setting, *batch)
        parts.average.follow(parts.networks["generator"], parts.position.images, settings.batch)
        yield


def measure(
    loops: dict[str, Iterator[None]], batch: int, rounds: int, seconds: float, device: str
) -> dict[str, tuple[float, float]]:
    """Median images per second of wall time and of CPU time, by name; the loops take turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for steps in loops.values():
        for _ in range(3):
            next(steps)
    for _ in range(rounds):
        for name, steps in loops.items():
            count, began, used = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - began < seconds or count < 2:
                next(steps)
                count += 1
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            found[name].append((count * batch / (time.perf_counter() - began), count * batch / (time.process_time() - used)))
    return {name: (statistics.median(w for w, _ in f), statistics.median(c for _, c in f)) for name, f in found.items()}


def matrix_rate(device: str, kind: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s of a square matrix product: what this processor can do at most."""
    a = torch.randn(size, size, device=device).to(kind)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(3):
            a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = max(best, 3 * 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best


def gflop_per_image(settings: TrainConfig, size: int) -> float:
    """Multiply-adds x 2 of one image's share of a step, forwards and backwards, in 1e9, counted by torch."""
    parts = build(settings, seed=0, device="cpu", image_size=size)
    setting = loop.Setting(settings, Path(tempfile.gettempdir()), size)
    with FlopCounterMode(display=False) as counter:
        loop.step(parts, setting, torch.zeros(settings.batch, size, size, 3, dtype=torch.uint8), None)
    return counter.get_total_flops() / settings.batch / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["dcgan32_svhn", "dcgan32", "dcgan64"])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each loop in each round, at least")
    parser.add_argument("--threads", type=int, default=cpu_cores())
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--compile", action="store_true", help="measure compiled networks, too; compiling takes minutes on a CPU"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    rates = {kind: matrix_rate(device, dtype) for kind, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16))}
    print(
        f"{device}, {options.threads} threads, batch {options.batch}, matrix product {rates['float32']:.0f} GFLOP/s float32, ",
        end="",
    )
    print(f"{rates['bf16']:.0f} bf16; bf16 units: {bf16_units(device)}\n")
    print("| network | loop | images/s | ratio | images per CPU second | ratio | share of the matrix rate |")
    print("|---|---|---|---|---|---|---|")
    for name in options.networks:
        report(name, options, device, rates)


def report(name: str, options: argparse.Namespace, device: str, rates: dict[str, float]) -> None:
    """The rows of one network."""
    from gan_core import registry

    size = registry.load("networks", name).IMAGE_SIZE
    settings = TrainConfig(network=NetworkConfig(name=name, width=options.width), batch=options.batch)
    array = np.random.default_rng(0).integers(0, 256, (2048, size, size, 3), np.uint8)
    larger = np.concatenate([array] * 10)
    loops: dict[str, Callable[[], Iterator[None]]] = {
        "plain, float32": lambda: plain_loop(settings, array, device),
        "ours, float32": lambda: our_loop(settings, array, device, "float32"),
        "ours, bf16": lambda: our_loop(settings, array, device, "bf16"),
        "ours, bf16, ten times the pictures": lambda: our_loop(settings, larger, device, "bf16"),
    }
    if options.compile:
        for how in ("on", "graphs") if device.startswith("cuda") else ("on",):
            loops[f"ours, float32, compiled ({how})"] = partial(our_loop, settings, array, device, "float32", how)
            loops[f"ours, bf16, compiled ({how})"] = partial(our_loop, settings, array, device, "bf16", how)
    found = measure({key: make() for key, make in loops.items()}, options.batch, options.rounds, options.seconds, device)
    work, base = gflop_per_image(settings, size), found["plain, float32"]
    label = f"{name}, width {options.width:g} ({work:.2f} GFLOP an image)"
    for key, (wall, cpu) in found.items():
        share = wall * work / rates["bf16" if "bf16" in key else "float32"]
        print(
            f"| {label} | {key} | {wall:.0f} | {wall / base[0]:.2f} | {cpu:.0f} | {cpu / base[1]:.2f} | {share:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
