"""crop: squares of uint8 RGB in shards, and one row for each of them; masks are cut with their
images.

Images are read once, in the source's order, on several threads; finished pieces wait in the scratch
folder, where the run after a kill finds them. Then the pieces are dealt into shards by hash of
image_id, so that one new file changes one shard. Crops that an earlier artifact holds for the same
content are copied, not read.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gan_core import registry
from gan_core.config import CropConfig
from gan_core.contract import CropRequest, StageOutcome, StageRequest
from gan_core.datasets._reading import read_ordered
from gan_core.datasets.base import Blob, Source
from gan_core.errors import DataError, TransientError
from gan_core.files import canonical_json
from gan_core.progress import Progress, Throttled
from gan_core.schemas import CROPS, shard_count, shard_of
from gan_core.shards import NO_MASK, write_rows, write_shard
from gan_core.specs import spec_of
from gan_core.vision.cropping import Cut, Cutter
from gan_core.vision.image_files import UnreadableImage
from gan_core.vision.pieces import CORNERS, CUTS, Pieces, earlier_piece

_PIECE_BYTES = 32 << 20
_SHARD_BYTES = 96 << 20
_SHARD_ROWS = 8192


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Writes crops.parquet (schemas.CROPS), pixels-*.npy uint8 [n, size, size, 3] and, with masks,
    masks-*.npy [n, size, size].

    A mask that is missing or cannot be used is filled with 255. Rows are sorted by (shard of the
    image, image_id, box).

    Part: `crop` (CropConfig). Inputs: images (ingest). Context: `source`, `location`, `earlier`,
        `workers`, `share`, `shares`.

    Raises:
        DataError: no image gave a crop, or the data is no longer what ingest saw.
        TransientError: an image that ingest could read cannot be read now.
    """
    wanted = CropRequest.of(request)
    crop = wanted.settings
    job = _Job(wanted, request.scratch / "pieces")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one image a thread beats two threads an image
    try:
        job.reuse()
        job.read(Throttled(progress))
    finally:
        cv2.setNumThreads(threads)
    if wanted.execution.share:
        return StageOutcome(counts={"read": job.read_now}, complete=False)
    cuts = job.cuts()
    if cuts["row"].null_count == cuts.num_rows:
        raise _nothing_cut(crop, cuts)
    table, empty_masks = _write(request.work, job, cuts)
    job.pieces.remove()
    return _outcome(job, table, empty_masks)


