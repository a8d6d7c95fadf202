"""Stage extract: features of every usable crop of one source, from a snapshot or as a baseline, in
Parquet shards.

The shards are those of the crops. Each is written under another name and remembered by a done-file
in the scratch folder, so that a killed run goes on with the next shard. Neither Prefect nor FAISS
is needed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gan_core import registry
from gan_core.config import ExtractConfig
from gan_core.contract import StageInput, StageOutcome, StageRequest
from gan_core.errors import DataError, RequestError
from gan_core.files import canonical_json, read_json, sha256_file, sha256_text, write_json
from gan_core.progress import Progress
from gan_core.randomness import numpy_stream

if TYPE_CHECKING:
    from gan_core.baselines.kmeans import Coder
    from gan_core.features.base import FeatureNetwork
    from gan_core.features.modes import BatchNormCReLU, LayerSize, Selection
    from gan_core.features.parquet import Half
    from gan_core.shards import PixelShards

log = logging.getLogger(__name__)
CODEBOOK = "codebook.safetensors"
Images = npt.NDArray[np.uint8]


@dataclass
class _Extractor:
    """How features of this request are taken."""

    sizes: list[LayerSize]
    extract: Callable[[Images, list[str]], tuple[dict[str, Half], int]]  # of images and their ids
    lineage: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Writes `features-<shard>.parquet`, and `statistics.safetensors` (of batch norm) or
    `codebook.safetensors` (of K-means) where there are any.

    Raises:
        DataError: no usable images; no training images for the statistics.
        RequestError: an encoder is asked for and the snapshot has none; a layer that does not
            exist.
    """
    import torch

    from gan_core.devices import cpu_cores, resolve_device, use_gpu
    from gan_core.features.modes import length_of
    from gan_core.shards import PixelShards

    torch.set_num_threads(int(request.part.get("threads") or 0) or cpu_cores())
    device = resolve_device(str(request.context.get("device", "auto")))
    config = ExtractConfig.model_validate(request.part.get("extract", {}))
    use_gpu(device, config.precision)
    images = PixelShards(request.one("crops").path)
    if not len(images):
        raise DataError(
            "There is no usable image to take features of.",
            expected="crops with status 'ok'",
            remedy="look at `reason` in crops.parquet, and the failed files in the report",
        )
    extractor = _extractor_of(request, config, images, device, progress)
    rows = images.table.append_column(
        "kept", _kept(images.table, request.inputs.get("duplicates", []))
    )
    clipped = _shards(request, images, rows, extractor, progress)
    if "share" in request.context:
        return StageOutcome(complete=False)
    dims = sum(size.dims for size in extractor.sizes)
    if clipped:
        extractor.warnings.append(
            f"{clipped} activations lay beyond float16's 65504, or were infinite, and were "
            "clipped to it."
        )
    summary = {
        "features": request.part["features"],
        "dims": dims,
        "layers": [size.as_json() for size in extractor.sizes],
        "length": length_of(extractor.sizes),
        "rows": len(images),
        "bytes": sum(path.stat().st_size for path in request.work.glob("features-*.parquet")),
        "clipped": clipped,
        **({"assumed": extractor.assumed} if extractor.assumed else {}),
    }
    log.info("%s: %s values for each image", request.node, summary["length"])
    return StageOutcome(
        counts={"in": len(images), "ok": len(images)}, summary=summary, warnings=extractor.warnings
    )


def _kept(table: pa.Table, duplicates: list[StageInput]) -> pa.Array:
    """Whether dedup kept a crop; True for rows that it did not look at."""
    import pyarrow.parquet as pq

    dropped: set[tuple[str, int]] = set()
    for entry in duplicates:
        found = pq.read_table(
            entry.path / "duplicates.parquet", columns=["image_id", "box", "keep"]
        )
        found = found.filter(pc.invert(found["keep"]))
        dropped.update(zip(found["image_id"].to_pylist(), found["box"].to_pylist(), strict=True))
    places = zip(table["image_id"].to_pylist(), table["box"].to_pylist(), strict=True)
    return pa.array([place not in dropped for place in places], pa.bool_())


