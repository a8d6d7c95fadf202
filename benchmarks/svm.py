"""The probes linear_svm and logistic against scikit-learn on the features of an artifact,
interleaved in one run.

    python benchmarks/svm.py FEATURES [--layers conv1] [--rows 20000] [--costs 1e-6,1e-5,1e-4] \\
        [--rounds 1] [--limit 1800]
    python benchmarks/svm.py FEATURES --probe logistic --tolerances 1e-4

FEATURES is a folder with features-*.parquet (an extract artifact). Ours solves all classes and all
C in one call, on all cores; LinearSVC (LogisticRegression) is fitted once for each C and each of
--tolerances. Every fit has a process of its own, which reads the features itself; reading is not
counted. One that takes longer than --limit seconds is ended and counts as that long.

Printed: wall and processor seconds, the peak of memory, objectives and answers on the training rows
(computed here in float64), and a table in Markdown for docs/benchmarks.md. Answers that differ are
ties where, by scikit-learn's decision values, the best two classes are nearer than 1e-3 of the
largest.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gan_core.features.parquet import read_features, read_rows

TIE = 1e-3
EVALUATED_ROWS = 1000  # of float64 features at a time


@dataclass
class Evaluated:
    """Per C: objective, answers [rows], and which rows are ties."""

    objective: list[float]
    answers: npt.NDArray[np.int64]
    ties: npt.NDArray[np.bool_]


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def read(
    options: argparse.Namespace, some: slice = slice(None)
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """Features and labels of some of the first --rows training rows."""
    split = read_rows(options.features)["split"].to_numpy(zero_copy_only=False)
    train = np.flatnonzero(split == "train")[: options.rows][some]
    features, rows = read_features(
        options.features, options.layers.split(",") if options.layers else None, train
    )
    return features, rows["label"].to_numpy().astype(np.int64)


def fit_ours(options: argparse.Namespace, costs: list[float], tol: float, pipe: Any) -> None:
    import torch

    from gan_core.devices import cpu_cores
    from gan_core.probes import linear_svm, logistic

    torch.set_num_threads(options.threads or cpu_cores())
    features, labels = read(options)
    fit = linear_svm.fit if options.probe == "linear_svm" else logistic.fit
    if options.device.startswith(
        "cuda"
    ):  # its start, and its libraries' first products and eigenvalues, are not the probe's
        fit(features[:256], labels[:256], costs[:1], device=options.device)
        torch.cuda.synchronize()
    pipe.send("begins")
    begin, cpu = time.perf_counter(), cpu_seconds()
    models = fit(features, labels, costs, device=options.device)
    answer_with(
        pipe, begin, cpu, [(one.weights, one.intercept, one.certificate["gap"]) for one in models]
    )


def fit_theirs(options: argparse.Namespace, costs: list[float], tol: float, pipe: Any) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    features, labels = read(options)
    matrix = features.astype(np.float32)  # LinearSVC makes float64 of it, as it does of everything
    del features
    if options.probe == "linear_svm":
        model = LinearSVC(C=costs[0], tol=tol, random_state=0)
    else:
        model = LogisticRegression(C=costs[0], tol=tol, max_iter=10_000)
    pipe.send("begins")
    begin, cpu = time.perf_counter(), cpu_seconds()
    model.fit(matrix, labels)
    answer_with(pipe, begin, cpu, [(model.coef_.T, model.intercept_, 0.0)])


def answer_with(pipe: Any, begin: float, cpu: float, models: list[Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    pipe.send(
        ({"wall": time.perf_counter() - begin, "cpu": cpu_seconds() - cpu, "peak": peak}, models)
    )


def in_process(
    work: Any, options: argparse.Namespace, costs: list[float], tol: float, limit: float
) -> Any:
    """The answer of `work` from a process of its own; None when it took longer than the limit."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(options, costs, tol, there), daemon=True)
    child.start()
    there.close()
    try:
        here.recv()  # the features are read; EOFError: the process died, its error stands above
        return here.recv() if here.poll(limit) else None
    finally:
        child.terminate()
        child.join()


def evaluate(options: argparse.Namespace, costs: list[float], models: list[Any]) -> Evaluated:
    """Objectives and answers of models, one for each C, by a pass in float64 over the rows."""
    weights = np.concatenate([one[0] for one in models], axis=1).astype(np.float64)
    intercept = np.concatenate([one[1] for one in models]).astype(np.float64)
    width = len(models[0][1])
    bias = (
        intercept if options.probe == "linear_svm" else 0 * intercept
    )  # logistic regression leaves the intercept free
    objective = 0.5 * ((weights**2).sum(0) + bias**2).reshape(len(costs), width).sum(1)
    rows = int(
        (read_rows(options.features)["split"].to_numpy(zero_copy_only=False) == "train").sum()
    )
    answers, ties = [], []
    for start in range(0, min(rows, options.rows), EVALUATED_ROWS):
        features, labels = read(options, slice(start, start + EVALUATED_ROWS))
        margins = (features.astype(np.float64) @ weights + intercept).reshape(
            len(features), len(costs), width
        )
        own = labels[:, None] == np.arange(width)  # classes are numbered from 0 in these sets
        if options.probe == "linear_svm":
            loss = (np.maximum(0, 1 - np.where(own, 1.0, -1.0)[:, None] * margins) ** 2).sum((0, 2))
        else:
            loss = (np.logaddexp.reduce(margins, axis=2) - (margins * own[:, None]).sum(2)).sum(0)
        objective += np.array(costs) * loss
        best = np.sort(margins, axis=2)
        answers.append(margins.argmax(2))
        ties.append(best[..., -1] - best[..., -2] < TIE * np.abs(margins).max(2))
    return Evaluated(objective.tolist(), np.concatenate(answers).T, np.concatenate(ties).T)


