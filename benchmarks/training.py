"""Images per second of the training engine against the loop that a person would write from the
PyTorch DCGAN tutorial.

    python benchmarks/training.py [--networks dcgan32_svhn dcgan64:0.5] [--batch 128] \\
        [--rounds 5] [--seconds 3] [--threads N] [--device auto] [--compile] [--profile FOLDER] \\
        [--commit ABC]

Each loop runs in a process of its own, so that none inherits another's compiled code, chosen
kernels or memory; the processes take turns, and figures are medians over the rounds. All train the
same networks; the number after the colon is their width: `dcgan64:0.5` has base width 64.

The plain loop is the tutorial's: eager float32, torch's own modules in an nn.Sequential in torch's
own memory layout, a DataLoader over a Dataset that converts each image (2 workers on a GPU; on a
CPU none and 2, of which the better counts), torch.optim.Adam as it comes, the losses read at every
step. On a GPU torch's defaults let its convolutions round to TF32, which the engine's float32 does
not: there it runs once as it comes, which is the row that ratios refer to, and once in float32
alone. The engine is `training.loop`'s step and average as `train` runs them, without lines of
statistics and saved states: step by step, and as `auto` has it on this device. CPU seconds, those
of DataLoader workers included, stand beside wall seconds: other work on the machine distorts the
latter.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from gan_core import registry
from gan_core.config import NetworkConfig, TrainConfig
from gan_core.devices import bf16_units, cpu_cores, resolve_device, use_gpu
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.snapshot import build_networks
from gan_core.training import cuda_graphs as graphs
from gan_core.training import loop
from gan_core.training.compiled import WORTH, choose_compile
from gan_core.training.context import Context
from gan_core.training.data import ArrayImages, Feed
from gan_core.training.step import step
from gan_core.training.trainer_state import build

STORED = 4096  # images in memory
# images that the tutorial's Dataset claims: its workers start anew each epoch, as seldom as on a
# real set
EPOCH = 100_000
WARM_UP = 10  # steps before the first measurement
PROFILED = 20  # steps under the profiler


@dataclass(frozen=True)
class Loop:
    """One row of the table: what a process of its own measures.

    Attributes:
        label: in the table. kind: 'plain' or 'engine'. precision: 'float32' or 'bf16'.
        compile: `train.compile` of the engine; workers: of the plain loop's DataLoader; times: the
            set's size in STORED.
        tf32: whether float32 may be TF32, of the plain loop on a GPU.
    """

    label: str
    kind: str
    precision: str = "float32"
    compile: str = "off"
    workers: int = 0
    times: int = 1
    tf32: bool = False


def loops(device: str, compiled: bool) -> list[Loop]:
    """What is measured on a device."""
    cuda = device.startswith("cuda")
    found = [
        Loop(f"plain, {n} workers", "plain", workers=n, tf32=cuda)
        for n in ((2,) if cuda else (0, 2))
    ]
    if cuda:
        found.append(Loop("plain, 2 workers, without TF32", "plain", workers=2))
    for precision in ("float32", "bf16") if bf16_units("cuda" if cuda else "cpu") else ("float32",):
        found.append(Loop(f"engine, {precision}, step by step", "engine", precision))
        if cuda:
            found.append(Loop(f"engine, {precision}, auto", "engine", precision, "auto"))
    how = "auto" if cuda else "off"
    best = found[-1].precision
    return [*found, Loop(f"engine, {best}, ten times the images", "engine", best, how, times=10)]


# The tutorial
# --------------------------------------------------------------------------------
#


class Images(Dataset[torch.Tensor]):
    """What the tutorial's ImageFolder with ToTensor and Normalize gives, without the decoding."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, index: int) -> torch.Tensor:
        return (
            torch.from_numpy(self.array[index % len(self.array)]).permute(2, 0, 1).float() / 255
            - 0.5
        ) / 0.5


