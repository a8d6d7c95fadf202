"""Near-duplicates in any folder of pictures or Parquet set, without a pipeline: `discern dedup FOLDER [--against FOLDER]`.

The table has one row for every picture, the unreadable ones too.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gan_core.config import DedupConfig
from gan_core.dedup.across import find_across
from gan_core.dedup.autoencoder import SIDE
from gan_core.dedup.groups import Groups, preference
from gan_core.dedup.reading import Pictures, read_pictures
from gan_core.dedup.tables import Found
from gan_core.dedup.verified import find_copies
from gan_core.devices import cpu_cores
from gan_core.errors import DataError, RequestError
from gan_core.progress import Progress, silent

log = logging.getLogger(__name__)

PICTURES = pa.schema(
    [
        # the picture
        ("image_id", pa.string()),
        ("address", pa.string()),
        ("member", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        # 'ok', or 'failed' with the reason; a failed picture is kept: nobody knows what it shows
        ("status", pa.string()),
        # False: a copy of the picture named next
        ("keep", pa.bool_()),
        ("keeper_id", pa.string()),
        ("keeper_address", pa.string()),
        ("keeper_member", pa.string()),
        # of the pair (picture, keeper): 0 to 1, null for pictures that are kept; how they differ, or why reading failed
        ("score", pa.float32()),
        ("reason", pa.string()),
        # the keeper's id for all of a group, '' for a picture without copies
        ("group", pa.string()),
    ]
)


@dataclass(frozen=True)
class FolderResult:
    """What `dedup_pictures` found.

    Attributes:
        table: PICTURES, one row for every picture of the folder.
        counts: in, kept, duplicates, failed (among the kept).
        summary: figures of the search: plain JSON.
        warnings: sentences for a person.
        pictures, against: for a sheet (`gan_core.dedup.page`).
    """

    table: pa.Table
    counts: dict[str, int]
    summary: dict[str, Any]
    warnings: list[str]
    pictures: Pictures
    against: Pictures | None


def dedup_pictures(
    location: Path,
    config: DedupConfig | None = None,
    *,
    against: Path | None = None,
    dataset: str | None = None,
    workers: int = 0,
    max_megapixels: float = 100.0,
    progress: Progress = silent,
) -> FolderResult:
    """Finds the near-duplicates in a folder, or the pictures of a folder that already stand in another one.

    Args:
        location: a folder of pictures or of Parquet files, or one Parquet file.
        against: a second place; then a picture of `location` is a duplicate when it has a copy there, and copies within
            `location` do not count.
        dataset: kind of source ('folder', 'parquet', a name of gan_core/datasets); None looks.
        workers: threads that read; 0: one for each core.

    Raises:
        RequestError: nothing there, or a mode that needs a fitted hash.
        DataError: no picture that can be read.
    """
    config = config or DedupConfig()
    if config.mode != "verified":
        raise RequestError(
            f"A folder is deduplicated by looking at its pictures; the mode {config.mode!r} needs the codes of a recipe's hash.",
            expected="mode 'verified'",
            remedy="leave out the mode, or use `discern prepare folder --data PATH --set dedup.mode=paper`",
        )
    with tempfile.TemporaryDirectory(prefix="discern-dedup-") as scratch:
        ours = read_pictures(location, "folder", dataset, workers or cpu_cores(), max_megapixels, Path(scratch), progress)
        if not len(ours.usable):
            raise DataError(
                f"None of the {len(ours.ids)} files in {str(location)!r} could be read as a picture.",
                expected="pictures (JPEG, PNG, WebP, GIF, BMP, TIFF, ...)",
                remedy=f"the first one: {ours.problems[0]}" if ours.problems else "name another folder",
            )
        if against is None:
            return _within(ours, config, progress)
        theirs = read_pictures(against, "against", None, workers or cpu_cores(), max_megapixels, Path(scratch), progress)
        return _between(ours, theirs, config, progress)


def _within(ours: Pictures, config: DedupConfig, progress: Progress) -> FolderResult:
    usable = ours.usable
    areas = ours.sizes[usable].astype(np.int64).prod(axis=1)
    rank = preference(areas, np.array([ours.ids[at] for at in usable.tolist()]), np.zeros(len(usable), np.int32))
    copies = find_copies(lambda rows: ours.thumbnails[usable[rows]], rank, config, progress=progress)
    keeper = np.arange(len(ours.ids))
    keeper[usable] = usable[copies.groups.keeper]
    pair = np.full(len(ours.ids), -1, np.int64)
    pair[usable] = copies.groups.pair
    table = _table(ours, ours, keeper, pair, copies.found, np.bincount(keeper, minlength=len(keeper))[keeper] > 1)
    return _result(ours, None, table, _sizes(copies.groups) | copies.found.summary, config)


def _between(ours: Pictures, theirs: Pictures, config: DedupConfig, progress: Progress) -> FolderResult:
    queries, targets = ours.usable, theirs.usable
    count = len(queries) + len(targets)

    def fetch(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        out = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
        first = rows < len(queries)
        out[first] = ours.thumbnails[queries[rows[first]]]
        out[~first] = theirs.thumbnails[targets[rows[~first] - len(queries)]]
        return out

    found = find_across(fetch, count, np.arange(len(queries)), np.arange(len(queries), count), config, progress)
    keeper = np.full(len(ours.ids), -1, np.int64)
    pair = np.full(len(ours.ids), -1, np.int64)
    best = np.lexsort((found.j, -found.score, found.i))
    rows, first = np.unique(found.i[best], return_index=True)
    pair[queries[rows]] = best[first]
    keeper[queries[rows]] = targets[found.j[best[first]] - len(queries)]
    table = _table(ours, theirs, keeper, pair, found, keeper >= 0)
    return _result(ours, theirs, table, found.summary, config)


def _table(
    ours: Pictures,
    theirs: Pictures,
    keeper: npt.NDArray[np.int64],
    pair: npt.NDArray[np.int64],
    found: Found,
    grouped: npt.NDArray[np.bool_],
) -> pa.Table:
    """The table of PICTURES; `keeper` numbers pictures of `theirs`, -1 for none."""
    hit = pair >= 0
    chosen = keeper.tolist()
    reasons = [found.reason[at] if at >= 0 else problem for at, problem in zip(pair.tolist(), ours.problems, strict=True)]
    # A picture that is kept in its own set is its own keeper; without a copy in another set it has none.
    keepers = [(theirs.ids[at], theirs.addresses[at], theirs.members[at]) if at >= 0 else ("", "", "") for at in chosen]
    score = np.zeros(len(pair), np.float32)
    score[hit] = found.score[pair[hit]]
    columns = {
        "image_id": ours.ids,
        "address": ours.addresses,
        "member": ours.members,
        "width": ours.sizes[:, 0],
        "height": ours.sizes[:, 1],
        "status": ["failed" if problem else "ok" for problem in ours.problems],
        "keep": ~hit,
        "keeper_id": [one[0] for one in keepers],
        "keeper_address": [one[1] for one in keepers],
        "keeper_member": [one[2] for one in keepers],
        "score": pa.array(score, pa.float32(), mask=~hit),
        "reason": reasons,
        "group": [theirs.ids[at] if more else "" for at, more in zip(chosen, grouped.tolist(), strict=True)],
    }
    return pa.table(columns).cast(PICTURES)


def _sizes(groups: Groups) -> dict[str, Any]:
    from gan_core.dedup.tables import size_report

    return size_report(groups)


def _result(
    ours: Pictures, theirs: Pictures | None, table: pa.Table, summary: dict[str, Any], config: DedupConfig
) -> FolderResult:
    kept = int(np.asarray(table["keep"]).sum())
    failed = sum(bool(problem) for problem in ours.problems)
    warnings = list(ours.source.warnings) + (list(theirs.source.warnings) if theirs else [])
    if failed:
        first = next(at for at, problem in enumerate(ours.problems) if problem)
        warnings.append(
            f"{failed:,} of {len(ours.ids):,} pictures could not be read (the first: {ours.addresses[first]}, "
            f"{ours.problems[first]}); their rows say status 'failed' and why."
        )
    if summary["threshold"] > config.threshold:
        warnings.append(
            f"Different pictures here agree in their details (typically {summary['background']['mode']:.2f}), so the threshold "
            f"for copies was raised from {config.threshold:.2f} to {summary['threshold']:.2f}."
        )
    counts = {"in": len(ours.ids), "kept": kept, "duplicates": len(ours.ids) - kept, "failed": failed}
    log.info("dedup: %d pictures, %d copies", counts["in"], counts["duplicates"])
    return FolderResult(table, counts, summary, warnings, ours, theirs)
