"""Scores with intervals, differences to the baselines, and who is mistaken for whom: from the
evaluation's tables alone.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gan_core import registry
from gan_core.errors import RequestError
from gan_core.metrics.intervals import (
    Interval,
    accuracy_interval,
    difference_interval,
    unpaired_difference,
)
from gan_core.reporting.inputs import ReportInputs, label_names, read_tables
from gan_core.reporting.sentences import CHANCE, is_baseline

MOST_CLASSES = 20  # larger confusion matrices are no longer readable: the page lists pairs instead
MISTAKES_SHOWN = 24


def label_order(labels: str) -> tuple[int, int]:
    """Sorts '10', '100', 'all' by size."""
    return (1, 0) if not labels.isdigit() else (0, int(labels))


def score_rows(inputs: ReportInputs) -> list[dict[str, Any]]:
    """One entry for each (source, features, probe, labels): mean over draws with its 95 % interval,
    and what was chosen.

    The accuracies are those with all test images; `without_leaked` holds the ones without those
    that are in the training split too ({mean, low, high, half, test_rows}), None if they were
    not counted.
    """
    table = read_tables(inputs.cells, "scores.parquet")
    if table is None or not table.num_rows:
        return []
    cells: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        features = CHANCE if _is_reference(str(row["probe"])) else str(row["features"])
        cells.setdefault(
            (str(row["source"]), features, str(row["probe"]), str(row["labels"])), []
        ).append(row)
    rows = [_score(place, draws) for place, draws in cells.items()]
    return sorted(
        rows,
        key=lambda row: (
            row["source"],
            _rank(row["features"]),
            row["features"],
            row["probe"],
            label_order(row["labels"]),
        ),
    )


def _is_reference(probe: str) -> bool:
    """Whether a probe needs no features, so that it is scored once for each source."""
    with contextlib.suppress(RequestError):
        return bool(registry.literal("probes", probe, "REFERENCE", False))
    return False


def _rank(features: str) -> int:
    """What was learned first, then the baselines, then chance."""
    return 2 if features == CHANCE else int(is_baseline(features))


def _score(place: tuple[str, str, str, str], draws: list[dict[str, Any]]) -> dict[str, Any]:
    draws = sorted(draws, key=lambda row: int(row["draw"]))
    rest = [row for row in draws if row["test_set"] == "without_leaked"]
    draws = [row for row in draws if row["test_set"] == "all"]
    source, features, probe, labels = place
    # chance reads no features, whatever network they come from
    saw = features != CHANCE and next((row["saw_labels"] for row in draws if row["saw_labels"]), "")
    accuracies = [float(row["test_accuracy"]) for row in draws]
    test_rows = int(draws[0]["test_rows"] or 0)
    return {
        "source": source,
        "features": features,
        "probe": probe,
        "labels": labels,
        "label_count": int(draws[0]["label_count"]),
        "draws": len(draws),
        **accuracy_interval(accuracies, test_rows).rounded(),
        "sd": round(float(np.std(accuracies, ddof=1)), 6) if len(draws) > 1 else None,
        "validation": _mean(draws, "validation_accuracy"),
        "train": _mean(draws, "train_accuracy"),
        "chosen": sorted({float(row["chosen"]) for row in draws if row["chosen"] is not None}),
        "test_rows": test_rows,
        "classes": int(draws[0]["classes"]),
        "saw_labels": str(saw or ""),
        "without_leaked": _without_leaked(rest),
    }


def _without_leaked(draws: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not draws:
        return None
    left = int(draws[0]["test_rows"])
    return {
        **accuracy_interval([float(row["test_accuracy"]) for row in draws], left).rounded(),
        "test_rows": left,
    }


def _mean(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [float(row[name]) for row in rows if row[name] is not None]
    return round(float(np.mean(values)), 6) if values else None


def is_learned(features: str) -> bool:
    """Whether these features are a trained network's."""
    return features != CHANCE and not is_baseline(features)


class Predictions:
    """Who was predicted as what, by cell; the same test images in the same order for each cell that
    has all of them.
    """

    def __init__(self, inputs: ReportInputs) -> None:
        self._cells: dict[tuple[str, str, str, str], dict[int, pa.Table]] = {}
        names = ["features", "probe", "labels", "draw"]
        for folder in inputs.cells:
            scores = read_tables([folder], "scores.parquet", ["source"])
            table = read_tables([folder], "predictions.parquet")
            if table is None or scores is None or not scores.num_rows:
                continue
            source = str(scores["source"][0])
            table = table.sort_by([(name, "ascending") for name in ("draw", "image_id", "box")])
            for cell in table.group_by(names).aggregate([]).sort_by("draw").to_pylist():
                same = [pc.equal(table[name], cell[name]) for name in names]
                place = (source, cell["features"], cell["probe"], cell["labels"])
                rows = table.filter(functools.reduce(pc.and_, same))
                self._cells.setdefault(place, {})[int(cell["draw"])] = rows

    def draws(self, source: str, features: str, probe: str, labels: str) -> dict[int, pa.Table]:
        """Draw to predictions, sorted by image."""
        return self._cells.get((source, features, probe, labels), {})

    def paired(
        self, ours: tuple[str, str, str, str], theirs: tuple[str, str, str, str]
    ) -> Interval | None:
        """The difference where both cells scored the same images in the same draws; None where they
        did not.
        """
        return paired_difference(self.draws(*ours), self.draws(*theirs))