def plain_network(network: LayeredNetwork) -> nn.Sequential:
    """The same layers from torch's own modules, fresh, in torch's own memory layout; scores end in
    a sigmoid, as in the tutorial.
    """
    layers: list[nn.Module] = []
    for info in network.layers():
        layer = network.layer(info.name)
        operation = layer.operation
        layers += [nn.Flatten(), operation] if info.kind == "head" else [operation]
        if layer.norm is not None:
            norm = nn.BatchNorm1d if isinstance(operation, nn.Linear) else nn.BatchNorm2d
            layers.append(norm(layer.norm.channels, eps=layer.norm.eps))
        if layer.activation is not None:
            layers.append(
                type(layer.activation)(0.2)
                if isinstance(layer.activation, nn.LeakyReLU)
                else type(layer.activation)()
            )
        if info.kind == "project":
            layers.append(nn.Unflatten(1, info.shape))
        if info.kind == "head":
            layers.append(nn.Sigmoid())
    made = nn.Sequential(*layers)
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return made.to(memory_format=torch.contiguous_format)


def plain_loop(
    settings: TrainConfig, array: np.ndarray[Any, Any], device: str, workers: int
) -> Iterator[None]:
    """The tutorial's loop, a batch for each `next`."""
    made = build_networks({"name": settings.network.name, "width": settings.network.width})
    dim = made["generator"].input_shape[0]
    generator, discriminator = (
        plain_network(made[role]).to(device) for role in ("generator", "discriminator")
    )
    criterion = nn.BCELoss()
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    adam_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    kept: list[float] = []
    loader = DataLoader(Images(array), batch_size=settings.batch, shuffle=True, num_workers=workers)
    while True:
        for real in loader:
            real = real.to(device)
            label = torch.full((len(real),), 1.0, device=device)
            discriminator.zero_grad()
            output = discriminator(real).view(-1)
            loss_real = criterion(output, label)
            loss_real.backward()
            kept.append(output.mean().item())
            fake = generator(torch.rand(len(real), dim, device=device) * 2 - 1)
            label.fill_(0.0)
            output = discriminator(fake.detach()).view(-1)
            loss_fake = criterion(output, label)
            loss_fake.backward()
            kept.append(output.mean().item())
            adam_d.step()
            generator.zero_grad()
            label.fill_(1.0)
            output = discriminator(fake).view(-1)
            loss_generator = criterion(output, label)
            loss_generator.backward()
            adam_g.step()
            kept += [output.mean().item(), loss_generator.item(), (loss_real + loss_fake).item()]
            yield


# The engine
# --------------------------------------------------------------------------------
#


def engine(
    settings: TrainConfig, array: np.ndarray[Any, Any], device: str, one: Loop
) -> tuple[Iterator[None], str]:
    """`train`'s steps and average, a batch for each `next`; and how they run: 'off' or 'graphs'."""
    use_gpu(device, one.precision, search=True)
    long = 10 * WORTH * settings.batch / 1000  # kimg: `auto` leaves short trainings as they are
    settings = settings.model_copy(update={"compile": one.compile, "kimg": long})
    images, size = ArrayImages(array), array.shape[1]
    context = Context(
        settings, Path(tempfile.gettempdir()), size, device=device, precision=one.precision
    )
    how = choose_compile(settings, device, 1, partial(loop.trial, images, context, None))
    context = replace(context, compiled=how)
    state = build(settings, seed=0, device=device, image_size=size)
    take, context = graphs.make_step(state, context, step, images.shape, False)

    def steps() -> Iterator[None]:
        for batch in Feed(images, settings.batch, seed=0, device=device).batches(0):
            take(*batch)
            for role, average in state.averages.items():  # noqa: B007
                average.update(state.position.images, settings.batch)
            yield

    return steps(), context.compiled


# A process of its own for each loop
# --------------------------------------------------------------------------------


def processor_seconds() -> float:
    """Of this process and of the workers that it has now."""
    used, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        used += (int(fields[11]) + int(fields[12])) / tick
    return used


