"""Stage dedup: which training crops are near-duplicates of which, and which one of each group is
kept. Ids only.

Writes duplicates.parquet (schemas.DUPLICATES, one row for every usable crop of the training rows),
pairs.parquet (gan_core.dedup.tables.PAIRS, one row for every pair found among them), leaked.parquet
(PAIRS: a is in the test or validation split, b in the training split; mode verified only, empty
otherwise) and quality.json (gan_core.dedup.measure.quality: what the search is worth). What leaks
is reported, never removed.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gan_core.config import DedupConfig
from gan_core.contract import DedupRequest, StageOutcome, StageRequest
from gan_core.dedup import tables
from gan_core.dedup.groups import Groups, representative_balls
from gan_core.dedup.hashing.autoencoder import Autoencoder
from gan_core.dedup.hashing.codes import BITS, health
from gan_core.dedup.hashing.group_by_code import group_by_code
from gan_core.dedup.measure import leakage, quality
from gan_core.dedup.measure.injected_duplicates import injected_recall
from gan_core.dedup.search.find_duplicates import find_duplicates
from gan_core.dedup.tables import Found
from gan_core.devices import cpu_cores, use_threads
from gan_core.errors import StoreError
from gan_core.files import write_json, write_table
from gan_core.progress import Progress
from gan_core.shards import PixelShards

log = logging.getLogger(__name__)


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Finds the duplicates by the recipe's mode; `in` = `kept` + `duplicates`.

    Raises:
        DataError: no usable training crop.
    """
    job = DedupRequest.of(request)
    config = job.settings
    _use_threads(job.execution.threads)
    shards = PixelShards(job.crops)
    training = shards.training_rows("to search for duplicates")
    crops = shards.table.take(training)
    rank = tables.ranks(crops)
    groups, found, quality = _find(job, shards, training, rank, progress)

    score = np.zeros(len(training), np.float32)
    reason = [""] * len(training)
    for row in np.flatnonzero(groups.pair >= 0).tolist():
        pair = groups.pair[row]
        score[row], reason[row] = found.score[pair], found.reason[pair]
    write_table(
        tables.duplicates_table(crops, groups, score, reason), request.work / "duplicates.parquet"
    )
    write_table(tables.pairs_table(crops, found), request.work / "pairs.parquet")
    write_json(request.work / "quality.json", {"mode": config.mode, **quality})

    leaks = _leaked(config, shards, request.work, progress)
    kept = int(groups.keep.sum())
    progress(len(training), len(training), "images")
    log.info("dedup (%s): %d of %d rows are kept", config.mode, kept, len(training))
    summary: dict[str, Any] = {
        "mode": config.mode,
        "pairs": len(found.i),
        "left_out_share": round(1 - kept / len(training), 6),
    }
    summary |= {**tables.size_report(groups), **found.summary, **leaks}
    return StageOutcome(
        counts={"in": len(training), "kept": kept, "duplicates": len(training) - kept},
        summary=summary,
        warnings=_warnings(summary, config, len(training)),
    )


