"""How good dedup is on CIFAR-10: recall of the pairs that people found, precision by eye, injected
duplicates, the threshold sweep.

    python benchmarks/dedup_quality.py --data "$DISCERN_DATA" --out docs/dedup
    python benchmarks/dedup_quality.py --verdicts docs/dedup

The first does everything and writes the sheet for a person's verdicts; the second computes the
precision from the verdicts: same (one photograph, whatever was done to it), similar (another
moment, another variant), different.

Truth: ciFAIR's near-duplicate pairs (cvjena/cifair, Judgment 1): 249 test-train, 30 test-test.
Settings were chosen on half A.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_core.config import DedupConfig, HashConfig
from gan_core.dedup.hashing import autoencoder
from gan_core.dedup.hashing import group_by_code as by_code
from gan_core.dedup.measure.injected_duplicates import injected_recall
from gan_core.dedup.search.across_sets import find_across
from gan_core.dedup.search.find_duplicates import Duplicates, find_duplicates
from gan_core.dedup.search.verify_pairs import required
from gan_core.metrics.intervals import wilson
from gan_core.randomness import numpy_stream
from gan_core.vision import sheets

HALF_SEED = 2024
DRAWN = 200
# threshold above which pairs were drawn to be looked at; those that a stricter rule accepts are a
# draw from these
LOOKED_AT = 0.9


def cifar(folder: Path) -> npt.NDArray[np.uint8]:
    """The 50,000 training images, then the 10,000 test images, in the official order: uint8 [60000,
    32, 32, 3].
    """
    out = np.empty((60_000, 32, 32, 3), np.uint8)
    for pattern, first in (("train-*.parquet", 0), ("test-*.parquet", 50_000)):
        for path in sorted(folder.glob(pattern)):
            table = pq.read_table(path)
            data = table["img"].combine_chunks().field("bytes").to_pylist()
            for index, one in zip(table["index"].to_pylist(), data, strict=True):
                out[first + index] = cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR)[
                    ..., ::-1
                ]
    return out


def truth(folder: Path) -> list[tuple[int, int, int]]:
    """(row, row, judgment) of ciFAIR's pairs, smaller row first."""
    out = []
    for name, offset in (("duplicates_cifar10.csv", 0), ("duplicates_cifar10_test.csv", 50_000)):
        with open(folder / name) as file:
            for line in csv.DictReader(file):
                pair = sorted((50_000 + int(line["TestID"]), offset + int(line["TrainID"])))
                out.append((pair[0], pair[1], int(line["Judgment"])))
    return out