def serve(message: dict[str, Any]) -> None:
    """The process of one loop: says when it is ready, then answers each line 'measure SECONDS' or
    'profile FILE' with a line of JSON.
    """
    torch.set_num_threads(message["threads"])
    torch._dynamo.config.fail_on_recompile_limit_hit = (
        True  # instead of going on in eager under a compiled label
    )
    one, device = Loop(**message["loop"]), message["device"]
    settings = TrainConfig(
        network=NetworkConfig(name=message["network"], width=message["width"]),
        batch=message["batch"],
    )
    size = registry.load("networks", message["network"]).IMAGE_SIZE
    array = np.random.default_rng(0).integers(0, 256, (STORED, size, size, 3), np.uint8)
    array = np.concatenate([array] * one.times)
    how = "off"
    if one.kind == "plain":
        if device.startswith("cuda"):
            torch.backends.cudnn.allow_tf32 = one.tf32
        steps = plain_loop(settings, array, device, one.workers)
    else:
        steps, how = engine(settings, array, device, one)
    wait = partial(torch.cuda.synchronize, device) if device.startswith("cuda") else lambda: None
    for _ in range(WARM_UP if device.startswith("cuda") else 1):
        next(steps)
    wait()
    print(json.dumps({"ready": how}), flush=True)
    for line in sys.stdin:
        command, argument = line.split(maxsplit=1)
        if command == "profile":
            print(
                json.dumps({"shares": profile(steps, wait, device, Path(argument.strip()))}),
                flush=True,
            )
            continue
        count, began, used = 0, time.perf_counter(), processor_seconds()
        while time.perf_counter() - began < float(argument) or count < 2:
            next(steps)
            count += 1
        wait()
        images = count * settings.batch
        wall, cpu = time.perf_counter() - began, processor_seconds() - used
        print(json.dumps({"wall": images / wall, "cpu": images / cpu}), flush=True)