class _Job:
    """What has to be cut, and what has been."""

    def __init__(self, request: CropRequest, pieces: Path) -> None:
        self.crop = crop = request.settings
        self.images = images = pq.read_table(request.images / "images.parquet")
        self.has_masks = bool(
            pc.any(pc.match_substring(images["attributes"], '"mask_sha256"')).as_py()
        )
        self.cutter = Cutter(crop)
        self.pieces = Pieces(pieces, crop.size, masks=self.has_masks)
        self.reused = 0
        self.read_now = 0
        self._request = request
        self._wanted: npt.NDArray[np.bool_] = pc.equal(images["status"], "ok").to_numpy()
        self._ids, self._contents = (
            images["image_id"].to_pylist(),
            images["content_sha256"].to_pylist(),
        )
        self._addresses, self._members = images["address"].to_pylist(), images["member"].to_pylist()
        self._attributes = images["attributes"].to_pylist() if self.has_masks else []

    def reuse(self) -> None:
        """Copies crops of the same content from earlier artifacts of the same settings."""
        for folder in self._request.earlier:
            if not self._wanted.any():
                return
            piece = earlier_piece(
                folder, self.images, self._wanted, self.crop.size, masks=self.has_masks
            )
            if piece is not None:
                self.pieces.add(piece)
                found = np.unique(piece.table["image"].to_numpy())
                self._wanted[found] = False
                self.reused += len(found)

    def read(self, progress: Progress) -> None:
        """Cuts the rest, piece by piece; finished pieces of a killed run are used again."""
        wanted = np.flatnonzero(self._wanted).tolist()
        length = max(16, min(4096, _PIECE_BYTES // (self.crop.size**2 * 3)))
        execution = self._request.execution
        number, of = execution.share or (0, 1)
        shares = max(of, execution.shares)
        if shares > 1 or execution.shares:  # pieces small enough for every share to get some
            length = max(16, min(length, -(-len(wanted) // (2 * shares))))
        plans = [wanted[start : start + length] for start in range(0, len(wanted), length)][
            number::of
        ]
        todo = [plan for plan in plans if not self.pieces.take_finished(self._digest(plan), plan)]
        if not todo:
            return
        images = [image for plan in todo for image in plan]
        requests = [(self._addresses[image], self._members[image]) for image in images]

        def work(position: int, blob: Blob) -> list[Cut]:
            return self._cut(images[position], blob)

        results = read_ordered(self._source(), requests, work, execution.workers)
        already = len(wanted) - len(images)
        for plan in todo:
            cuts: list[list[Cut]] = []
            for _ in plan:
                cuts.append(next(results))
                self.read_now += 1
                progress(already + self.read_now, len(wanted), "images")
            self.pieces.write(self._digest(plan), plan, cuts)

    def _digest(self, plan: Sequence[int]) -> str:
        """Names a piece by all that decides it, so that a later run takes only what it would have
        made itself.
        """
        settings = [
            spec_of("crop").version,
            cv2.__version__,
            self.crop.model_dump(mode="json"),
            self.has_masks,
        ]
        sha = hashlib.sha256(canonical_json(settings).encode())
        for image in plan:
            attributes = self._attributes[image] if self.has_masks else ""
            sha.update(f"{self._ids[image]} {self._contents[image]} {attributes}\n".encode())
        return sha.hexdigest()[:32]

    def _source(self) -> Source:
        config = self._request.source
        dataset = registry.load("datasets", config.dataset)
        source: Source = dataset.open_source(config, self._request.location)
        return source

    def _cut(self, image: int, blob: Blob) -> list[Cut]:
        member = self._members[image]
        where = f"{self._addresses[image]}, {member}" if member else self._addresses[image]
        try:
            data = blob.read()
        except UnreadableImage as error:
            raise TransientError(
                f"{where} could be read at ingest and cannot now ({error.reason}).",
                expected="a source that does not change during a run",
                remedy="run again; if the file is gone for good, ingest will see it",
            ) from error
        if hashlib.sha256(data).hexdigest() != self._contents[image]:
            raise DataError(
                f"{where} is no longer what ingest read.",
                expected="a source that does not change during a run",
                remedy="run again with --refresh ingest --rehash",
            )
        return self.cutter.cut(data, blob if self.has_masks else None)

    def cuts(self) -> pa.Table:
        """All cuts, one at least for every row of images.parquet, in the order of crops.parquet.

        Schema: pieces.CUTS with `piece` and `shard` (the shard of the image, whether there are
            pixels or not).
        """
        failed = np.flatnonzero(pc.not_equal(self.images["status"], "ok").to_numpy())
        reasons = self.images["reason"].take(pa.array(failed))
        missing = pa.table(
            {
                "image": pa.array(failed, pa.int64()),
                "box": pa.array(np.full(len(failed), -1, np.int32)),
                **{name: pa.nulls(len(failed), pa.float32()) for name in CORNERS},
                "status": pa.array(["failed"] * len(failed), pa.string()),
                "reason": reasons,
                "row": pa.nulls(len(failed), pa.int64()),
                "piece": pa.array(np.full(len(failed), -1, np.int64)),
            }
        )
        table = pa.concat_tables(
            [self.pieces.table(), missing.cast(CUTS.append(pa.field("piece", pa.int64())))]
        )
        count = shards_for(self.images.num_rows, self.crop.size)
        shard_by_image = np.array([shard_of(identity, count) for identity in self._ids], np.int32)
        shards = pa.array(shard_by_image[table["image"].to_numpy()])
        table = table.append_column("shard", shards).append_column(
            "image_id", self.images["image_id"].take(table["image"])
        )
        order = [("shard", "ascending"), ("image_id", "ascending"), ("box", "ascending")]
        return table.sort_by(order).drop_columns(["image_id"])


def shards_for(images: int, size: int) -> int:
    """Number of shards: a power of two, at most about 8,192 images or 96 MiB in each.

    It depends on the images alone, never on how many crops they gave or on how many workers there
    were.
    """
    fitting = max(1, _SHARD_BYTES // (size * size * 3))
    return shard_count(images, min(_SHARD_ROWS, 1 << (fitting.bit_length() - 1)))


def _write(folder: Path, job: _Job, cuts: pa.Table) -> tuple[pa.Table, int]:
    """Deals the pieces' pixels into shards and writes the table; returns it and the number of masks
    without any class.
    """
    for stale in [*folder.glob("pixels-*.npy"), *folder.glob("masks-*.npy")]:
        stale.unlink()
    usable = cuts["row"].is_valid().to_numpy()
    shard, piece = cuts["shard"].to_numpy(), cuts["piece"].to_numpy()
    source_row = pc.fill_null(cuts["row"], -1).to_numpy()
    row = np.full(cuts.num_rows, -1, np.int32)
    empty_masks = 0
    for number in np.unique(shard[usable]):
        chosen = np.flatnonzero(usable & (shard == number))
        row[chosen] = np.arange(len(chosen))
        write_shard(folder, int(number), job.pieces.gather(piece[chosen], source_row[chosen]))
        if job.has_masks:
            masks = job.pieces.gather(piece[chosen], source_row[chosen], masks=True)
            empty_masks += int((masks == NO_MASK).all(axis=(1, 2)).sum())
            write_shard(folder, int(number), masks, prefix="masks")
    columns = {
        **{name: cuts[name] for name in ("box", *CORNERS, "status", "reason")},
        "shard": pa.array(shard, mask=~usable),
        "row": pa.array(row, mask=~usable),
    }
    carried = [name for name in CROPS.names if name not in columns]
    columns |= dict(
        zip(carried, job.images.select(carried).take(cuts["image"]).columns, strict=True)
    )
    table = pa.table({name: columns[name] for name in CROPS.names}).cast(CROPS).combine_chunks()
    write_rows(folder, table)
    return table, empty_masks


def _codes(reasons: pa.ChunkedArray) -> dict[str, int]:
    """Reasons by their first word."""
    return dict(sorted(Counter(reason.partition(":")[0] for reason in reasons.to_pylist()).items()))


def _nothing_cut(crop: CropConfig, cuts: pa.Table) -> DataError:
    listed = ", ".join(f"{count} {code}" for code, count in _codes(cuts["reason"]).items())
    return DataError(
        f"None of {len(pc.unique(cuts['image']))} images gave a crop ({listed}).",
        expected="at least one usable image",
        remedy="lower crop.face_min_side, or use crop.kind: centre"
        if crop.kind == "faces"
        else "check the images",
    )


def _outcome(job: _Job, table: pa.Table, empty_masks: int) -> StageOutcome:
    by_status = {
        status: table.filter(pc.equal(table["status"], status))
        for status in ("ok", "failed", "no_face", "rejected")
    }
    images = {status: len(pc.unique(part["image_id"])) for status, part in by_status.items()}
    # An image counts once, as ok if any of its crops is.
    used_elsewhere = pc.is_in(
        by_status["rejected"]["image_id"], value_set=by_status["ok"]["image_id"].combine_chunks()
    )
    images["rejected"] = len(
        pc.unique(by_status["rejected"].filter(pc.invert(used_elsewhere))["image_id"])
    )
    total = sum(images.values())
    crops = by_status["ok"].num_rows
    sides = pc.subtract(by_status["ok"]["x1"], by_status["ok"]["x0"])
    enlarged = int(pc.sum(pc.less(sides, job.crop.size - 0.5)).as_py() or 0)
    reasons = _codes(by_status["failed"]["reason"])
    kinds = (
        ("ok", "failed", "no_face", "rejected") if job.crop.kind == "faces" else ("ok", "failed")
    )
    summary: dict[str, Any] = {
        "crops": crops,
        "shards": len(pc.unique(by_status["ok"]["shard"])),
        "reused": job.reused,
        "read": job.read_now,
        "reasons": reasons,
        "rejected": _codes(by_status["rejected"]["reason"]),
        "enlarged": enlarged,
        "masks": job.has_masks,
        **job.cutter.describe(),
    }
    warnings = []
    if images["failed"]:
        listed = ", ".join(f"{count} {code}" for code, count in reasons.items())
        warnings.append(
            f"{images['failed']} of {total} images gave no crop ({listed}); each is a row with its "
            "reason"
        )
    if enlarged * 2 > crops:
        warnings.append(
            f"{enlarged} of {crops} crops had to be enlarged to {job.crop.size} pixels: a smaller "
            "crop.size fits better"
        )
    if empty_masks:
        warnings.append(
            f"{empty_masks} masks are missing or cannot be used; they are filled with {NO_MASK}"
        )
    return StageOutcome(
        counts={"in": total, **{kind: images[kind] for kind in kinds}},
        summary=summary,
        warnings=warnings,
    )
