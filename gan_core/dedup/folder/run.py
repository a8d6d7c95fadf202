"""Near-duplicates in any folder of images or Parquet set, without a pipeline: `discern dedup FOLDER
[--against FOLDER]`.

The table has one row for every image, the unreadable ones too.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gan_core.config import DedupConfig
from gan_core.dedup.folder.families import (
    Assignment,
    families,
    folder_tier,
    refuse_empty_folders,
    representative_rank,
)
from gan_core.dedup.folder.full_resolution import Originals
from gan_core.dedup.folder.hardlinks import is_real, kind_of
from gan_core.dedup.folder.overlays import overlay_pairs, tie_overlays
from gan_core.dedup.folder.read import Images, read_images
from gan_core.dedup.groups import Groups
from gan_core.dedup.hashing import SIDE
from gan_core.dedup.search.across_sets import find_across
from gan_core.dedup.search.descriptors import describe
from gan_core.dedup.search.find_duplicates import find_duplicates
from gan_core.dedup.tables import size_report
from gan_core.devices import cpu_cores
from gan_core.errors import DataError, RequestError
from gan_core.progress import Progress, silent

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]

OpenOriginals = Callable[[Sequence[tuple[Images, Rows]]], Originals]

LARGE_SHARE = 0.2  # more duplicates than this are worth checking before anything is deleted ...
FEW = 10  # ... in sets of at least so many

IMAGES = pa.schema(
    [
        # the image
        ("image_id", pa.string()),
        ("address", pa.string()),
        ("member", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        # 'ok', or 'failed' with the reason; a failed image is kept, its content is unknown
        ("status", pa.string()),
        # False: a duplicate of the image named next
        ("keep", pa.bool_()),
        ("representative_id", pa.string()),
        ("representative_address", pa.string()),
        ("representative_member", pa.string()),
        # of the pair (image, representative): 0 to 1, null for images that are kept; how they
        # differ, or
        # why reading failed
        ("score", pa.float32()),
        ("reason", pa.string()),
        # the representative's id for all of a group, '' for an image without duplicates
        ("group", pa.string()),
    ]
)


@dataclass(frozen=True)
class FolderResult:
    """What `dedup_images` found.

    Attributes:
        table: IMAGES, one row for every image of the folder.
        counts: in, kept, duplicates, failed (among the kept), links (among the duplicates: further
            names of one file).
        summary: figures of the search: plain JSON.
        warnings: sentences for a person.
        ignored: {place: {kind: files}} that are no images of the set; places without any are left
            out.
        images, against: for a sheet (`gan_core.dedup.folder.html`).
    """

    table: pa.Table
    counts: dict[str, int]
    summary: dict[str, Any]
    warnings: list[str]
    ignored: dict[str, dict[str, int]]
    images: Images
    against: Images | None


def dedup_images(
    location: Path,
    config: DedupConfig | None = None,
    *,
    against: Path | None = None,
    dataset: str | None = None,
    workers: int = 0,
    max_megapixels: float = 100.0,
    keep: str = "best",
    prefer: Sequence[str] = (),
    overlays: bool = False,
    progress: Progress = silent,
) -> FolderResult:
    """Finds the near-duplicates in a folder, or the images of a folder that are already in
    another one.

    Args:
        location: a folder of images or of Parquet files, or one Parquet file.
        against: a second place; then an image of `location` is a duplicate when it has a duplicate
            there, and duplicates within `location` do not count.
        dataset: kind of source of `location` ('folder', 'parquet', a name of gan_core/datasets);
            None: found out from the files.
        keep: which image of a group represents it: 'best' (the best source, `best_source`),
            'largest', 'oldest' or 'first' (`families.representative_rank`).
        prefer: folders within `location` whose images are kept before all others.
        overlays: an image with text or a logo on it is a duplicate of the one without, even where
            that hides most of it (`gan_core/dedup/search/overlays.py`).
        workers: threads or processes that read; 0: one for each core.

    Raises:
        RequestError: nothing there, one place given twice, a preferred folder without an image, or
            a mode that needs a fitted hash.
        DataError: no image that can be read, in either place.
    """
    config = config or DedupConfig()
    if config.mode != "verified":
        raise RequestError(
            f"A folder is deduplicated by looking at its images; the mode {config.mode!r} needs "
            "the codes of a recipe's hash.",
            expected="mode 'verified'",
            remedy=(
                "leave out the mode, or use `discern prepare folder --data PATH --set "
                "dedup.mode=paper`"
            ),
        )
    if (
        against is not None
        and location.exists()
        and against.exists()
        and location.samefile(against)
    ):
        raise RequestError(
            f"{str(location)!r} and --against {str(against)!r} are the same place: every image "
            "is in it.",
            expected="another set",
            remedy="leave out --against to find duplicates within one set",
        )
    workers = workers or cpu_cores()
    with tempfile.TemporaryDirectory(prefix="discern-dedup-") as scratch:

        def open_originals(parts: Sequence[tuple[Images, Rows]]) -> Originals:
            return Originals(parts, workers, max_megapixels, Path(scratch), progress)

        ours = _read(location, dataset, workers, max_megapixels, Path(scratch), progress)
        refuse_empty_folders(ours, prefer)
        if against is None:
            return _within(ours, config, open_originals, progress, keep, prefer, overlays=overlays)
        theirs = _read(against, None, workers, max_megapixels, Path(scratch), progress)
        return _between(ours, theirs, config, open_originals, progress, overlays=overlays)


def _read(
    location: Path,
    dataset: str | None,
    workers: int,
    max_megapixels: float,
    scratch: Path,
    progress: Progress,
) -> Images:
    images = read_images(location, dataset, workers, max_megapixels, scratch, progress)
    if not len(images.usable):
        first = f"; the first, {images.name(0)}: {images.problems[0]}" if images.ids else ""
        raise DataError(
            f"No image in {str(location)!r} could be read ({len(images.ids):,} tried{first}).",
            expected="images (JPEG, PNG, WebP, GIF, BMP, TIFF, ...), in files or Parquet rows",
            remedy="copy the files again if they are damaged, or name another place",
        )
    return images


def _within(
    ours: Images,
    config: DedupConfig,
    open_originals: OpenOriginals,
    progress: Progress,
    keep: str,
    prefer: Sequence[str],
    *,
    overlays: bool,
) -> FolderResult:
    usable = ours.usable
    # Further names of a file are no images of their own: they are tied to the file that is there.
    link = usable[(ours.same[usable] != usable) & np.isin(ours.same[usable], usable)]
    own = np.setdiff1d(usable, link)
    confirm = open_originals([(ours, own)])
    rank = representative_rank(ours, own, keep, prefer)
    duplicates = find_duplicates(
        lambda rows: ours.thumbnails[own[rows]],
        rank,
        config,
        progress=progress,
        confirm=confirm,
        identical=confirm.identical,
    )
    tier = folder_tier(ours, own, prefer) if keep == "best" else None
    found = families(ours, own, duplicates, rank, confirm, tier)
    if overlays:
        every = np.arange(len(own))
        pairs = overlay_pairs(
            duplicates.described, ours.thumbnails[own], every, every, confirm, progress
        )
        names = [ours.name(number) for number in own.tolist()]
        found = tie_overlays(found, pairs, rank, tier, names)
    representative = np.arange(len(ours.ids))
    representative[own] = own[found.representative]
    assigned = Assignment(
        representative,
        np.zeros(len(ours.ids), np.bool_),
        np.zeros(len(ours.ids), np.float32),
        [""] * len(ours.ids),
    )
    assigned.hit[own], assigned.score[own] = found.hit, found.score
    for number, reason in zip(own.tolist(), found.reason, strict=True):
        assigned.reason[number] = reason
    for number, path in zip(link.tolist(), ours.paths(link.tolist()), strict=True):
        file = int(ours.same[number])
        representative[number], assigned.hit[number] = representative[file], True
        assigned.score[number] = assigned.score[file] if assigned.hit[file] else 1
        assigned.reason[number] = "; ".join(
            text for text in (kind_of(path, ours.root), assigned.reason[file]) if text
        )
    table = _table(
        ours,
        ours,
        assigned,
        np.bincount(representative, minlength=len(representative))[representative] > 1,
    )
    return _result(
        ours,
        None,
        table,
        size_report(Groups(found.representative, np.empty(0, np.int64)))
        | duplicates.found.summary
        | confirm.summary,
        config,
        links=len(link),
    )


def _between(
    ours: Images,
    theirs: Images,
    config: DedupConfig,
    open_originals: OpenOriginals,
    progress: Progress,
    *,
    overlays: bool,
) -> FolderResult:
    queries = ours.usable
    shared = _shared(ours, theirs)
    targets = np.setdiff1d(theirs.usable, shared)
    count = len(queries) + len(targets)

    def fetch(rows: Rows) -> npt.NDArray[np.uint8]:
        out = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
        first = rows < len(queries)
        out[first] = ours.thumbnails[queries[rows[first]]]
        out[~first] = theirs.thumbnails[targets[rows[~first] - len(queries)]]
        return out

    confirm = open_originals([(ours, queries), (theirs, targets)])
    rows_of_theirs = np.arange(len(queries), count)
    found = find_across(
        fetch,
        count,
        np.arange(len(queries)),
        rows_of_theirs,
        config,
        progress,
        confirm,
        identical=confirm.identical,
    )
    representative = np.full(len(ours.ids), -1, np.int64)
    pair = np.full(len(ours.ids), -1, np.int64)
    best = np.lexsort((found.j, -found.score, found.i))
    rows, first = np.unique(found.i[best], return_index=True)
    pair[queries[rows]] = best[first]
    representative[queries[rows]] = targets[found.j[best[first]] - len(queries)]
    assigned = Assignment.of(representative, pair, found)
    if overlays:
        described = describe(fetch, count)
        free = np.flatnonzero(representative[queries] < 0)
        clean, over, agree = overlay_pairs(
            described, fetch(np.arange(count)), free, rows_of_theirs, confirm, progress
        )
        for one, other, score in sorted(
            zip(*(side.tolist() for side in (clean, over, agree)), strict=True),
            key=lambda pair: pair[2],
        ):
            query, target = min(one, other), max(one, other)
            number, what = queries[query], "with" if query == other else "without"
            representative[number] = targets[target - len(queries)]
            assigned.hit[number], assigned.score[number] = True, score
            assigned.reason[number] = f"the same {what} an overlay"
    table = _table(ours, theirs, assigned, representative >= 0)
    result = _result(ours, theirs, table, found.summary | confirm.summary, config)
    if len(shared):
        result.warnings.append(
            f"{len(shared):,} of the images in the other set are files of this set themselves (a "
            "folder within the other, or "
            "links): an image is no duplicate of itself, so they do not count."
        )
    return result


def _shared(ours: Images, theirs: Images) -> Rows:
    """Images of the other set that are one and the same file as one of ours, which leads over no
    link.
    """
    place: dict[tuple[int, int], list[int]] = {}
    both = np.isin(ours.files[:, 1], theirs.files[:, 1])
    for number in np.flatnonzero(both).tolist():
        place.setdefault((int(ours.files[number, 0]), int(ours.files[number, 1])), []).append(
            number
        )
    out = []
    for number in np.flatnonzero(np.isin(theirs.files[:, 1], ours.files[:, 1])).tolist():
        own = place.get((int(theirs.files[number, 0]), int(theirs.files[number, 1])), [])
        where = os.path.realpath(theirs.paths([number])[0])
        for one, path in zip(own, ours.paths(own), strict=True):
            same = ours.members[one] == theirs.members[number] and os.path.realpath(path) == where
            if same and is_real(path, ours.root):
                out.append(number)
                break
    return np.array(out, np.int64)


def _table(
    ours: Images, theirs: Images, assigned: Assignment, grouped: npt.NDArray[np.bool_]
) -> pa.Table:
    """The table of IMAGES; representatives are images of `theirs`."""
    chosen = assigned.representative.tolist()
    reasons = [
        problem or reason for problem, reason in zip(ours.problems, assigned.reason, strict=True)
    ]
    # An image that is kept in its own set is its own representative; without a duplicate in another
    # set it has
    # none.
    representatives = [
        (theirs.ids[at], theirs.addresses[at], theirs.members[at]) if at >= 0 else ("", "", "")
        for at in chosen
    ]
    columns = {
        "image_id": ours.ids,
        "address": ours.addresses,
        "member": ours.members,
        "width": ours.sizes[:, 0],
        "height": ours.sizes[:, 1],
        "status": ["failed" if problem else "ok" for problem in ours.problems],
        "keep": ~assigned.hit,
        "representative_id": [one[0] for one in representatives],
        "representative_address": [one[1] for one in representatives],
        "representative_member": [one[2] for one in representatives],
        "score": pa.array(assigned.score, pa.float32(), mask=~assigned.hit),
        "reason": reasons,
        "group": [
            theirs.ids[at] if more else ""
            for at, more in zip(chosen, grouped.tolist(), strict=True)
        ],
    }
    return pa.table(columns).cast(IMAGES)


def _result(
    ours: Images,
    theirs: Images | None,
    table: pa.Table,
    summary: dict[str, Any],
    config: DedupConfig,
    *,
    links: int = 0,
) -> FolderResult:
    kept = int(np.asarray(table["keep"]).sum())
    failed = sum(bool(problem) for problem in ours.problems)
    warnings = []
    for images, where in ((ours, ""), (theirs, " of the other set")):
        if images is not None:
            warnings += [*images.source.warnings, *_unread(images, where)]
    if summary["threshold"] > config.threshold:
        warnings.append(
            "Different images here agree in their details (typically "
            f"{summary['background']['mode']:.2f}), so the threshold "
            f"for duplicates was raised from {config.threshold:.2f} to {summary['threshold']:.2f}."
        )
    if summary["full_resolution"]["rejected"]:
        warnings.append(
            f"{summary['full_resolution']['rejected']:,} of "
            f"{summary['full_resolution']['asked']:,} pairs "
            "that agree at 32 x 32 pixels differ in their "
            "originals, in text, objects or colours: they count as different images."
        )
    counts = {
        "in": len(ours.ids),
        "kept": kept,
        "duplicates": len(ours.ids) - kept,
        "failed": failed,
        "links": links,
    }
    share = (counts["duplicates"] - links) / max(1, counts["in"] - links)
    if theirs is None and counts["in"] >= FEW and share > LARGE_SHARE:
        warnings.append(
            f"{100 * share:.0f} % of the images count as duplicates of others: check the page "
            "before you delete anything; "
            "raise --threshold if they are different images."
        )
    log.info("dedup: %d images, %d duplicates", counts["in"], counts["duplicates"])
    there = {
        str(one.root): one.ignored for one in (ours, theirs) if one is not None and one.ignored
    }
    return FolderResult(table, counts, summary, warnings, there, ours, theirs)


def _unread(images: Images, where: str) -> list[str]:
    """The warning for images that could not be read, if there are any."""
    failed = [number for number, problem in enumerate(images.problems) if problem]
    if not failed:
        return []
    consequence = (
        "their rows say status 'failed' and why" if not where else "their content was not searched"
    )
    first = failed[0]
    return [
        f"{len(failed):,} of {len(images.ids):,} images{where} could not be read (the first: "
        f"{images.name(first)}, "
        f"{images.problems[first]}); {consequence}."
    ]
