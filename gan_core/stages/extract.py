"""Stage extract: features of every usable crop of one source, from a snapshot or as a baseline, in
Parquet shards.

The shards are those of the crops. Each is written under another name and remembered by a done-file
in the scratch folder, so that a killed run goes on with the next shard. Neither Prefect nor FAISS
is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gan_core import registry
from gan_core.contract import EXTERNAL, ExtractRequest, StageOutcome, StageRequest
from gan_core.errors import DataError, RequestError
from gan_core.features.extractor import Extractor, network_extractor, snapshot_entry
from gan_core.files import canonical_json, read_json, sha256_file, sha256_text, write_json
from gan_core.progress import Progress
from gan_core.shards import PixelShards, dropped_crops

log = logging.getLogger(__name__)


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Writes `features-<shard>.parquet`, and `statistics.safetensors` (of batch norm) or
    `codebook.safetensors` (of K-means) where there are any.

    Raises:
        DataError: no usable images; no training images for the statistics.
        RequestError: an encoder is asked for and the snapshot has none; a layer that does not
            exist.
    """
    import torch

    from gan_core.devices import use_gpu
    from gan_core.features.modes import length_of

    job = ExtractRequest.of(request)
    torch.set_num_threads(job.execution.threads)
    use_gpu(job.execution.device, job.settings.precision)
    images = PixelShards(job.crops)
    if not len(images):
        raise DataError(
            "There is no usable image to extract features of.",
            expected="crops with status 'ok'",
            remedy="read the column `reason` of crops.parquet, and the failed files in the report",
        )
    extractor = make_extractor(job, images, progress)
    extractor.lineage = {
        "format": 1,
        "features": job.features,
        "inputs": job.inputs,
        "seed": job.seed,
        **extractor.lineage,
    }
    rows = images.table.append_column("kept", kept_by_dedup(images.table, job.duplicates))
    clipped = _write_shards(job, images, rows, extractor, progress)
    if job.execution.share is not None:
        return StageOutcome(complete=False)
    if clipped:
        extractor.warnings.append(
            f"{clipped} activations lay beyond float16's 65504, or were infinite, and were "
            "clipped to it."
        )
    summary = {
        "features": job.features,
        "dims": sum(size.dims for size in extractor.sizes),
        "layers": [size.as_json() for size in extractor.sizes],
        "length": length_of(extractor.sizes),
        "rows": len(images),
        "bytes": sum(path.stat().st_size for path in job.work.glob("features-*.parquet")),
        "clipped": clipped,
        **({"assumed": extractor.assumed} if extractor.assumed else {}),
    }
    log.info("%s: %s values for each image", request.node, summary["length"])
    return StageOutcome(
        counts={"in": len(images), "ok": len(images)}, summary=summary, warnings=extractor.warnings
    )


def kept_by_dedup(table: pa.Table, duplicates: tuple[Path, ...]) -> pa.Array:
    """Whether dedup kept a crop; True for rows of splits that it does not search."""
    dropped = dropped_crops(duplicates)
    crops = zip(table["image_id"].to_pylist(), table["box"].to_pylist(), strict=True)
    return pa.array([crop not in dropped for crop in crops], pa.bool_())


def make_extractor(job: ExtractRequest, images: PixelShards, progress: Progress) -> Extractor:
    """Of a baseline, an external network, or a role of the snapshot."""
    if job.features == EXTERNAL:
        from gan_core.features.external.preflight import load_external

        return network_extractor(job, *load_external(job, images.shape[0]), images)
    if job.snapshot is None or registry.is_name("baselines", job.features):
        made: Extractor = registry.load("baselines", job.features).make(job, images, progress)
        return made
    from gan_core.networks.snapshot import chosen_snapshot, load_snapshot

    path, role = chosen_snapshot(job.snapshot), job.features
    snapshot = load_snapshot(path, job.execution.device, allow=job.allow)
    if role not in snapshot.networks:
        raise RequestError(
            f"The snapshot {path.name} has no {role}.",
            expected=f"one of {', '.join(snapshot.networks)}",
            remedy=f"--set extract.network={snapshot.features[0]}",
        )
    about = snapshot_entry(snapshot, path, role)
    return network_extractor(job, snapshot.feature_network(role), about, images)


def _write_shards(
    job: ExtractRequest,
    images: PixelShards,
    rows: pa.Table,
    extractor: Extractor,
    progress: Progress,
) -> int:
    """Writes the shards that are not there yet; returns the number of clipped values."""
    from gan_core.features import parquet as store

    layers = {size.name: size.pooled for size in extractor.sizes}
    shard_of = rows["shard"].to_numpy()
    place_in = rows["row"].to_numpy()
    lineage_digest = sha256_text(canonical_json(extractor.lineage))
    done, clipped = 0, 0
    number, of = job.execution.share or (0, 1)
    if of == 1:
        for stale in job.work.glob(".features-*.partial"):
            stale.unlink()
    for shard in np.unique(shard_of)[number::of]:
        chosen = np.flatnonzero(shard_of == shard)
        chosen = chosen[np.argsort(place_in[chosen], kind="stable")]
        path = job.work / store.feature_name(int(shard))
        note = job.scratch / f"done-{int(shard):05d}.json"
        before = _finished_shard(note, path, lineage_digest)
        if before is None:
            before = _write_shard(
                path,
                images,
                rows,
                chosen,
                extractor,
                layers,
                partial(_report_shard, progress, done, len(rows)),
            )
            write_json(
                note, {"lineage": lineage_digest, "sha256": sha256_file(path), "clipped": before}
            )
        clipped += before
        done += len(chosen)
        progress(done, len(rows), "images")
    return clipped


def _report_shard(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total, "images")


def _finished_shard(note: Path, path: Path, lineage_digest: str) -> int | None:
    """Clipped values of a finished shard; None when it has to be made."""
    if not (note.exists() and path.exists()):
        return None
    try:
        record = read_json(note)
    except ValueError:
        return None
    return (
        int(record["clipped"])
        if record.get("lineage") == lineage_digest and record.get("sha256") == sha256_file(path)
        else None
    )


def _write_shard(
    path: Path,
    images: PixelShards,
    rows: pa.Table,
    chosen: npt.NDArray[np.int64],
    extractor: Extractor,
    layers: dict[str, tuple[int, int, int]],
    report_progress: Callable[[int], None],
) -> int:
    """One shard, a row group at a time. Returns the number of clipped values."""
    from gan_core.features import parquet as store

    clipped = 0
    with store.FeatureWriter(path, layers, extractor.lineage) as writer:
        for start in range(0, len(chosen), writer.rows_per_group):
            some = chosen[start : start + writer.rows_per_group]
            these = rows.take(some)
            values, beyond = extractor.extract(images.pixels(some), these["image_id"].to_pylist())
            writer.write(these, values)
            clipped += beyond
            report_progress(start + len(some))
    return clipped