def recalls(pairs: list[tuple[int, int, int]], found: set[tuple[int, int]]) -> dict[str, float]:
    """Share of the near-duplicate pairs found: half A (settings were chosen on it), half B, all."""
    near = [pair[:2] for pair in pairs if pair[2] == 1]
    hit = np.array([pair in found for pair in near])
    half = np.zeros(len(near), bool)
    half[np.random.default_rng(HALF_SEED).permutation(len(near))[: (len(near) + 1) // 2]] = True
    similar = sum(pair[:2] in found for pair in pairs if pair[2] == 2)
    return {
        "half A": round(float(hit[half].mean()), 4),
        "half B": round(float(hit[~half].mean()), 4),
        "all": round(float(hit.mean()), 4),
        "found": int(hit.sum()),
        "of": len(near),
        "very similar (Judgment 2)": similar,
    }


def sheet(
    pixels: npt.NDArray[np.uint8], i: Any, j: Any, captions: list[str], path: Path, scale: int = 2
) -> None:
    """The pairs side by side, enlarged, numbered."""
    side = 32 * scale
    pairs = []
    for one, other in zip(i, j, strict=True):
        both = [
            cv2.resize(pixels[row], (side, side), interpolation=cv2.INTER_CUBIC)
            for row in (one, other)
        ]
        pairs.append(
            np.concatenate([both[0], np.full((side, 1, 3), 255, np.uint8), both[1]], axis=1)
        )
    image = sheets.sheet(np.stack(pairs), columns=8, gap=4, captions=captions)
    path.write_bytes(sheets.encode_webp(image, 70))


def draw(
    pixels: npt.NDArray[np.uint8],
    duplicates: Duplicates,
    pairs: npt.NDArray[np.int64],
    name: str,
    out: Path,
) -> None:
    """Draws 200 of the given pairs, lists them in NAME.csv and lays them out in NAME.webp,
    numbered.
    """
    drawn = np.sort(
        pairs[numpy_stream(7, "dedup", "by eye").choice(len(pairs), DRAWN, replace=False)]
    )
    i, j, score = (
        column[drawn] for column in (duplicates.found.i, duplicates.found.j, duplicates.found.score)
    )
    seen = duplicates.seen
    measured = {
        pair: at
        for at, pair in enumerate(zip(seen.i.tolist(), seen.j.tolist(), strict=True))
        if seen.score[at] > 0
    }
    with open(out / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "row_a", "row_b", "score", "reason", "detail", "deformation"])
        for number, at in enumerate(drawn.tolist()):
            fit = measured[(int(i[number]), int(j[number]))]
            measures = [f"{seen.detail[fit]:.4f}", f"{seen.deformation[fit]:.4f}"]
            writer.writerow(
                [
                    number,
                    i[number],
                    j[number],
                    f"{score[number]:.4f}",
                    duplicates.found.reason[at],
                    *measures,
                ]
            )
    sheet(
        pixels,
        i,
        j,
        [f"{number}  {score[number]:.2f}" for number in range(DRAWN)],
        out / f"{name}.webp",
    )


def measure(data: Path, out: Path) -> dict[str, Any]:
    """Runs everything and writes numbers, sheet and the list of drawn pairs; pairs that somebody
    has judged are not drawn anew.
    """
    pixels, pairs = cifar(data / "cifar10"), truth(data / "cifar10")
    result: dict[str, Any] = {"sweep": {}}
    started = time.perf_counter()
    encoder = autoencoder.fit(pixels[:50_000], HashConfig(), 0)
    codes = encoder.encode(pixels)
    result["seconds: fit and encode"] = round(time.perf_counter() - started, 1)
    rank = np.arange(len(pixels))
    for radius in (0, 2, 4, 6):
        groups, found = by_code.group_by_code(codes, rank, radius)
        hits = {
            (min(a, b), max(a, b)) for a, b in zip(found.i.tolist(), found.j.tolist(), strict=True)
        }
        result[f"codes within {radius} bits"] = {
            "pairs": len(hits),
            **recalls(pairs, hits),
            "kept": int(groups.keep.sum()),
        }
    started = time.perf_counter()
    base = find_duplicates(lambda rows: pixels[rows], rank, DedupConfig(threshold=0.8), codes)
    result["seconds: find duplicates"] = round(time.perf_counter() - started, 1)
    alone = find_duplicates(lambda rows: pixels[rows], rank, DedupConfig())
    chosen = find_duplicates(lambda rows: pixels[rows], rank, DedupConfig(), codes)
    result["verified"] = {
        "pairs": len(chosen.found.i),
        "kept": int(chosen.groups.keep.sum()),
        **chosen.found.summary,
    }
    result["verified"].update(
        recalls(pairs, set(zip(chosen.found.i.tolist(), chosen.found.j.tolist(), strict=True)))
    )
    result["pairs that only the codes proposed"] = len(chosen.found.i) - len(alone.found.i)
    for threshold in (0.8, 0.84, 0.88, LOOKED_AT, 0.92, 0.94, 0.96):
        at = (
            base
            if threshold == 0.8
            else find_duplicates(lambda rows: pixels[rows], rank, DedupConfig(threshold=threshold))
        )
        found_pairs = set(zip(at.found.i.tolist(), at.found.j.tolist(), strict=True))
        result["sweep"][str(threshold)] = {
            "pairs": len(found_pairs),
            "kept": int(at.groups.keep.sum()),
            **recalls(pairs, found_pairs),
        }
    test, train = np.arange(50_000, 60_000), np.arange(50_000)
    leaked = find_across(lambda rows: pixels[rows], len(pixels), test, train, DedupConfig())
    result["leakage"] = {"test images": len(np.unique(leaked.i)), "pairs": len(leaked.i)}
    result["injected duplicates"] = injected_recall(pixels[:5000], DedupConfig())
    (out / "numbers.json").write_text(json.dumps(result, indent=1) + "\n")
    if any(out.glob("verdicts*.csv")):
        print(
            f"{out} holds verdicts of the pairs that lie there: nothing is drawn. Another --out "
            "draws anew.",
            file=sys.stderr,
        )
        return result
    full_resolution = find_duplicates(
        lambda rows: pixels[rows], rank, DedupConfig(threshold=LOOKED_AT), codes
    )
    draw(pixels, full_resolution, np.arange(len(full_resolution.found.i)), "drawn", out)
    # One pair of each group: a series of fifty images makes a thousand pairs and would be half of a
    # draw from all pairs.
    out_of = full_resolution.groups.pair[~full_resolution.groups.keep]
    representatives = full_resolution.groups.representative[~full_resolution.groups.keep]
    order = numpy_stream(8, "dedup", "by eye").permutation(len(out_of))
    _, first = np.unique(representatives[order], return_index=True)
    draw(pixels, full_resolution, np.sort(out_of[order[first]]), "drawn_groups", out)
    return result


def judged(drawn: Path, path: Path) -> dict[str, Any]:
    """Precision of all drawn pairs, and of those accepted at several thresholds now, from verdicts
    (same | similar | different).
    """
    with open(drawn) as file:
        columns = list(csv.DictReader(file))
    score, detail, deformation = (
        np.array([float(row[name]) for row in columns])
        for name in ("score", "detail", "deformation")
    )
    with open(path) as file:
        verdicts = {int(line["number"]): line["verdict"] for line in csv.DictReader(file)}
    if sorted(verdicts) != list(range(DRAWN)):
        raise SystemExit(f"{path.name} judges {len(verdicts)} of {DRAWN} pairs")
    output = np.array([verdicts[number] for number in range(DRAWN)])
    asked = {
        f"accepted at {threshold}": required(detail, deformation, threshold)
        for threshold in (LOOKED_AT, 0.92, 0.94)
    }
    result = {}
    for name, least in {"all drawn": np.zeros(DRAWN), **asked}.items():
        at = output[score >= least - 1e-4]
        share = float((at == "same").mean())
        counts = {kind: int((at == kind).sum()) for kind in sorted(set(verdicts.values()))}
        interval = [round(bound, 4) for bound in wilson(share, len(at))]
        result[name] = {
            "drawn": len(at),
            "precision": round(share, 4),
            "95 % interval": interval,
            **counts,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder that holds cifar10/")
    parser.add_argument("--out", type=Path, default=Path("docs/dedup"))
    parser.add_argument(
        "--verdicts", type=Path, help="folder with verdicts.csv: print the precision and stop"
    )
    given = parser.parse_args()
    if given.verdicts:
        judges = {
            "verdicts.csv": "drawn.csv",
            "verdicts_blind.csv": "drawn.csv",
            "verdicts_groups.csv": "drawn_groups.csv",
            "verdicts_fresh.csv": "fresh.csv",
            "verdicts_fresh_groups.csv": "fresh_groups.csv",
        }
        print(
            json.dumps(
                {
                    name: judged(given.verdicts / drawn, given.verdicts / name)
                    for name, drawn in judges.items()
                },
                indent=1,
            )
        )
        return
    given.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(given.data, given.out), indent=1))


if __name__ == "__main__":
    main()
