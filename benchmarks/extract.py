"""Features from the paper's 28,672-feature network: images a second in float32 and bf16,
interleaved, and how far they differ.

    python benchmarks/extract.py [--images 256] [--rounds 3] [--batch 128] [--device cpu] \\
        [--threads 0] [--network dcgan32]

The weights are random and the statistics are those of the same random images: the speed does not
depend on either.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from gan_core.baselines import random
from gan_core.devices import cpu_cores
from gan_core.features import extract
from gan_core.features.modes import select_layers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--network", default="dcgan32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or cpu_cores())
    network = random.network({"name": options.network}, 0).to(options.device)
    side = network.input_shape[1]
    images = (
        np.random.default_rng(0).integers(0, 256, (options.images, side, side, 3)).astype(np.uint8)
    )
    extract.set_statistics(network, lambda rows: images[rows], len(images), 256, 0, options.device)
    selection = select_layers(network)
    times: dict[str, list[float]] = {"float32": [], "bf16": []}
    found = {}
    for number in range(options.rounds + 1):
        for precision, spent in times.items():
            begin = time.perf_counter()
            values, _ = extract.extract_features(
                network.activations,
                images,
                selection,
                batch=options.batch,
                device=options.device,
                precision=precision,
            )
            if number:  # the first round warms up
                spent.append(time.perf_counter() - begin)
            found[precision] = np.concatenate(
                [v.reshape(len(v), -1) for v in values.values()], axis=1
            ).astype(np.float32)
    base = statistics.median(times["float32"])
    print(
        f"{options.network}, {sum(size.dims for size in selection.sizes):,} values, "
        f"{options.device}, batch {options.batch}"
    )
    print(
        "| precision | images/s | ratio | relative RMS difference | largest "
        "|\n|---|---|---|---|---|"
    )
    for precision, spent in times.items():
        apart = found[precision] - found["float32"]
        rms = float(np.sqrt((apart**2).mean() / (found["float32"] ** 2).mean()))
        median = statistics.median(spent)
        print(
            f"| {precision} | {options.images / median:.0f} | {base / median:.2f} | {rms:.4f} | "
            f"{np.abs(apart).max():.3f} |"
        )


if __name__ == "__main__":
    main()
