"""Fits of the linear probes in this checkout and in another one, interleaved in one run.

    python benchmarks/probes.py --against CHECKOUT [--rows 100,1000,1437] [--rounds 3] [--threads 1]
    python benchmarks/probes.py --against CHECKOUT --matrix FILE.npz --rows 5000 --values 1e-6,1e-5

Without --matrix the features are the 1,797 digits of scikit-learn as pixels of 32 x 32 (3,072
values); a matrix holds `features` [rows, dims] and `labels` [rows]. Each fit is a whole grid of
values in a process of its own, in turn, after one fit that is not counted. Printed: medians of
processor and wall seconds, the largest gap, and the accuracy on the remaining rows of the value
that is best there, as a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CHILD = """
import json, resource, sys, time
import numpy as np
import torch
from gan_core import registry
from gan_core.probes.base import predict_many

matrix, name, rows, threads, values = sys.argv[1:]
torch.set_num_threads(int(threads))
loaded = np.load(matrix)
features, labels, rows = loaded["features"], loaded["labels"], int(rows)
probe = registry.load("probes", name)
values = [float(value) for value in values.split(",")] if values else probe.GRID
if rows * features.shape[1] < 1e7:
    probe.fit(features[:rows], labels[:rows], values)
cpu, wall = time.process_time(), time.perf_counter()
models = probe.fit(features[:rows], labels[:rows], values)
found = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
found["gap"] = max(model.certificate["gap"] for model in models)
rest = slice(rows, rows + 5000)
found["accuracy"] = None
if len(labels) > rows:
    answers = predict_many(models, features[rest])
    found["accuracy"] = float(max((answer == labels[rest]).mean() for answer in answers))
found["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(found))
"""


def digits(path: Path) -> None:
    """Writes the digits as float16 pixels in [-1, 1], shuffled."""
    import numpy as np
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    data = load_digits()
    large = np.clip(zoom(data.images / 16 * 255, (1, 4, 4), order=3), 0, 255).astype(np.uint8)
    pixels = np.repeat(large[:, None], 3, axis=1).reshape(len(large), -1) / 127.5 - 1
    order = np.random.default_rng(0).permutation(len(pixels))
    np.savez(path, features=pixels.astype(np.float16)[order], labels=data.target[order])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, required=True, help="another checkout")
    parser.add_argument("--matrix", type=Path, help="npz with features and labels")
    parser.add_argument("--probes", default="linear_svm,logistic")
    parser.add_argument("--rows", default="100,1000,1437")
    parser.add_argument("--values", default="", help="of the setting; default the probe's grid")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    matrix = options.matrix or Path("digits.npz").absolute()
    if not options.matrix:
        digits(matrix)
    print("| probe | rows | checkout | processor s | ratio | wall s | peak GiB | gap | accuracy |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.probes.split(","):
        for rows in options.rows.split(","):
            found: dict[Path, list[dict[str, float]]] = {options.against.resolve(): [], ROOT: []}
            for _ in range(options.rounds):
                for checkout, results in found.items():
                    command = [sys.executable, "-c", CHILD, str(matrix), name, rows]
                    command += [str(options.threads), options.values]
                    done = subprocess.run(
                        command,
                        env={**os.environ, "PYTHONPATH": str(checkout)},
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True,
                    )
                    results.append(json.loads(done.stdout))
            first = 0.0
            for checkout, results in found.items():
                median = {
                    key: statistics.median(one[key] for one in results)
                    for key in ("cpu", "wall", "peak GiB")
                }
                first = first or median["cpu"]
                accuracy = results[0]["accuracy"]
                print(
                    f"| {name} | {rows} | {'this' if checkout == ROOT else 'other'} | "
                    f"{median['cpu']:.3f} | {median['cpu'] / first:.2f} | {median['wall']:.2f} | "
                    f"{median['peak GiB']:.1f} | {results[0]['gap']:.1e} | "
                    f"{'' if accuracy is None else f'{accuracy:.4f}'} |",
                    flush=True,
                )
    if not options.matrix:
        matrix.unlink()


if __name__ == "__main__":
    main()