def _extractor_of(
    request: StageRequest,
    config: ExtractConfig,
    images: PixelShards,
    device: str,
    progress: Progress,
) -> _Extractor:
    kind = str(request.part["features"])
    digests = {
        role: sorted(entry.ref.digest for entry in entries)
        for role, entries in sorted(request.inputs.items())
    }
    lineage: dict[str, Any] = {
        "format": 1,
        "features": kind,
        "inputs": digests,
        "seed": request.part.get("seed", 0),
    }
    if kind == "pixels":
        from gan_core.baselines import pixels

        sizes = pixels.sizes(images.shape)
        lineage["layers"] = [size.as_json() for size in sizes]
        return _Extractor(sizes, lambda some, _: (pixels.extract(some), 0), lineage)
    if kind == "kmeans":
        return _kmeans_extractor(request, images, device, lineage, progress)
    return _network_extractor(request, config, images, device, lineage)


def _kmeans_extractor(
    request: StageRequest,
    images: PixelShards,
    device: str,
    lineage: dict[str, Any],
    progress: Progress,
) -> _Extractor:
    """The K-means baseline: what it learned is kept beside the features, so that all shards are of
    one codebook.
    """
    from gan_core.baselines import kmeans

    options: Any = registry.options("baselines", "kmeans", request.part.get("options", {}))
    coder, digest = _codebook(request, options, images, device, progress)
    sizes = kmeans.sizes(options.centres)
    settings = {
        "centres": options.centres,
        "patches": options.patches,
        "side": kmeans.SIDE,
        "iterations": kmeans.ITERATIONS,
    }
    lineage |= {
        "layers": [size.as_json() for size in sizes],
        "network": {"name": "kmeans", **settings, "sha256": digest},
    }
    return _Extractor(sizes, lambda some, _: (coder.extract(some), 0), lineage)