def _find(
    job: DedupRequest,
    shards: PixelShards,
    training: npt.NDArray[np.int64],
    rank: npt.NDArray[np.int64],
    progress: Progress,
) -> tuple[Groups, Found, dict[str, Any]]:
    """The groups and pairs of the training rows, by the mode, and what the search is worth."""
    config = job.settings
    if config.mode == "off":
        nothing = np.empty(0, np.int64)
        return (
            representative_balls(nothing, nothing, rank),
            Found(nothing, nothing, np.empty(0, np.float32), []),
            {},
        )
    codes = _codes(job.codes, shards)[training]
    some = quality.spaced(training, quality.AMONG_IMAGES)

    def fetch(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return shards.pixels(training[rows])

    def injected(**given: Any) -> dict[str, Any]:
        each = quality.duplicates_per_kind(len(some))
        return injected_recall(shards.pixels(some), config, each, **given)

    if config.mode == "verified":
        duplicates = find_duplicates(fetch, rank, config, codes, progress)
        worth: dict[str, Any] = {}
        if config.measure:
            worth = {
                "sweep": quality.sweep(duplicates, rank),
                "look_alikes": quality.look_alikes(fetch, duplicates, config),
                "injected": injected(),
            }
        return duplicates.groups, duplicates.found, worth
    radius = 0 if config.mode == "paper" else config.radius
    groups, found = group_by_code(codes, rank, radius)
    worth = {"health": health(codes, config.max_group)}
    if config.measure:
        encoder = Autoencoder.load(job.codes[0] / "encoder.safetensors")

        def search(images: npt.NDArray[np.uint8]) -> tuple[Groups, Found]:
            return group_by_code(encoder.encode(images), np.arange(len(images)), radius)

        worth["unconfirmed"] = {
            "threshold": config.threshold,
            **quality.unconfirmed(fetch, found, config.threshold),
        }
        worth["injected"] = injected(search=search)
        worth["sweep"] = [
            {
                "radius": one,
                **quality.counts(*group_by_code(codes, rank, one)),
                "used": one == radius,
            }
            for one in sorted({0, 1, 2, 3, 4, radius})
        ]
    return groups, found, worth


def _use_threads(count: int) -> None:
    """Gives torch, OpenCV and FAISS (optional in mode off) `count` threads, 0: one for each core;
    sums depend on it.
    """
    use_threads(count or cpu_cores())
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(count or cpu_cores())


def _leaked(
    config: DedupConfig, shards: PixelShards, work: Path, progress: Progress
) -> dict[str, Any]:
    """Searches the training rows for the held-out rows, writes the pairs, and returns figures for
    the summary.
    """
    empty = tables.Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), [])
    found, figures = empty, {}
    splits = shards.table["split"].to_pylist()
    if config.mode == "verified" and config.leakage and any(split != "train" for split in splits):
        searched = leakage.find_leakage(shards.pixels, splits, config, progress)
        found, figures = searched.found, {"leakage": searched.summary["splits"]}
    write_table(tables.pairs_table(shards.table, found), work / "leaked.parquet")
    return figures


def _codes(folders: Sequence[Path], shards: PixelShards) -> npt.NDArray[np.uint8]:
    """The codes of the crops' rows, in their order: uint8 [n, 16]."""
    table = pa.concat_tables([pq.read_table(folder / "codes.parquet") for folder in folders])
    wanted = list(
        zip(shards.table["image_id"].to_pylist(), shards.table["box"].to_pylist(), strict=True)
    )
    given = list(zip(table["image_id"].to_pylist(), table["box"].to_pylist(), strict=True))
    if given != wanted:
        place = {key: row for row, key in enumerate(given)}
        missing = sum(key not in place for key in wanted)
        if missing:
            raise StoreError(
                f"{missing} of {len(wanted)} crops have no code.",
                expected="codes.parquet with a row for every usable crop",
                remedy="run with `--refresh hash`",
            )
        table = table.take(pa.array([place[key] for key in wanted], pa.int64()))
    column = table["code"].combine_chunks()
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, BITS // 8)


def _warnings(summary: dict[str, Any], config: DedupConfig, rows: int) -> list[str]:
    out = []
    if config.mode == "verified" and summary["threshold"] > config.threshold:
        out.append(
            "Different images of this set agree in their details (typically "
            f"{summary['background']['mode']:.2f}), so the "
            f"threshold for duplicates was raised from {config.threshold:.2f} to "
            f"{summary['threshold']:.2f}."
        )
    if config.mode == "verified" and rows >= 100 and summary["background"]["above"] > 0.5:
        out.append(
            f"{100 * summary['background']['above']:.0f} % of the nearest images agree at "
            f"{config.threshold:.2f} or more: the set "
            "is made of bursts, or of different images of one template (documents, slides, "
            "symbols), which 32 pixels cannot distinguish; "
            "inspect the removed ones, or set dedup.mode to off."
        )
    if config.mode == "verified" and rows >= 100 and summary["left_out_share"] > 0.2:
        out.append(
            f"{100 * summary['left_out_share']:.0f} % of the images count as duplicates of others: "
            "inspect the removed ones in the "
            "report; raise dedup.threshold if they are different images."
        )
    for split, figures in summary.get("leakage", {}).items():
        if figures["leaked"]:
            out.append(
                f"{figures['leaked']:,} of {figures['rows']:,} {split} images are also in the "
                "training split (leaked.parquet): "
                "scores on them say less."
            )
    if summary["largest_group"] > config.max_group:
        out.append(
            f"The largest group holds {summary['largest_group']:,} of {rows:,} images, more than "
            "dedup.max_group "
            f"({config.max_group:,}): inspect it in duplicates.parquet before trusting the rest."
        )
    return out
