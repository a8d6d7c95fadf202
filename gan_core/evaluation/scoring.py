"""Choices on the validation split and scores on the test split of one probe on one set of features.

A value of the probe's setting is chosen for each number of labels by the mean accuracy, over the
draws, on the validation split. Then the chosen models answer the test split. With all labels the
chosen value is fitted once more on all training rows, validation included.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gan_core import registry, schemas
from gan_core.config import EvaluateConfig, ProbeConfig, Section
from gan_core.errors import DataError
from gan_core.evaluation.split import Split, split_arrays
from gan_core.metrics.draws import Draw, best, draws_of
from gan_core.metrics.intervals import accuracy_interval
from gan_core.probes.base import Features, Labels, Model, accuracies_of, not_finite
from gan_core.probes.prepare import prepare
from gan_core.progress import Progress, silent

log = logging.getLogger(__name__)

EXTENSIONS = 1  # values tried beyond the grid, one at a time, while the best is at its end
UNSOLVED = 0.01  # relative gap from which a fit counts as not solved; the probes aim at 1e-4


@dataclass
class Cell:
    """What is known of a cell before a probe is fitted.

    Attributes:
        rows: columns image_id and box, in the order of the split.
        features: [rows, dims].
        clean: bool for each test row, False for the leaked ones; None when it was not asked for.
    """

    split: Split
    rows: pa.Table
    features: Features
    clean: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        _check_finite(self.features, self.rows)

    def part(self, rows: slice) -> tuple[Features, Labels]:
        return self.features[rows], self.split.labels[rows]

    def rows_of(self, draw: Draw) -> tuple[Features, Labels]:
        """The training rows of a draw (positions below `pool` are the pool's); the whole pool and
        all of them are views.
        """
        if len(draw.rows) in (self.split.pool, self.split.train):
            return self.part(slice(len(draw.rows)))
        return self.features[draw.rows], self.split.labels[draw.rows]


def _check_finite(features: Features, rows: pa.Table) -> None:
    """Raises DataError for features that are not finite: a probe would answer them without an
    error.
    """
    wrong = not_finite(features)
    if len(wrong):
        listed = ", ".join(rows["image_id"].take(pa.array(wrong[:5])).to_pylist()) + (
            ", ..." if len(wrong) > 5 else ""
        )
        raise DataError(
            f"The features of {len(wrong)} of {len(features)} images are not finite (NaN or "
            f"infinite): image ids {listed}.",
            expected="finite features",
            remedy=(
                "repeat the extraction with --refresh extract, which names the layer; a network "
                "that has diverged gives no others"
            ),
        )


@dataclass
class Results:
    """Rows of the three tables, as they come."""

    warnings: list[str] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[pa.Table] = field(default_factory=list)


@dataclass
class Scoring:
    """Fits, choices and test scores of one probe on one set of features."""

    protocol: EvaluateConfig
    settings: ProbeConfig
    seed: int
    device: str
    cell: Cell
    results: Results = field(default_factory=Results)

    def __post_init__(self) -> None:
        cell = self.cell
        cell.features = prepare(cell.features, self.settings.prepare, cell.split.train)

    @property
    def probe(self) -> ModuleType:
        """The probe's module."""
        return registry.load("probes", self.settings.name)

    @functools.cached_property
    def options(self) -> Section | None:
        """The probe's options; None for a probe that has none."""
        options = registry.options("probes", self.settings.name, self.settings.options)
        return options if type(options).model_fields else None

    def score_all(self, names: dict[str, str], progress: Progress) -> Results:
        """Every number of labels of the protocol."""
        cell, protocol = self.cell, self.protocol
        draws, warnings = draws_of(
            cell.split.pool_labels, protocol.labels_per_class, protocol.draws, self.seed
        )
        self.results.warnings += warnings
        if cell.clean is not None and not cell.clean.any():
            self.results.warnings.append(
                "Every test image is in the training split too: there is no accuracy without them."
            )
        by_labels: dict[str, list[Draw]] = {}
        for draw in draws:
            by_labels.setdefault(draw.labels, []).append(draw)
        for number, (labels, same) in enumerate(by_labels.items()):
            self.score(same, {**names, "labels": labels})
            progress(number + 1, len(by_labels), "numbers of labels")
        return self.results

    def fit(self, draw: Draw, values: list[float]) -> list[Model]:
        """A model of each value on the rows of a draw."""
        features, labels = self.cell.rows_of(draw)
        given = {"options": self.options} if self.options is not None else {}
        found: list[Model] = self.probe.fit(
            features, labels, values, seed=self.seed, device=self.device, **given
        )
        return found

    def score(self, draws: Sequence[Draw], names: dict[str, str]) -> None:
        """One number of labels: fits every value on every draw, chooses on validation, reads the
        test split with the chosen ones.
        """
        values, fitted, accuracies = self.try_values(draws, names)
        chosen = best(values, accuracies)
        for number, draw in enumerate(draws):
            for index, value in enumerate(values):
                row = {
                    "draw": draw.number,
                    "value": value,
                    "validation_accuracy": accuracies[number, index],
                    "chosen": index == chosen,
                    "gap": fitted[number][index].certificate.get("gap"),
                }
                self.results.choices.append({**names, **row})
        self.warn(values, accuracies, chosen, fitted, names)
        for draw, model, validation in self.scored(
            draws, values[chosen], chosen, fitted, accuracies
        ):
            self.read_test(draw, model, validation, values[chosen], names)

    def try_values(
        self, draws: Sequence[Draw], names: dict[str, str]
    ) -> tuple[list[float], list[list[Model]], npt.NDArray[np.float64]]:
        """The values of the grid, and those beyond its end while the best one is there: (values,
        models [draws][values], validation accuracies [draws, values]).
        """
        held, held_labels = self.cell.part(self.cell.split.held)
        values = [float(value) for value in (self.settings.grid or self.probe.GRID)]
        fitted: list[list[Model]] = [[] for _ in draws]
        accuracies = np.zeros((len(draws), 0))
        tried = list(values)
        for step in range(EXTENSIONS + 1):
            more = np.zeros((len(draws), len(tried)))
            for number, draw in enumerate(draws):
                models = self.fit(draw, tried)
                more[number] = accuracies_of(models, held, held_labels)
                fitted[number] += models
            accuracies = np.concatenate([accuracies, more], axis=1)
            chosen = best(values, accuracies)
            further = _beyond_edge(self.probe, values, accuracies, chosen)
            if further is None or step == EXTENSIONS:
                break
            log.info(
                "%s / %s at %s labels: the best %s is %g, the end of the grid; %g is tried as well",
                *(names[name] for name in ("features", "probe", "labels")),
                self.probe.SETTING,
                values[chosen],
                further,
            )
            tried = [further]
            values.append(further)
        return values, fitted, accuracies

    def scored(
        self,
        draws: Sequence[Draw],
        value: float,
        chosen: int,
        fitted: list[list[Model]],
        accuracies: npt.NDArray[np.float64],
    ) -> list[tuple[Draw, Model, float]]:
        """The models of the chosen value that read the test split, with their validation accuracy.

        With all labels one more model, fitted on the validation rows as well; with `final_draws`
        models of draws that no choice has seen, as the DCGAN authors' script makes them.
        """
        cell, count = self.cell, self.protocol.final_draws
        if draws[0].labels == "all":
            whole = Draw("all", 0, np.arange(cell.split.train))
            return [(whole, self.fit(whole, [value])[0], float(accuracies[0, chosen]))]
        if not count:
            return [
                (draw, models[chosen], float(accuracies[draw.number, chosen]))
                for draw, models in zip(draws, fitted, strict=True)
            ]
        held, held_labels = cell.part(cell.split.held)
        number = int(draws[0].labels)
        found: list[tuple[Draw, Model, float]] = []
        for draw in draws_of(cell.split.pool_labels, [number], count, self.seed, "final")[0]:
            model = self.fit(draw, [value])[0]
            found.append((draw, model, float((model.predict(held) == held_labels).mean())))
        return found

    def read_test(
        self, draw: Draw, model: Model, validation: float, value: float, names: dict[str, str]
    ) -> None:
        """The rows of scores and predictions of one model."""
        cell = self.cell
        features, labels = cell.rows_of(draw)
        test, test_labels = cell.part(cell.split.test)
        answer = model.predict(test)
        row = {
            **names,
            "label_count": len(labels),
            "draw": draw.number,
            "chosen": value,
            "validation_accuracy": validation,
            "train_accuracy": float((model.predict(features) == labels).mean()),
        }
        for test_set, right in _by_test_set(cell, answer == test_labels):
            figures = {
                "test_set": test_set,
                "test_rows": len(right),
                "test_accuracy": float(right.mean()),
            }
            self.results.scores.append({**row, **figures})
        self.results.predictions.append(_predictions(cell, names, draw.number, answer))

    def warn(
        self,
        values: list[float],
        accuracies: npt.NDArray[np.float64],
        chosen: int,
        fitted: list[list[Model]],
        names: dict[str, str],
    ) -> None:
        """Warns where the best value is at the end of the grid even after `EXTENSIONS` steps, and
        of a fit that stopped before its optimum: its accuracy is that of another model.
        """
        where = f"{names['features']} / {names['probe']} at {names['labels']} labels: the"
        if _beyond_edge(self.probe, values, accuracies, chosen) is not None:
            end = "smallest" if values[chosen] == min(values) else "largest"
            self.results.warnings.append(
                f"{where} best {self.probe.SETTING} is the {end} tried ({values[chosen]:g}) after "
                f"{EXTENSIONS} steps beyond the grid; a wider grid may give more."
            )
        for index, value in enumerate(values):
            gap = max(models[index].certificate.get("gap", 0.0) for models in fitted)
            if gap > UNSOLVED:
                self.results.warnings.append(
                    f"{where} fit with {self.probe.SETTING} = {value:g} stopped where its "
                    f"objective may be {gap:.0%} above the optimum; float32 does not reach it on "
                    "these features: try smaller values."
                )


def evaluate_arrays(
    features: Features,
    labels: Labels,
    split: Sequence[str],
    protocol: EvaluateConfig,
    probe: ProbeConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, dict[str, Any]]:
    """The scores of features that lie in memory, by the stage's protocol.

    Args:
        features: float [rows, dims].
        labels: int64 [rows].
        split: 'train' or 'test' for each row; rows of other splits are left out.

    Returns: number of labels per class ('10', 'all') to mean test accuracy, its 95 % interval,
        the chosen value and the validation accuracy.
    Raises: DataError: one class only, no training or no test rows, features that are not finite.
    """
    parts = split_arrays(labels, split, protocol.validation, seed)
    ids = pa.table({"image_id": [str(row) for row in parts.rows], "box": [0] * len(parts.rows)})
    cell = Cell(parts, ids, features[parts.rows])
    names = {"source": "", "features": "given", "probe": probe.label}
    results = Scoring(protocol, probe, seed, device, cell).score_all(names, progress)
    for warning in results.warnings:
        log.warning("%s", warning)
    return summary_by_labels(results.scores)


def _by_test_set(
    cell: Cell, right: npt.NDArray[np.bool_]
) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """The right and wrong answers by set of test images: 'all', and 'without_leaked' where it was
    asked for and any are left.
    """
    if cell.clean is None or not cell.clean.any():
        return [("all", right)]
    return [("all", right), ("without_leaked", right[cell.clean])]


def _beyond_edge(
    module: ModuleType, values: list[float], accuracies: npt.NDArray[np.float64], chosen: int
) -> float | None:
    """The next value beyond the grid where the best one is its end and better than all others;
    None where it is not, or where the probe has no such value. The step is the grid's own ratio.
    """
    means, order = accuracies.mean(axis=0), np.argsort(values)
    others = np.delete(means, chosen)
    if not len(others) or means[chosen] <= others.max() or chosen not in order[[0, -1]]:
        return None
    neighbour = values[order[1] if chosen == order[0] else order[-2]]
    further = float(f"{values[chosen] * values[chosen] / neighbour:.6g}")
    further = round(further) if getattr(module, "WHOLE", False) else further
    least, above = getattr(module, "LEAST", -np.inf), getattr(module, "ABOVE", -np.inf)
    if further in values or further <= above:
        return None
    return None if values[chosen] <= least else max(further, least)


def _predictions(cell: Cell, names: dict[str, str], draw: int, answer: Labels) -> pa.Table:
    """Rows of predictions.parquet for one draw."""
    rows = cell.rows.slice(cell.split.train)
    count = rows.num_rows
    columns: dict[str, Any] = {
        "image_id": rows["image_id"],
        "box": rows["box"],
        **{
            name: pa.array([names[name]] * count, pa.string())
            for name in ("features", "probe", "labels")
        },
        "draw": pa.array(np.full(count, draw, np.int32)),
        "label": pa.array(cell.split.labels[cell.split.test].astype(np.int32)),
        "predicted": pa.array(answer.astype(np.int32)),
    }
    return pa.table(
        [columns[name] for name in schemas.PREDICTIONS.names], schema=schemas.PREDICTIONS
    )


def summary_by_labels(scores: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per number of labels: mean test accuracy and its 95 % interval (over draws and over the test
    images).
    """
    table: dict[str, dict[str, Any]] = {}
    for labels in dict.fromkeys(row["labels"] for row in scores):
        same = [row for row in scores if row["labels"] == labels and row["test_set"] == "all"]
        rest = [
            row for row in scores if row["labels"] == labels and row["test_set"] == "without_leaked"
        ]
        accuracies = [row["test_accuracy"] for row in same]
        table[labels] = {
            **accuracy_interval(accuracies, same[0]["test_rows"]).rounded(),
            "draws": len(same),
            "sd": round(float(np.std(accuracies, ddof=1)), 6) if len(same) > 1 else None,
            "spread": round(1.96 * float(np.std(accuracies, ddof=1)), 6) if len(same) > 1 else None,
            "label_count": same[0]["label_count"],
            "chosen": same[0]["chosen"],
            "validation": round(float(np.mean([row["validation_accuracy"] for row in same])), 6),
        }
        if rest:
            clean = accuracy_interval([row["test_accuracy"] for row in rest], rest[0]["test_rows"])
            table[labels]["without_leaked"] = {**clean.rounded(), "test_rows": rest[0]["test_rows"]}
    return table