def _codebook(
    request: StageRequest,
    options: Any,
    images: PixelShards,
    device: str,
    progress: Progress,
) -> tuple[Coder, str]:
    """(coder, SHA-256 of `codebook.safetensors`): the file of another share or of a killed attempt,
    else learned and written.

    Of several shares that learn at once the first to end is used by all.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    from gan_core.baselines import kmeans

    path = request.work / CODEBOOK
    if path.exists():
        try:
            return kmeans.Coder(**load_file(path, device=device)), sha256_file(path)
        except (SafetensorError, TypeError):  # cut short by a machine that died
            path.unlink(missing_ok=True)
    read, rows = _training_images(request, images)
    coder = kmeans.learn(
        read,
        rows,
        centres=options.centres,
        patches=options.patches,
        measured=options.statistics_images,
        seed=int(request.part.get("seed", 0)),
        device=device,
        progress=progress,
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: value.cpu().contiguous() for name, value in vars(coder).items()}, temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        log.info("the codebook of another share is used")
    except OSError:  # a file system without hard links
        os.replace(temporary, path)
    temporary.unlink(missing_ok=True)
    return kmeans.Coder(**load_file(path, device=device)), sha256_file(path)


def _training_images(
    request: StageRequest, images: PixelShards
) -> tuple[Callable[[npt.NDArray[np.int64]], Images], int]:
    """The training images that statistics are taken over: the pack's, or without one the crops of
    split train; never others.

    Returns: row numbers to uint8 [n, side, side, 3], and how many rows there are.
    """
    from gan_core.shards import PixelShards

    packs = [entry.path for entry in request.inputs.get("pack", [])]
    if packs:
        pack = PixelShards(packs)
        return pack.pixels, len(pack)
    train = np.flatnonzero(
        pc.fill_null(pc.equal(images.table["split"], "train"), False).to_numpy(zero_copy_only=False)
    )
    if not len(train):
        raise DataError(
            "There are no training images to take statistics over: no training set is given, and "
            "no crop is in the split train.",
            expected="an input 'pack', or crops of split train",
            remedy="name the training set, or set extract.statistics to running",
        )
    return (lambda rows: images.pixels(train[rows])), len(train)


def _network_extractor(
    request: StageRequest,
    config: ExtractConfig,
    images: PixelShards,
    device: str,
    lineage: dict[str, Any],
) -> _Extractor:
    """Features from a network: loads or makes it, sets its statistics, and describes its output."""
    from gan_core.features import extract
    from gan_core.features.modes import WHOLE, BatchNormCReLU, select_layers, uneven

    network, about = _network(request, config, images, device)
    assumed = network.assumed
    if not assumed and tuple(network.input_shape[1:]) != images.shape[:2]:
        raise DataError(
            f"The network takes images of {network.input_shape[1]} x {network.input_shape[2]} and "
            "the crops are "
            f"{images.shape[0]} x {images.shape[1]}.",
            remedy="set crop.size to the size that the network was trained on",
        )
    network.without_labels = True  # features of an image must not know its label
    selection = select_layers(
        network,
        config.mode,
        config.layers and network.columns(config.layers),
        config.grid,
        config.pool,
    )
    after = BatchNormCReLU() if selection.crelu else None
    statistics = _statistics(request, config, network, images, device, selection, after)
    lineage |= {
        "network": about,
        "layers": [size.as_json() for size in selection.sizes],
        "pool": {
            "kind": selection.pool,
            "grid": selection.grid if selection.grid < WHOLE else None,
        },
        "precision": config.precision,
        "statistics": statistics,
        **({"mode": config.mode} if config.mode != "dcgan" else {}),
    }
    warnings = assumed[1:]
    if overlapping := uneven(selection.sizes, selection.grid):
        warnings.append(
            f"The sides of {', '.join(overlapping)} are no multiple of the grid {selection.grid}: "
            "neighbouring pooling windows "
            "overlap by a row (docs/features.md)."
        )

    def extract_batch(some: Images, ids: list[str]) -> tuple[dict[str, Half], int]:
        return extract.extract_features(
            network.activations,
            some,
            selection.sizes,
            grid=selection.grid,
            pool=selection.pool,
            batch=config.batch,
            device=device,
            precision=config.precision,
            after=after,
            names=ids,
        )

    return _Extractor(selection.sizes, extract_batch, lineage, warnings, assumed)


def _network(
    request: StageRequest, config: ExtractConfig, images: PixelShards, device: str
) -> tuple[FeatureNetwork, dict[str, Any]]:
    """The network on its device, and its place in the lineage."""
    kind, seed = str(request.part["features"]), int(request.part.get("seed", 0))
    if external := request.part.get("external"):
        from gan_core.features.external.preflight import network_of

        found = network_of(
            config,
            request.context,
            external,
            images.shape[0],
            seed=seed,
            untrained=kind == "random",
        )
        found.module.to(device)
        settings = {
            "name": config.network,
            "arguments": config.network_args,
            "values": config.values,
            "side": found.input_shape[1],
        }
        made = (
            {"weights": f"random, seed {seed}"}
            if kind == "random" or external["weights"] is None
            else {}
        )
        return found, {**settings, **external, **made}
    if kind == "random":
        from gan_core.baselines import random

        named = dict(request.part["network"])
        width = float(named.get("width", 1.0))
        role = config.network or "discriminator"
        fresh = random.network(str(named["name"]), width, seed, role, named.get("latent_dim"))
        about = {"name": named["name"], "width": width, "weights": f"random, seed {seed}"}
        if role != "discriminator":
            about["role"] = role
        return fresh.to(device), about
    from gan_core.networks.snapshot import chosen_snapshot, load_snapshot, saw_labels

    path = chosen_snapshot(request.one("snapshot").path)
    snapshot = load_snapshot(path, device, allow=[str(request.context.get("network", ""))])
    if kind not in snapshot.networks:
        raise RequestError(
            f"The snapshot {path.name} has no {kind}.",
            expected=f"one of {', '.join(snapshot.networks)}",
            remedy=f"--set extract.network={snapshot.features[0]}",
        )
    facts = {name: snapshot.meta.get(name) for name in ("network", "method", "options", "kimg")}
    if saw := saw_labels(snapshot.meta):
        facts["saw_labels"] = saw
    return snapshot.feature_network(kind), {
        **facts,
        "role": kind,
        "file": path.name,
        "sha256": sha256_file(path),
    }


def _statistics(
    request: StageRequest,
    config: ExtractConfig,
    network: FeatureNetwork,
    images: PixelShards,
    device: str,
    selection: Selection,
    after: BatchNormCReLU | None,
) -> dict[str, Any]:
    """Sets the batch-norm statistics as configured, and those of `after`; those of a killed
    attempt are used again.
    """
    from safetensors.torch import load_file, save_file

    from gan_core.features import extract

    if not network.norms() and after is None:
        return {"kind": "none"}
    path = request.work / "statistics.safetensors"
    note = request.scratch / "statistics.json"
    about: dict[str, Any] = {"kind": config.statistics if network.norms() else "none"}
    measured = about["kind"] == "real"
    if measured or after is not None:
        if note.exists() and path.exists() and read_json(note).get("file") == sha256_file(path):
            kept = load_file(path, device=device)
            if measured:
                extract.restore_statistics(network, kept)
            if after is not None:
                after.restore(kept)
            return dict(read_json(note)["about"])
        read, rows = _training_images(request, images)
        seed = int(request.part.get("seed", 0))
    if measured:
        about["images"] = extract.set_statistics(
            network, read, rows, config.statistics_images, seed, device
        )
        about["batch"] = extract.STATISTICS_BATCH
    if after is not None:
        chosen = np.sort(numpy_stream(seed, "crelu").permutation(rows)[: config.statistics_images])
        about["crelu_images"] = after.measure(
            batch
            for part in np.array_split(chosen, -(-len(chosen) // 1024))
            for batch in extract.pooled(
                network.activations,
                read(part),
                selection.sizes,
                grid=selection.grid,
                pool=selection.pool,
                batch=config.batch,
                device=device,
                precision=config.precision,
            )
        )
    found = {**extract.statistics_of(network), **(after.tensors() if after is not None else {})}
    about["sha256"] = extract.digest_of(found)
    temporary = path.with_name(
        f".{path.name}.{os.getpid()}.tmp"
    )  # several shares may find the same at once
    save_file(found, temporary)
    os.replace(temporary, path)
    write_json(note, {"file": sha256_file(path), "about": about})
    return about


def _shards(
    request: StageRequest,
    images: PixelShards,
    rows: pa.Table,
    extractor: _Extractor,
    progress: Progress,
) -> int:
    """Writes the shards that are not there yet; returns the number of clipped values."""
    from gan_core.features import parquet as store

    layers = {size.name: size.pooled for size in extractor.sizes}
    shard_of = rows["shard"].to_numpy()
    place_in = rows["row"].to_numpy()
    lineage_digest = sha256_text(canonical_json(extractor.lineage))
    done, clipped = 0, 0
    number, of = request.context.get("share") or (0, 1)
    if of == 1:
        for stale in request.work.glob(".features-*.partial"):
            stale.unlink()
    for shard in np.unique(shard_of)[number::of]:
        chosen = np.flatnonzero(shard_of == shard)
        chosen = chosen[np.argsort(place_in[chosen], kind="stable")]
        path = request.work / store.feature_name(int(shard))
        note = request.scratch / f"done-{int(shard):05d}.json"
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
    """Clipped values of a shard that stands finished from before; None when it has to be made."""
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
    extractor: _Extractor,
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
