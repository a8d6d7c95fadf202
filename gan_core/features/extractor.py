"""What makes features of images: of a network with its batch-norm statistics set, or a baseline's.

A baseline's file gives its own `Extractor` by `make(job, images, progress)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from gan_core.contract import ExtractRequest
from gan_core.errors import DataError
from gan_core.files import read_json, sha256_file, write_json
from gan_core.randomness import numpy_stream
from gan_core.shards import PixelShards

if TYPE_CHECKING:
    from gan_core.features.base import FeatureNetwork
    from gan_core.features.modes import BatchNormCReLU, LayerSize, Selection
    from gan_core.networks.snapshot import Snapshot

Half = npt.NDArray[np.float16]
Images = npt.NDArray[np.uint8]


@dataclass
class Extractor:
    """How features are made.

    Attributes:
        sizes: the columns.
        extract: uint8 [n, side, side, 3] and their ids to {column: float16 [n, *pooled]} and the
            number of clipped values.
        lineage: what the features' files say of their origin.
        warnings: sentences for the report.
        assumed: how an external network reads images, in sentences.
    """

    sizes: list[LayerSize]
    extract: Callable[[Images, list[str]], tuple[dict[str, Half], int]]
    lineage: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def training_images(
    job: ExtractRequest, images: PixelShards
) -> tuple[Callable[[npt.NDArray[np.int64]], Images], int]:
    """The training images that statistics are computed over: the pack's, or without one the crops
    of split train; never others.

    Returns: a function of row numbers that gives uint8 [n, side, side, 3], and the number of rows.
    """
    if job.packs:
        pack = PixelShards(job.packs)
        return pack.pixels, len(pack)
    train = np.flatnonzero(
        pc.fill_null(pc.equal(images.table["split"], "train"), False).to_numpy(zero_copy_only=False)
    )
    if not len(train):
        raise DataError(
            "There are no training images to compute statistics over: no training set is given, "
            "and no crop is in the split train.",
            expected="an input 'pack', or crops of split train",
            remedy="name the training set, or set extract.statistics to running",
        )
    return (lambda rows: images.pixels(train[rows])), len(train)


def snapshot_entry(snapshot: Snapshot, path: Path, role: str) -> dict[str, Any]:
    """The entry 'network' in the lineage of features of a snapshot's role. Args: path: its file."""
    from gan_core.networks.snapshot import saw_labels

    about = {name: snapshot.meta.get(name) for name in ("network", "method", "options", "kimg")}
    if saw := saw_labels(snapshot.meta):
        about["saw_labels"] = saw
    return about | {"role": role, "file": path.name, "sha256": sha256_file(path)}


def network_extractor(
    job: ExtractRequest, network: FeatureNetwork, about: dict[str, Any], images: PixelShards
) -> Extractor:
    """Features of a network: its layers selected and its batch-norm statistics set.

    Args:
        network: on its device.
        about: its entry in the lineage.
    """
    from gan_core.features import extract
    from gan_core.features.modes import WHOLE, BatchNormCReLU, select_configured, uneven

    config = job.settings
    assumed = network.assumed
    if not assumed and tuple(network.input_shape[1:]) != images.shape[:2]:
        raise DataError(
            f"The network takes images of {network.input_shape[1]} x {network.input_shape[2]} and "
            f"the crops are {images.shape[0]} x {images.shape[1]}.",
            remedy="set crop.size to the size that the network was trained on",
        )
    network.without_labels = True  # features of an image must not know its label
    selection = select_configured(network, config)
    after = BatchNormCReLU() if selection.crelu else None
    statistics = set_statistics(job, network, images, selection, after)
    lineage = {
        "network": about,
        "layers": [size.as_json() for size in selection.sizes],
        "pool": {
            "kind": selection.pool,
            "grid": selection.grid if selection.grid < WHOLE else None,
        },
        "precision": config.precision,
        "statistics": statistics,
        **({"mode": config.mode} if config.mode != "dcgan" else {}),
        **({"views": asdict(selection.views)} if selection.views.count > 1 else {}),
    }
    warnings = assumed[1:]
    if overlapping := uneven(selection.sizes, selection.grid):
        warnings.append(
            f"The sides of {', '.join(overlapping)} are no multiple of the grid {selection.grid}: "
            "neighbouring pooling windows overlap by a row (docs/features.md)."
        )

    def extract_batch(some: Images, ids: list[str]) -> tuple[dict[str, Half], int]:
        return extract.extract_features(
            network.activations,
            some,
            selection,
            batch=config.batch,
            device=job.execution.device,
            precision=config.precision,
            after=after,
            names=ids,
        )

    return Extractor(selection.sizes, extract_batch, lineage, warnings, assumed)


def set_statistics(
    job: ExtractRequest,
    network: FeatureNetwork,
    images: PixelShards,
    selection: Selection,
    after: BatchNormCReLU | None,
) -> dict[str, Any]:
    """Sets the batch-norm statistics as configured, and those of `after`; a killed attempt's are
    used again. Returns their entry in the lineage.
    """
    from safetensors.torch import load_file, save_file

    from gan_core.features import extract

    config, device = job.settings, job.execution.device
    if not network.norms() and after is None:
        return {"kind": "none"}
    path, note = job.work / "statistics.safetensors", job.scratch / "statistics.json"
    about: dict[str, Any] = {"kind": config.statistics if network.norms() else "none"}
    measured = about["kind"] == "real"
    if measured or after is not None:
        if note.exists() and path.exists() and read_json(note).get("file") == sha256_file(path):
            saved = load_file(path, device=device)
            if measured:
                extract.restore_statistics(network, saved)
            if after is not None:
                after.restore(saved)
            return dict(read_json(note)["about"])
        read, rows = training_images(job, images)
    if measured:
        about["images"] = extract.set_statistics(
            network, read, rows, config.statistics_images, job.seed, device, selection.views
        )
        about["batch"] = extract.STATISTICS_BATCH
    if after is not None:
        order = numpy_stream(job.seed, "crelu").permutation(rows)
        chosen = np.sort(order[: config.statistics_images])
        about["crelu_images"] = after.measure(
            batch
            for part in np.array_split(chosen, -(-len(chosen) // 1024))
            for batch in extract.pooled(
                network.activations,
                read(part),
                selection,
                batch=config.batch,
                device=device,
                precision=config.precision,
            )
        )
    found = {**extract.statistics_of(network), **(after.tensors() if after is not None else {})}
    about["sha256"] = extract.digest_of(found)
    # a name of its own: several shares may write at once
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(found, temporary)
    os.replace(temporary, path)
    write_json(note, {"file": sha256_file(path), "about": about})
    return about
