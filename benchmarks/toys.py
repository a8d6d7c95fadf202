"""Mode collapse, counted on points: an 8-Gaussian ring and a 25-Gaussian grid.

    python benchmarks/toys.py [--methods dcgan bigan egan ...] [--kimg 256] [--seeds 5]

Every method trains its own step on float batches of the network `mlp2d`. Of 2,500 samples, a sample
is good within 3 standard deviations of a centre (rows beyond lie between the modes); a mode is
found when it has at least one in a hundred of an even share of them. Means over seeds with the
range; seconds are of one thread's processor time.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_core import registry
from gan_core.config import TrainConfig
from gan_core.errors import RequestError
from gan_core.networks.snapshot import sample_latents
from gan_core.randomness import torch_stream
from gan_core.training.context import Context
from gan_core.training.step import step
from gan_core.training.trainer_state import build

SAMPLES = 2500
RING = [(2 * math.cos(2 * math.pi * k / 8), 2 * math.sin(2 * math.pi * k / 8)) for k in range(8)]
GRID = [(2.0 * x, 2.0 * y) for x in range(-2, 3) for y in range(-2, 3)]
SETS = {"ring": (torch.tensor(RING), 0.02), "grid": (torch.tensor(GRID), 0.05)}


def draw(
    centres: Tensor, deviation: float, count: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Points [n, 2] around centres [k, 2], and which centre each belongs to."""
    which = torch.randint(len(centres), (count,), generator=random)
    return centres[which] + deviation * torch.randn(count, 2, generator=random), which


def found_modes(points: Tensor, centres: Tensor, deviation: float) -> tuple[int, float]:
    """Modes found, and the share of good samples."""
    distance, nearest = torch.cdist(points, centres).min(1)
    good = distance < 3 * deviation
    counts = torch.bincount(nearest[good], minlength=len(centres))
    return int((counts >= 0.01 * len(points) / len(centres)).sum()), float(good.float().mean())


def trained_points(
    method: str, name: str, kimg: float, seed: int, options: dict[str, Any], batch: int = 256
) -> Tensor:
    """2,500 samples of a generator after so many thousands of points."""
    centres, deviation = SETS[name]
    settings = TrainConfig(
        method=method,
        options=options,
        network={"name": "mlp2d"},
        batch=batch,
        learning_rate=1e-3,
        weight_decay=0,
        ema_kimg=0,
        kimg=kimg,
    )
    labelled = registry.literal("methods", method, "USES_LABELS", False)
    classes = len(centres) if labelled else 0
    state = build(settings, seed=seed, device="cpu", image_size=0, classes=classes)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(settings, Path(folder), 0, seed=seed, classes=classes)
        index = 0
        while state.position.images < kimg * 1000:
            points, which = draw(centres, deviation, batch, torch_stream(seed, "points", index))
            step(state, context, points, which if labelled else None)
            index += 1
    latents = sample_latents(state.prior, SAMPLES, torch_stream(seed, "samples"))
    labels = torch.arange(SAMPLES) % classes if labelled else None
    with torch.no_grad():
        return state.networks["generator"](latents, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=registry.names("methods"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--kimg", type=float, default=256)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--options", type=json.loads, default={}, help="train.options of the methods, as JSON"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| method | set | modes found | of | good samples | seconds a seed |")
    print("|---|---|---|---|---|---|")
    for method in given.methods:
        for name in given.sets:
            centres, deviation = SETS[name]
            started = time.process_time()
            try:
                runs = [
                    found_modes(
                        trained_points(method, name, given.kimg, seed, given.options),
                        centres,
                        deviation,
                    )
                    for seed in range(given.seeds)
                ]
            except (RequestError, RuntimeError, ValueError, IndexError) as error:
                print(f"| {method} | {name} | does not run on points: {str(error)[:80]} | | | |")
                continue
            modes, good = zip(*runs, strict=True)
            seconds = (time.process_time() - started) / given.seeds
            print(
                f"| {method} | {name} | {sum(modes) / len(modes):.1f} ({min(modes)} to "
                f"{max(modes)}) | {len(centres)} | {sum(good) / len(good):.1%} ({min(good):.1%} "
                f"to {max(good):.1%}) | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
