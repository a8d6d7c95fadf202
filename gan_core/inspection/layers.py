"""Which layer and which pooling carries what a probe reads, from stored features.

Each layer's column is read as stored (the grid that the recipe pools to, 4 x 4 in the DCGAN paper),
and with the maximum and the average of that grid, which are read-outs of the whole image. The
average is one of stored values: of maxima where the recipe pools by maximum. Draws and validation
rows are those of evaluation at the same seed. Two things are left out: values beyond the grid, and,
with all labels, the fit that includes the validation rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gan_core import registry
from gan_core.config import EvaluateConfig, Section
from gan_core.errors import DataError
from gan_core.evaluation.split import split_table
from gan_core.features.parquet import feature_files, layer_shapes, read_features, read_rows
from gan_core.inspection.base import Context, Inspection, NotApplicable, Table
from gan_core.inspection.labelled import features_of
from gan_core.metrics.draws import Draw, best, draws_of
from gan_core.metrics.intervals import Interval, accuracy_interval
from gan_core.probes.base import accuracies_of

ABOUT = "accuracy of a probe by layer and by pooling, from stored features"
TITLE = "Layers and pooling"
VERSION = 1
ORDER = 55
DEFAULT = False  # a fit for each layer and pooling
NEEDS = ("features",)
EXAMPLES = ({"probe": "ridge", "labels": 4, "draws": 1},)

JOINED = "all joined"
STORED, MAXIMUM, AVERAGE = "as stored", "maximum", "average"
Half = npt.NDArray[np.float16]


class Options(Section):
    """The probe and its labels."""

    probe: str = Field("linear_svm", description="file name in gan_core/probes, or a dotted path")
    grid: list[float] = Field(default_factory=list, description="values tried; empty: the probe's")
    labels: int | Literal["all"] = Field(100, description="labels per class")
    draws: int = Field(3, ge=1, description="draws of labels below 'all'")


def inspect(context: Context, options: Options) -> Inspection:
    """Test accuracy with its interval for each layer and for all joined, by pooling."""
    folder = features_of(context)
    data = _Probe(folder, context.seed, options)
    shapes = layer_shapes(feature_files(folder)[0])
    parts: dict[str, list[Half]] = {MAXIMUM: [], AVERAGE: []}
    found: dict[str, dict[str, tuple[Interval, float]]] = {}
    for name, shape in shapes.items():
        values = read_features(folder, [name], data.split.rows)[0]
        maps = values.reshape(len(values), shape[0], -1)
        pooled = {
            MAXIMUM: maps.max(2),
            AVERAGE: maps.mean(2, dtype=np.float32).astype(np.float16),
        }
        found[name] = {STORED: data.score(values, context.device)}
        for how, one in pooled.items():
            found[name][how] = data.score(one, context.device)
            parts[how].append(one)
    whole = read_features(folder, None, data.split.rows)[0]
    found[JOINED] = {STORED: data.score(whole, context.device)}
    for how, several in parts.items():
        found[JOINED][how] = data.score(np.concatenate(several, 1), context.device)
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    sizes[JOINED] = sum(sizes.values())
    rows = [
        [name, f"{sizes[name]:,}", *(_words(interval) for interval, _ in one.values())]
        for name, one in found.items()
    ]
    # chosen on validation: the test split only scores it
    layer, pooling = max(
        ((name, how) for name, one in found.items() if name != JOINED for how in one),
        key=lambda place: found[place[0]][place[1]][1],
    )
    single = found[layer][pooling][0]
    how = "all labels" if options.labels == "all" else f"{options.labels} labels per class"
    title = registry.title("probes", options.probe)
    sentence = (
        f"With {how} and {title}, all layers joined reach {_words(found[JOINED][STORED][0])} as "
        f"stored, {_words(found[JOINED][MAXIMUM][0])} by the maximum and "
        f"{_words(found[JOINED][AVERAGE][0])} by the average over the image; of single layers, the "
        f"best on validation is {layer} ({pooling}): {_words(single)}."
    )
    table = Table(
        ["layer", "values", STORED, MAXIMUM, AVERAGE],
        rows,
        f"Test accuracy in percent with its 95 % interval: {title}, {how}, "
        f"{len(data.draws)} draw{'s' if len(data.draws) > 1 else ''}, {data.split.tests} test "
        "images. Maximum and average are over the stored grid.",
    )
    numbers: dict[str, Any] = {
        name: {
            how: {**interval.rounded(), "validation": round(validation, 6)}
            for how, (interval, validation) in one.items()
        }
        for name, one in found.items()
    }
    return Inspection(
        sentence,
        {"accuracy": numbers, "probe": options.probe, "labels": options.labels},
        tables=[table],
    )


def _words(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


class _Probe:
    """A probe fitted on draws of the labelled rows of a features artifact.

    Attributes: split: its rows; draws: of its pool.
    """

    def __init__(self, folder: Path, seed: int, options: Options) -> None:
        try:
            self.split = split_table(read_rows(folder), EvaluateConfig(), seed)
        except DataError as error:
            raise NotApplicable(
                "There are no labelled images of two classes in train and test."
            ) from error
        self.draws: list[Draw] = draws_of(
            self.split.pool_labels, [options.labels], options.draws, seed
        )[0]
        self._probe = registry.load("probes", options.probe)
        self._grid = [float(value) for value in options.grid or self._probe.GRID]
        self._seed = seed

    def score(self, features: Half, device: str) -> tuple[Interval, float]:
        """Test accuracy with its interval, and the mean validation accuracy of what was chosen."""
        labels, held, test = self.split.labels, self.split.held, self.split.test
        fitted = [
            self._probe.fit(
                features[draw.rows], labels[draw.rows], self._grid, seed=self._seed, device=device
            )
            for draw in self.draws
        ]
        validation = np.array(
            [accuracies_of(models, features[held], labels[held]) for models in fitted]
        )
        chosen = best(self._grid, validation)
        accuracies = [
            float((models[chosen].predict(features[test]) == labels[test]).mean())
            for models in fitted
        ]
        return accuracy_interval(accuracies, self.split.tests), float(validation[:, chosen].mean())
