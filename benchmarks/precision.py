"""Whether numbers with fewer bits change the accuracy: two features artifacts of the same images
and network, scored on the same draws.

    python benchmarks/precision.py FLOAT32 BF16 [--labels 400] [--draws 10] [--cost 1e-4] \\
        [--test 10000]

FLOAT32 and BF16 are extract artifacts (folders with features-*.parquet) that differ in
`extract.precision` and in nothing else. Both are scored by linear_svm at one value of C on the same
draws of training labels; the difference is paired by draw and by test image. The first artifact is
scored once more with its solver's tolerance a hundred times tighter: what stopping early changes.
Nothing is chosen here: C is given, and the test split is only read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("float32", type=Path)
    parser.add_argument("bf16", type=Path)
    parser.add_argument("--labels", default="400", help="for each class, or all")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--cost", type=float, default=1e-4)
    parser.add_argument("--test", type=int, default=10_000, help="at most so many test images")
    options = parser.parse_args()
    from gan_core.features.parquet import read_features, read_lineage, read_rows
    from gan_core.metrics.draws import draws_of
    from gan_core.metrics.intervals import accuracy_interval, difference_interval
    from gan_core.probes import linear_svm
    from gan_core.probes.base import predict_many

    folders = {"float32": options.float32, "bf16": options.bf16}
    rows = read_rows(options.float32)
    if rows["image_id"] != read_rows(options.bf16)["image_id"]:
        parser.error("the artifacts hold different images, or in another order")
    split = rows["split"].to_numpy(zero_copy_only=False)
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")[: options.test]
    labels = rows["label"].to_numpy().astype(np.int64)
    wanted: list[int | str] = [options.labels if options.labels == "all" else int(options.labels)]
    draws, _ = draws_of(labels[train], wanted, options.draws, seed=0, stream="precision")
    right: dict[str, list[np.ndarray]] = {}
    apart = []
    for draw in draws:
        used = train[draw.rows]
        learned = {name: read_features(folder, rows=used)[0] for name, folder in folders.items()}
        models = {
            name: linear_svm.fit(matrix, labels[used], [options.cost])[0]
            for name, matrix in learned.items()
        }
        models["tight"] = linear_svm.fit(
            learned["float32"].astype(np.float32), labels[used], [options.cost], tolerance=1e-6
        )[0]
        tested = {name: read_features(folder, rows=test)[0] for name, folder in folders.items()}
        difference = tested["bf16"].astype(np.float32) - tested["float32"].astype(np.float32)
        apart.append(
            np.sqrt(
                np.square(difference).mean()
                / np.square(tested["float32"].astype(np.float32)).mean()
            )
        )
        for name, model in models.items():
            result = predict_many([model], tested.get(name, tested["float32"]))[0]
            right.setdefault(name, []).append(result == labels[test])
        print(
            draw.number,
            {name: round(float(one[-1].mean()), 4) for name, one in right.items()},
            file=sys.stderr,
            flush=True,
        )
    scores = {name: np.array(one) for name, one in right.items()}
    table = {
        "layers": read_lineage(options.float32).get("layers"),
        "C": options.cost,
        "labels": options.labels,
    }
    table |= {
        "draws": len(draws),
        "test images": len(test),
        "relative RMS difference of the features": float(np.mean(apart)),
    }
    for name, one in scores.items():
        interval = accuracy_interval(one.mean(axis=1).tolist(), len(test))
        table[f"accuracy, {name}"] = [
            round(100 * value, 2) for value in (interval.mean, interval.low, interval.high)
        ]
    for name in ("bf16", "tight"):
        gap = difference_interval(scores[name], scores["float32"])
        table[f"{name} minus float32, points"] = [
            round(100 * value, 3) for value in (gap.mean, gap.low, gap.high)
        ]
    print(json.dumps(table, indent=1, default=str))


if __name__ == "__main__":
    main()
