"""The probe linear_svm against scikit-learn's LinearSVC on the features of an artifact, interleaved in one run.

    python benchmarks/svm.py FEATURES [--layers conv3] [--rows 20000] [--costs 1e-6,1e-5,1e-4] [--rounds 1] [--limit 1800]

FEATURES is a folder with features-*.parquet (an extract artifact). Ours solves all classes and all C in one call; LinearSVC
is fitted once for each C, with its defaults and with tol=0.1, each in a process of its own that is ended after --limit
seconds (and then counts as that long). Printed: wall and processor seconds, the ratio of the sums, the relative difference of the
objectives (computed here in float64), and the share of equal answers on the training rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np


def objective(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, intercept: np.ndarray, cost: float) -> float:
    """Sum over classes of 1/2 (|w|^2 + b^2) + C sum hinge^2, in float64 by blocks. Args: weights: [dims, classes]."""
    total = 0.5 * float((weights.astype(np.float64) ** 2).sum() + (intercept.astype(np.float64) ** 2).sum())
    classes = np.unique(labels)
    for start in range(0, len(features), 2000):
        margins = features[start : start + 2000].astype(np.float64) @ weights.astype(np.float64) + intercept
        signs = np.where(labels[start : start + 2000, None] == classes, 1.0, -1.0)
        total += cost * float((np.maximum(0, 1 - signs * margins) ** 2).sum())
    return total


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run_ours(features: np.ndarray, labels: np.ndarray, settings: dict[str, Any], answer: Any) -> None:
    import torch

    from gan_core.devices import cpu_cores
    from gan_core.probes import linear_svm

    torch.set_num_threads(settings["threads"] or cpu_cores())
    begin, cpu = time.perf_counter(), cpu_seconds()
    models = linear_svm.fit(features, labels, settings["costs"], device=settings["device"])
    took = {"wall": time.perf_counter() - begin, "cpu": cpu_seconds() - cpu, "peak": peak_gigabytes()}
    answer.put((took, [(model.weights, model.intercept, model.certificate) for model in models]))


def run_theirs(features: np.ndarray, labels: np.ndarray, settings: dict[str, Any], answer: Any) -> None:
    from sklearn.svm import LinearSVC

    matrix = features.astype(np.float32)  # LinearSVC makes float64 of it, as it does of everything
    begin, cpu = time.perf_counter(), cpu_seconds()
    model = LinearSVC(C=settings["cost"], tol=settings["tol"], random_state=0).fit(matrix, labels)
    took = {"wall": time.perf_counter() - begin, "cpu": cpu_seconds() - cpu, "peak": peak_gigabytes()}
    answer.put((took, [(model.coef_.T, model.intercept_, {})]))


def in_process(work: Any, features: np.ndarray, labels: np.ndarray, settings: dict[str, Any], limit: float) -> Any:
    """The answer of `work` from a process of its own; None when it took longer than the limit."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=work, args=(features, labels, settings, answer), daemon=True)
    child.start()
    try:
        return answer.get(timeout=limit)
    except Exception:  # queue.Empty: out of time
        return None
    finally:
        child.terminate()
        child.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    parser.add_argument("--layers", default="")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--costs", default="1e-6,1e-5,1e-4")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1800)
    parser.add_argument("--threads", type=int, default=0, help="of ours; LinearSVC has one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tolerances", default="1e-4,0.1", help="of LinearSVC; empty: ours alone")
    options = parser.parse_args()
    from gan_core.features.store import read_features, read_rows

    table = read_rows(options.features)
    train = np.flatnonzero(table["split"].to_numpy(zero_copy_only=False) == "train")[: options.rows]
    features, rows = read_features(options.features, options.layers.split(",") if options.layers else None, train)
    labels = rows["label"].to_numpy().astype(np.int64)
    costs = [float(cost) for cost in options.costs.split(",")]
    tolerances = [float(tol) for tol in options.tolerances.split(",") if tol]
    print(f"{features.shape[0]} x {features.shape[1]} float16, {len(np.unique(labels))} classes, C {costs}", flush=True)
    sums: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        settings = {"costs": costs, "threads": options.threads, "device": options.device}
        took, models = in_process(run_ours, features, labels, settings, options.limit * len(costs))
        sums.setdefault("ours", []).append(took)
        mine = [
            objective(features, labels, weights, intercept, cost)
            for (weights, intercept, _), cost in zip(models, costs, strict=True)
        ]
        gaps = [certificate["gap"] for _, _, certificate in models]
        print("ours", json.dumps({**took, "gap": gaps, "objective": mine}), flush=True)
        for tol in tolerances:
            total = {"wall": 0.0, "cpu": 0.0, "peak": 0.0}
            for cost, value, (weights, intercept, _) in zip(costs, mine, models, strict=True):
                found = in_process(run_theirs, features, labels, {"cost": cost, "tol": tol}, options.limit)
                if found is None:
                    print(f"LinearSVC tol={tol} C={cost:g}: stopped after {options.limit:.0f} s", flush=True)
                    total = {**total, "wall": total["wall"] + options.limit, "cpu": total["cpu"] + options.limit}
                    continue
                spent, ((coef, bias, _),) = found
                theirs = objective(features, labels, coef, bias, cost)
                probe = features[:2000].astype(np.float32)
                same = (probe @ weights + intercept).argmax(1) == (probe @ coef.astype(np.float32) + bias).argmax(1)
                line = {
                    **spent,
                    "objective": theirs,
                    "ours_minus_theirs": (value - theirs) / theirs,
                    "same": float(same.mean()),
                }
                print(f"LinearSVC tol={tol} C={cost:g}", json.dumps(line), flush=True)
                total = {name: max(total[name], spent[name]) if name == "peak" else total[name] + spent[name] for name in total}
            sums.setdefault(f"LinearSVC tol={tol}", []).append(total)
    ours = {name: float(np.median([one[name] for one in sums["ours"]])) for name in ("wall", "cpu", "peak")}
    print("\n| solver | wall s, all C | ours / it | cpu s | ours / it | peak GB |\n|---|---|---|---|---|---|")
    for name, all_of in sums.items():
        wall, cpu, peak = (float(np.median([one[figure] for one in all_of])) for figure in ("wall", "cpu", "peak"))
        print(f"| {name} | {wall:.1f} | {ours['wall'] / wall:.3f} | {cpu:.1f} | {ours['cpu'] / cpu:.3f} | {peak:.1f} |")


if __name__ == "__main__":
    main()