def machine() -> str:
    """Processor, cores and memory, versions and commit."""
    import sklearn
    import torch

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [
        line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")
    ]
    units = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in info]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = "unknown"
    with contextlib.suppress(OSError):  # a machine without git
        command = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
        commit = done.stdout.strip() or commit
    cpu = names[0] if names else platform.processor()
    return (
        f"{date.today()}, commit {commit}, {cpu} ({', '.join(units) or 'no bf16 units'}), "
        f"{os.cpu_count()} cores, "
        f"{memory:.0f} GiB, torch {torch.__version__}, scikit-learn {sklearn.__version__}"
    )


def compare(
    options: argparse.Namespace, costs: list[float], tol: float, mine: Evaluated, limit: float
) -> Any:
    """One fit of theirs for each C: sums of seconds, the largest peak, and what differed."""
    total = {"wall": 0.0, "cpu": 0.0, "peak": 0.0}
    worst, other, ties, stopped = 0.0, 0, 0, 0
    for number, cost in enumerate(costs):
        found = in_process(fit_theirs, options, [cost], tol, limit)
        if found is None:
            print(f"theirs tol={tol} C={cost:g}: stopped after {limit:.0f} s", flush=True)
            total["wall"], total["cpu"], stopped = (
                total["wall"] + limit,
                total["cpu"] + limit,
                stopped + 1,
            )
            continue
        spent, models = found
        theirs = evaluate(options, [cost], models)
        apart = theirs.answers[0] != mine.answers[number]
        difference = (mine.objective[number] - theirs.objective[0]) / theirs.objective[0]
        worst = difference if abs(difference) > abs(worst) else worst
        other, ties = other + int(apart.sum()), ties + int((apart & theirs.ties[0]).sum())
        line = ", ".join(f"{name} {value:.2f}" for name, value in spent.items())
        print(
            f"theirs tol={tol} C={cost:g}: {line}, ours - theirs {difference:.1e}, "
            f"{int(apart.sum())} other answers",
            flush=True,
        )
        total = {
            name: max(total[name], spent[name]) if name == "peak" else total[name] + spent[name]
            for name in total
        }
    return total, (f"{worst:.1e}", f"{other} ({ties})", f"{stopped} stopped" if stopped else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("features", type=Path)
    parser.add_argument("--probe", choices=["linear_svm", "logistic"], default="linear_svm")
    parser.add_argument("--layers", default="")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--costs", default="1e-6,1e-5,1e-4")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1800)
    parser.add_argument(
        "--threads", type=int, default=0, help="of ours, default all cores; LinearSVC has one"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--tolerances", default="1e-4,0.1", help="of scikit-learn's; empty: ours alone"
    )
    options = parser.parse_args()
    costs = [float(cost) for cost in options.costs.split(",")]
    tolerances = [float(tol) for tol in options.tolerances.split(",") if tol]
    load = [os.getloadavg()[0]]
    sums: dict[str, list[Any]] = {}
    shape = tuple(reversed(read(options, slice(1))[0].shape))
    for _ in range(options.rounds):
        found = in_process(fit_ours, options, costs, 0.0, options.limit * len(costs))
        if found is None:
            sys.exit(f"ours: stopped after {options.limit * len(costs):.0f} s")
        took, ours = found
        line = ", ".join(f"{name} {value:.2f}" for name, value in took.items())
        print(f"ours: {line}, gaps", " ".join(f"{one[2]:.1e}" for one in ours), flush=True)
        sums.setdefault(options.probe, []).append(
            (took, ("", "", f"gap {max(one[2] for one in ours):.0e}"))
        )
        mine = (
            evaluate(options, costs, ours)
            if tolerances
            else Evaluated([], np.empty((0, 0), np.int64), np.empty((0, 0), np.bool_))
        )
        for tol in tolerances:
            name = "LinearSVC" if options.probe == "linear_svm" else "LogisticRegression"
            sums.setdefault(f"{name}(tol={tol:g})", []).append(
                compare(options, costs, tol, mine, options.limit)
            )
    load.append(os.getloadavg()[0])
    print(
        f"\n`python benchmarks/svm.py {' '.join(['FEATURES', *sys.argv[2:]])}`: {options.rows} x "
        f"{shape[0]}, C {options.costs};"
    )
    print(
        f"{machine()}; load {load[0]:.1f} before, {load[1]:.1f} after; medians of "
        f"{options.rounds} round(s)\n"
    )
    print(
        "| solver | wall s, all C | ours / it | processor s | ours / it | peak GiB | objective, "
        "ours to it | other answers (ties) | |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    medians = {
        name: [
            float(np.median([one[0][kind] for one in all_of])) for kind in ("wall", "cpu", "peak")
        ]
        for name, all_of in sums.items()
    }
    first = medians[options.probe]
    for name, (wall, cpu, peak) in medians.items():
        result = sums[name][-1][1]
        print(
            f"| {name} | {wall:.1f} | {first[0] / wall:.3f} | {cpu:.1f} | {first[1] / cpu:.3f} | "
            f"{peak:.1f} | {' | '.join(result)} |"
        )


if __name__ == "__main__":
    main()