def paired_difference(first: dict[int, pa.Table], second: dict[int, pa.Table]) -> Interval | None:
    """The difference in accuracy of two cells, each draw to its predictions sorted by image; None
    where they are not of the same draws and images.
    """
    if not first or first.keys() != second.keys():
        return None
    rights: tuple[list[npt.NDArray[np.bool_]], list[npt.NDArray[np.bool_]]] = ([], [])
    for draw in sorted(first):
        a, b = first[draw], second[draw]
        if not (a["image_id"].equals(b["image_id"]) and a["box"].equals(b["box"])):
            return None
        for table, into in zip((a, b), rights, strict=True):
            into.append(pc.equal(table["label"], table["predicted"]).to_numpy(zero_copy_only=False))
    if len({len(row) for row in (*rights[0], *rights[1])}) != 1:
        return None
    return difference_interval(np.stack(rights[0]), np.stack(rights[1]))


def differences(rows: list[dict[str, Any]], predictions: Predictions) -> list[dict[str, Any]]:
    """Learned features minus each baseline, at equal probe and equal labels, with the verdict:
    above, below or level.
    """
    index = {(row["source"], row["features"], row["probe"], row["labels"]): row for row in rows}
    baselines = dict.fromkeys(row["features"] for row in rows if is_baseline(row["features"]))
    found = []
    for place, row in index.items():
        if not is_learned(row["features"]):
            continue
        for baseline in baselines:
            other = (place[0], baseline, place[2], place[3])
            if other not in index:
                continue
            paired = predictions.paired(place, other)
            gap = paired or unpaired_difference(_interval(row), _interval(index[other]))
            found.append(
                {
                    "source": row["source"],
                    "features": row["features"],
                    "probe": row["probe"],
                    "labels": row["labels"],
                    "baseline": baseline,
                    "paired": paired is not None,
                    "verdict": verdict(gap),
                    **gap.rounded(),
                }
            )
    return found


def verdict(gap: Interval) -> str:
    """'above', 'below' or 'level', decided on what is printed: an end within 0.05 points of zero
    does not clear it.
    """
    return "above" if round(gap.low, 3) > 0 else "below" if round(gap.high, 3) < 0 else "level"


def _interval(row: dict[str, Any]) -> Interval:
    return Interval(float(row["mean"]), float(row["low"]), float(row["high"]))


def headline(rows: list[dict[str, Any]], source: str | None = None) -> dict[str, Any] | None:
    """The cell that a report leads with: learned features, most labels, the probe that did best on
    the *validation* split.
    """
    learned = [
        row for row in rows if is_learned(row["features"]) and source in (None, row["source"])
    ]
    learned = learned or [
        row for row in rows if row["features"] != CHANCE and source in (None, row["source"])
    ]
    if not learned:
        return None
    most = max(label_order(row["labels"]) for row in learned)
    final = [row for row in learned if label_order(row["labels"]) == most]
    return max(
        final,
        key=lambda row: (
            row["validation"] if row["validation"] is not None else -1.0,
            row["probe"],
        ),
    )


def by_class(
    inputs: ReportInputs, cell: dict[str, Any] | None, predictions: Predictions
) -> dict[str, Any] | None:
    """Per-class accuracy and confusion of one cell, summed over its draws.

    Returns: classes (names), counts[true][predicted], accuracy per class, most frequent
        confusions, misclassified images (`_mistakes`); None without predictions.
    """
    if cell is None:
        return None
    draws = predictions.draws(cell["source"], cell["features"], cell["probe"], cell["labels"])
    if not draws:
        return None
    table = pa.concat_tables(list(draws.values()))
    true = table["label"].to_numpy().astype(np.int64)
    predicted = table["predicted"].to_numpy().astype(np.int64)
    classes = np.unique(np.concatenate([true, predicted]))
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (np.searchsorted(classes, true), np.searchsorted(classes, predicted)), 1)
    names = label_names(inputs).get(cell["source"], {})
    words = [names.get(int(label), str(label)) for label in classes]
    totals = counts.sum(axis=1)
    off = counts * (1 - np.eye(len(classes), dtype=np.int64))
    pairs = sorted(
        ((int(off[i, j]), i, j) for i, j in np.argwhere(off)),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    return {
        **{name: cell[name] for name in ("source", "features", "probe", "labels")},
        "draws": len(draws),
        "classes": words,
        "rows": totals.tolist(),
        "accuracy": [
            round(float(counts[i, i] / total), 6) if total else None
            for i, total in enumerate(totals)
        ],
        "counts": counts.tolist() if len(classes) <= MOST_CLASSES else None,
        "confusions": [
            {
                "true": words[i],
                "predicted": words[j],
                "count": n,
                "share": round(n / int(totals[i]), 6),
            }
            for n, i, j in pairs[:10]
        ],
        "mistakes": _mistakes(table, names),
    }


def _mistakes(table: pa.Table, names: dict[int, str]) -> dict[str, Any]:
    """The misclassified images of a cell.

    Returns: count: pairs of an image and a wrong answer; shown [{image_id, box, true, predicted,
        draws}]: the most frequent first, equal ones by image id, which is a hash.
    """
    keys = ["image_id", "box", "label", "predicted"]
    wrong = table.filter(pc.not_equal(table["label"], table["predicted"]))
    counts = wrong.group_by(keys).aggregate([([], "count_all")])
    order = [("count_all", "descending"), *((key, "ascending") for key in keys)]
    return {
        "count": counts.num_rows,
        "shown": [
            {
                "image_id": row["image_id"],
                "box": int(row["box"]),
                "true": names.get(int(row["label"]), str(row["label"])),
                "predicted": names.get(int(row["predicted"]), str(row["predicted"])),
                "draws": int(row["count_all"]),
            }
            for row in counts.sort_by(order).slice(0, MISTAKES_SHOWN).to_pylist()
        ],
    }