class Served:
    """A loop in its process, as the process that asks sees it."""

    def __init__(self, message: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--serve", json.dumps(message)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.label, self.how = message["loop"]["label"], str(self._answer()["ready"])
        if message["loop"]["compile"] not in ("off", self.how):
            self.label += f" ({'fell back to step by step' if self.how == 'off' else self.how})"

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the process of a loop ended with code {self._process.wait()}; its last words "
                "are above"
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, line: str) -> dict[str, Any]:
        """Sends a line; returns the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Ends the process, and with it the workers of its DataLoader."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


# Where the time goes
# --------------------------------------------------------------------------------
#

PARTS = {  # words in a kernel's or an operation's name, looked for in this order
    "changes of layout": (
        "nchwtonhwc",
        "nhwctonchw",
    ),  # cuDNN's own, around a convolution that is given another layout
    "norms": ("batch_norm", "batchnorm", "bn_fw", "bn_bw"),
    "optimiser": ("adam", "multi_tensor", "foreach", "lerp"),
    "convolutions": ("conv", "xmma", "wgrad", "dgrad", "fprop", "implicit", "cudnn", "cutlass"),
    "matrix products": ("gemm", "gemv", "::mm", "::addmm", "::linear", "cublas", "nvjet"),
    "copies": ("memcpy", "memset", "copy", "contiguous", "::to", "index_select", "cat"),
}


def profile(
    steps: Iterator[None], wait: Callable[[], object], device: str, path: Path
) -> dict[str, float]:
    """Writes the 25 most expensive kernels (operations, on a CPU) of some steps to `path`. Returns:
    shares of the time, by part.
    """
    from torch.profiler import ProfilerActivity

    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with torch.profiler.profile(activities=activities) as profiled:
        began = time.perf_counter()
        for _ in range(PROFILED if cuda else 3):
            next(steps)
        wait()
        wall = (time.perf_counter() - began) * 1e6
    rows = []
    for row in profiled.key_averages():
        on_gpu = row.device_type != torch.autograd.DeviceType.CPU  # type: ignore[attr-defined]
        spent = row.self_device_time_total if cuda else row.self_cpu_time_total
        if spent > 0 and on_gpu == cuda:
            rows.append((float(spent), int(row.count), str(row.key)))
    rows.sort(reverse=True)
    shares = dict.fromkeys((*PARTS, "other"), 0.0)
    for spent, _, name in rows:
        part = next(
            (part for part, words in PARTS.items() if any(word in name.lower() for word in words)),
            "other",
        )
        shares[part] += spent / wall
    shares["idle" if cuda else "outside operations"] = max(0.0, 1 - sum(shares.values()))
    lines = [
        f"{PROFILED if cuda else 3} steps, {wall / 1000:.1f} ms by the clock, the profiler's own "
        "time included",
        "",
    ]
    lines += [f"{share:7.1%}  {part}" for part, share in shares.items()]
    lines += ["", "  share   calls  microseconds  name"]
    lines += [
        f"{spent / wall:7.1%} {count:7d} {spent:13.0f}  {name[:160]}"
        for spent, count, name in rows[:25]
    ]
    path.write_text("\n".join(lines) + "\n")
    return shares


def matrix_rate(device: str, kind: torch.dtype) -> float:
    """GFLOP/s of a square matrix product: what this processor can do at most. On a GPU 8192 wide
    and by its own clock; on a CPU 2048 wide and by processor seconds, of which every thread has its
    own."""
    cuda = device.startswith("cuda")
    size, repetitions = (8192, 20) if cuda else (2048, 5)
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    seconds = []
    for turn in range(repetitions + 3):
        if cuda:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            a @ b
            after.record()
            torch.cuda.synchronize()
            took = before.elapsed_time(after) / 1000
        else:
            began = time.process_time()
            a @ b
            took = time.process_time() - began
        seconds += [took] * (turn >= 3)
    return 2 * size**3 / statistics.median(seconds) / 1e9


def gflop_per_image(settings: TrainConfig, size: int, kind: str = "engine") -> float:
    """Multiply-adds x 2 of one image's share of a step, forwards and backwards, in 1e9, counted by
    torch.

    The plain loop's are a tenth more: in the generator's update it computes gradients of the
    discriminator's weights as well.
    """
    few = settings.model_copy(update={"batch": 8})
    if kind == "plain":
        steps = plain_loop(few, np.zeros((8, size, size, 3), np.uint8), "cpu", 0)
        with FlopCounterMode(display=False) as counter:
            next(steps)
        return counter.get_total_flops() / few.batch / 1e9
    state = build(few, seed=0, device="cpu", image_size=size)
    context = Context(few, Path(tempfile.gettempdir()), size)
    with FlopCounterMode(display=False) as counter:
        step(state, context, torch.zeros(few.batch, size, size, 3, dtype=torch.uint8), None)
    return counter.get_total_flops() / few.batch / 1e9


# The table
# --------------------------------------------------------------------------------
#


def hardware(device: str) -> str:
    """The machine in words."""
    with open("/proc/cpuinfo") as file:
        model = next((line for line in file if line.startswith("model name")), platform.processor())
    cpu = f"{cpu_cores()} cores of {model.partition(':')[2].strip() or model}"
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.startswith("cuda") else ""
    return (
        f"{gpu}{cpu}, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, torch "
        f"{torch.__version__}"
    )


def commit() -> str:
    """The checkout's commit, or 'unknown'."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="+", default=["dcgan32_svhn", "dcgan64:0.5"], metavar="NAME[:WIDTH]"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of each loop in each round, at least"
    )
    parser.add_argument("--threads", type=int, default=cpu_cores())
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="measure compiled networks, too; compiling takes minutes on a CPU",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="write where the time of the engine's bf16 loops goes",
    )
    parser.add_argument("--commit", default="", help="what to call the code where there is no git")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(json.loads(options.serve))
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    given = " ".join(argument for argument in sys.argv[1:] if not argument.startswith("--commit"))
    print(
        f"`python benchmarks/training.py {given}`, {datetime.date.today()}, commit "
        f"{options.commit or commit()}, {hardware(device)}."
    )
    rates = {}
    for kind, dtype in (
        ("float32", torch.float32),
        ("tf32", torch.float32),
        ("bf16", torch.bfloat16),
    ):
        if kind == "bf16" and not bf16_units(device):
            continue  # emulated: it takes minutes and says nothing
        use_gpu(device, "float32" if kind == "float32" else "bf16")
        rates[kind] = (
            matrix_rate(device, dtype)
            if kind != "tf32" or device.startswith("cuda")
            else rates["float32"]
        )
    print(
        f"Batch {options.batch}, {options.threads} threads; a matrix product runs at "
        f"{rates['float32']:.0f} GFLOP/s in float32, ",
        end="",
    )
    if device.startswith("cuda"):
        print(f"{rates['tf32']:.0f} in TF32, ", end="")
    print(f"{rates['bf16']:.0f} in bf16.\n" if "bf16" in rates else "no units for bf16.\n")
    for name in options.networks:
        report(name, options, device, rates)


