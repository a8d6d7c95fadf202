"""Stage evaluate: one probe on one set of features, by a protocol that reads the test split once
(gan_core/evaluation).

Given dedup's leaked.parquet, every accuracy is counted a second time without the test images that
are in the training split too (ciFAIR; Barz and Denzler, J. Imaging 2020). The answers are the
same ones: which images leaked touches no fit and no choice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gan_core import schemas
from gan_core.contract import EvaluateRequest, StageOutcome, StageRequest
from gan_core.evaluation.scoring import Cell, Scoring, summary_by_labels
from gan_core.evaluation.split import split_table
from gan_core.features.parquet import read_features, read_lineage, read_rows
from gan_core.files import write_table
from gan_core.progress import Progress

CHOICES = pa.schema(
    [
        ("source", pa.string()),
        ("features", pa.string()),
        ("probe", pa.string()),
        ("labels", pa.string()),
        ("draw", pa.int32()),
        ("value", pa.float64()),
        ("validation_accuracy", pa.float64()),
        ("chosen", pa.bool_()),
        ("gap", pa.float64()),
    ]
)


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Writes `scores.parquet`, `predictions.parquet` (schemas.SCORES, PREDICTIONS) and
    `choices.parquet` (every value tried).

    Raises: DataError: no labels, one class only, no training or no test rows.
    """
    import torch

    job = EvaluateRequest.of(request)
    torch.set_num_threads(job.execution.threads)
    cell = _read(job)
    names = {
        "source": str(cell.rows["source"][0]),
        "features": job.name,
        "probe": job.probe.label,
    }
    scoring = Scoring(job.settings, job.probe, job.seed, job.execution.device, cell)
    results, saw = scoring.score_all(names, progress), saw_labels(job.features)
    classes = len(np.unique(cell.split.labels[: cell.split.train]))
    for row in results.scores:
        row |= {"saw_labels": saw, "classes": classes}
    for table, name in (
        (pa.Table.from_pylist(results.scores, schema=schemas.SCORES), "scores"),
        (pa.concat_tables(results.predictions), "predictions"),
        (pa.Table.from_pylist(results.choices, schema=CHOICES), "choices"),
    ):
        write_table(table, request.work / f"{name}.parquet")
    summary = {
        **names,
        "table": summary_by_labels(results.scores),
        "dims": int(cell.features.shape[1]),
        "classes": classes,
        "train_rows": cell.split.train,
        "validation_rows": cell.split.train - cell.split.pool,
        "test_rows": cell.split.tests,
        "test_split": cell.split.test_split,
        "leaked": None if cell.clean is None else int((~cell.clean).sum()),
        "saw_labels": saw,
    }
    return StageOutcome(
        counts={"in": len(cell.rows), "scored": len(cell.rows)},
        summary=summary,
        warnings=results.warnings,
    )


def saw_labels(folder: Path) -> str:
    """Which labels the network behind some features depends on, as their lineage says: '' none,
    'validation', 'training'.
    """
    return str((read_lineage(folder).get("network") or {}).get("saw_labels", ""))


def _read(job: EvaluateRequest) -> Cell:
    """Features of the labelled rows, with the test rows that leaked marked."""
    split = split_table(read_rows(job.features), job.settings, job.seed)
    features, rows = read_features(job.features, rows=split.rows)
    return Cell(split, rows, features, _clean(rows.slice(split.train), job.leaked))


def _clean(rows: pa.Table, leaked: tuple[Path, ...]) -> npt.NDArray[np.bool_] | None:
    """Which test rows are not in dedup's leaked.parquet; None when it was not given."""
    if not leaked:
        return None
    found: set[tuple[str, int]] = set()
    for folder in leaked:
        table = pq.read_table(folder / "leaked.parquet", columns=["image_id_a", "box_a"])
        found.update(zip(table["image_id_a"].to_pylist(), table["box_a"].to_pylist(), strict=True))
    crops = zip(rows["image_id"].to_pylist(), rows["box"].to_pylist(), strict=True)
    return np.array([crop not in found for crop in crops], np.bool_)
