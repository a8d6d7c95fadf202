"""The K-means baseline against the published figures: CIFAR-10, linear SVM on all labels (Coates,
Ng, Lee, AISTATS 2011).

    python benchmarks/kmeans.py --data "$DISCERN_DATA" --centres 1600 \\
        --grid 5e-4 1e-3 2e-3 4e-3 --threads 1
    python benchmarks/kmeans.py --data "$DISCERN_DATA" --centres 4000 --grid 2e-3 4e-3 --threads 1

Published: 77.9 % with 1,600 centres, 79.6 % with 4,000.

Centres and scale are learned on the 50,000 training images without labels. C is chosen on 500
images of each class taken out of them, then fitted on all; the test split is read once, for the C
chosen. Processor seconds count all threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TRAIN, VALIDATION = 50_000, 500  # images; of each class


def labels(folder: Path) -> npt.NDArray[np.int64]:
    """Of the 50,000 training images, then of the 10,000 test images, in the official order:
    [60000].
    """
    out = np.full(60_000, -1, np.int64)
    for pattern, first in (("train-*.parquet", 0), ("test-*.parquet", TRAIN)):
        for path in sorted(folder.glob(pattern)):
            table = pq.read_table(path, columns=["label", "index"])
            out[first + table["index"].to_numpy()] = table["label"].to_numpy()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DISCERN_DATA", ".")))
    parser.add_argument("--centres", type=int, default=1600)
    parser.add_argument("--patches", type=int, default=400_000)
    parser.add_argument("--grid", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3, 4e-3, 8e-3])
    parser.add_argument(
        "--train", type=int, default=TRAIN, help="training images; fewer only to try the command"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    import torch

    from benchmarks.dedup_quality import cifar
    from gan_core.baselines import kmeans
    from gan_core.probes import linear_svm

    torch.set_num_threads(given.threads)
    pixels, known = cifar(given.data / "cifar10"), labels(given.data / "cifar10")
    rows = np.r_[: given.train, TRAIN : TRAIN + 10_000]
    pixels, known = pixels[rows], known[rows]
    started, used = time.perf_counter(), time.process_time()
    coder = kmeans.learn(
        lambda at: pixels[at],
        given.train,
        centres=given.centres,
        patches=given.patches,
        measured=10_000,
        seed=given.seed,
        device="cpu",
    )
    features = np.empty((len(pixels), 4 * given.centres), np.float16)
    for start in range(0, len(pixels), 500):
        features[start : start + 500] = coder.extract(pixels[start : start + 500])[
            "kmeans"
        ].reshape(-1, features.shape[1])
    coded = [time.perf_counter() - started, time.process_time() - used]
    random, held = np.random.default_rng(given.seed), np.zeros(given.train, bool)
    for number in range(10):
        held[random.permutation(np.flatnonzero(known[: given.train] == number))[:VALIDATION]] = True
    train, taught = features[: given.train], known[: given.train]
    models = linear_svm.fit(train[~held], taught[~held], given.grid)
    accuracy = [float((model.predict(train[held]) == taught[held]).mean()) for model in models]
    chosen = given.grid[int(np.argmax(accuracy))]
    (model,) = linear_svm.fit(train, taught, [chosen])
    test = float((model.predict(features[given.train :]) == known[given.train :]).mean())
    result = {
        "centres": given.centres,
        "validation": dict(zip(given.grid, accuracy, strict=True)),
        "C": chosen,
        "test": test,
        "seconds, features": [round(value, 1) for value in coded],
        "seconds, all": [
            round(time.perf_counter() - started, 1),
            round(time.process_time() - used, 1),
        ],
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