def report(named: str, options: argparse.Namespace, device: str, rates: dict[str, float]) -> None:
    """Prints the table of one network and where its time goes."""
    name, _, width = named.partition(":")
    network = {"network": name, "width": float(width or 1)}
    settings = TrainConfig(
        network=NetworkConfig(name=name, width=network["width"]), batch=options.batch
    )
    size = registry.load("networks", name).IMAGE_SIZE
    work = {kind: gflop_per_image(settings, size, kind) for kind in ("engine", "plain")}
    message = {**network, "batch": options.batch, "threads": options.threads, "device": device}
    chosen, found = loops(device, options.compile), dict[str, list[tuple[float, float]]]()
    served = [Served({**message, "loop": asdict(one)}) for one in chosen]
    notes = []
    kinds = {process.label: one for one, process in zip(chosen, served, strict=True)}
    try:
        for _ in range(options.rounds):
            for process in served:
                answer = process.ask(f"measure {options.seconds}")
                found.setdefault(process.label, []).append((answer["wall"], answer["cpu"]))
        if options.profile is not None:
            options.profile.mkdir(parents=True, exist_ok=True)
            for one, process in zip(chosen, served, strict=True):
                if one.precision == "bf16" and one.times == 1:
                    path = options.profile / f"{name}-{one.compile}.txt"
                    shares = process.ask(f"profile {path}")["shares"]
                    state = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
                    notes.append(f"{named}, {process.label}: {state} ({path.name}).")
    finally:
        for process in served:
            process.end()
    middle = {
        label: tuple(statistics.median(column) for column in zip(*values, strict=True))
        for label, values in found.items()
    }
    cuda = device.startswith("cuda")
    usual = [label for label, one in kinds.items() if one.kind == "plain" and one.tf32 == cuda]
    plain = [max(middle[label][i] for label in usual) for i in range(2)]
    print(
        "| network | loop | images/s | to plain | images per CPU second | to plain | of the "
        "matrix rate |"
    )
    print("|---|---|---|---|---|---|---|")
    for label, (wall, cpu) in middle.items():
        one = kinds[label]
        rate = "bf16" if one.precision == "bf16" else "tf32" if one.tf32 else "float32"
        share = (wall if cuda else cpu) * work[one.kind] / rates[rate]
        heading = f"{named} ({work['engine']:.2f} GFLOP an image)"
        row = (
            f"| {heading} | {label} | {wall:.0f} | {wall / plain[0]:.2f} | {cpu:.0f} | "
            f"{cpu / plain[1]:.2f} | {share:.0%} |"
        )
        print(row)
    print("\n" + "".join(f"{note}\n" for note in notes), flush=True)


if __name__ == "__main__":
    main()
