"""The public API: what `import gan_core` offers. Heavy packages are imported in the functions that
need them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gan_core.artifacts.store import Store
from gan_core.config import EvaluateConfig, ProbeConfig, Recipe
from gan_core.contract import ArtifactRef
from gan_core.devices import cuda_count, resolve_device
from gan_core.errors import RequestError
from gan_core.pipeline.request import RunRequest
from gan_core.pipeline.sequential import run_request
from gan_core.progress import Progress, silent
from gan_core.recipes import load_recipe as _load_recipe

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from torch import nn

    from gan_core.inspection.base import Inspection
    from gan_core.networks.snapshot import Snapshot

__all__ = [
    "Features",
    "RunOutcome",
    "evaluate",
    "extract_features",
    "find_duplicates",
    "inspect",
    "load_recipe",
    "load_snapshot",
    "read_features",
    "run",
    "sample",
]


@dataclass(frozen=True)
class RunOutcome:
    """What a run made.

    Attributes:
        folder: the run's folder: `recipe.yaml`, `run.json`, `report.html`.
        artifacts: node to the folder of its artifact, such as 'extract:cifar10:discriminator'.
        record: the content of `run.json`; `record['state']` is 'completed' or 'paused'.
    """

    folder: Path
    artifacts: dict[str, Path]
    record: dict[str, Any]

    @property
    def report(self) -> Path | None:
        """The report's page, None where the run ended before it."""
        page = self.folder / "report.html"
        return page if page.exists() else None

    @property
    def snapshot(self) -> Path | None:
        """The folder of the train artifact, for `load_snapshot`; None where no GAN was trained."""
        return self.artifacts.get("train")

    @property
    def features(self) -> dict[str, Path]:
        """'<source>:<kind of features>' to the folder of an extract artifact."""
        return {
            name.removeprefix("extract:"): path
            for name, path in self.artifacts.items()
            if name.startswith("extract:")
        }

    def scores(self) -> pa.Table:
        """All rows of the run's `scores.parquet` files."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        paths = [
            path / "scores.parquet"
            for name, path in self.artifacts.items()
            if name.startswith("evaluate:")
        ]
        return pa.concat_tables([pq.read_table(path) for path in paths])


@dataclass(frozen=True)
class Features:
    """Features with their lineage.

    Attributes:
        values: float16 [rows, dims], NumPy or torch.
        rows: image_id, box, source, address, member, split, label, kept, ... row for row.
        lineage: digests of the snapshot and of the inputs, network, layers with their shapes.
    """

    values: Any
    rows: pa.Table
    lineage: dict[str, Any]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 [rows], -1 where a row has no label."""
        import pyarrow.compute as pc

        filled = pc.fill_null(self.rows["label"], -1)
        return np.asarray(filled.to_numpy(zero_copy_only=False), np.int64)

    @property
    def split(self) -> list[str]:
        """'train', 'validation' or 'test' for each row."""
        names: list[str] = self.rows["split"].to_pylist()
        return names


def load_recipe(
    name: str | Path, *, scale: str | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """A checked recipe with every default filled in.

    Args:
        name: a recipe's name (`discern list recipes`) or a YAML file.
        scale: 'debug', 'small' or 'full'; None: 'full' with a GPU, else 'small' where the recipe
            has it.
        overrides: settings to change, each as 'section.key=value'.
    Raises: RequestError: an unknown key, value or scale, with the nearest match.
    """
    return _load_recipe(str(name), scale=scale, overrides=overrides, gpu=bool(cuda_count()))[0]


def run(
    recipe: str | Path,
    *,
    home: str | Path,
    data: str | Path | dict[str, str | Path] | None = None,
    scale: str | None = None,
    overrides: Sequence[str] = (),
    until: str = "report",
    device: str = "auto",
    progress: Progress = silent,
) -> RunOutcome:
    """Runs a recipe in this process, without Prefect; what the home already has is not computed.

    Args:
        home: the folder that keeps artifacts and runs.
        data: where the data lies: one path, or source name to path.
        until: the last stage: 'pack', 'train', 'extract', 'evaluate', 'inspect' or 'report'.
        scale, overrides: as in `load_recipe`.
    Raises: DiscernError: what was wrong with the request, or what failed.
    """
    if "://" in str(home):
        raise RequestError(
            f"The home {home} is no folder.",
            expected="a folder on this machine",
            remedy=f"discern run {recipe} --home {home}",
        )
    folder = Path(home).expanduser().absolute()
    places = [f"{key}={value}" for key, value in data.items()] if isinstance(data, dict) else None
    request = RunRequest(
        recipe=str(recipe),
        overrides=list(overrides),
        scale=scale,
        data=places if places is not None else [str(data)] if data is not None else [],
        home=str(folder),
        device=device,
        until=until,
        command=f"gan_core.run({shlex.quote(str(recipe))})",
    )
    store = Store(folder)
    record = run_request(request, store, lambda node: progress)
    artifacts = {
        node["node"]: store.path(ArtifactRef.model_validate(node["ref"]))
        for node in record["nodes"]
        if node["ref"]
    }
    return RunOutcome(folder / "runs" / record["run"], artifacts, record)


def load_snapshot(path: str | Path, device: str = "auto", *, allow: Sequence[str] = ()) -> Snapshot:
    """The networks of a trained GAN, in evaluation mode.

    Args:
        path: a snapshot, or a train artifact's folder (its chosen or last snapshot is loaded).
        allow: dotted paths of modules outside the project that the snapshot may import.
    Raises: StoreError: no snapshot there, or a damaged one.
    """
    from gan_core.networks import snapshot

    place = Path(path)
    file = snapshot.chosen_snapshot(place) if place.is_dir() else place
    return snapshot.load_snapshot(file, resolve_device(device), allow=allow)


def sample(snapshot: Snapshot | str | Path, n: int = 64, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Generated images: uint8 [n, side, side, 3], the same as `discern sample` writes."""
    from gan_core.inspection.memorisation import draw

    return draw(_snapshot(snapshot), n, seed=seed)[0]


def extract_features(
    network: nn.Module | Snapshot | str | Path,
    images: npt.NDArray[np.uint8],
    *,
    training_images: npt.NDArray[np.uint8] | None = None,
    **settings: Any,
) -> npt.NDArray[np.float32]:
    """Features of images from any convolutional network: float32 [n, dims].

    Args:
        images: uint8 [n, height, width, 3], RGB.
        training_images: images that batch-norm statistics are measured over; None: `images`.
        settings: of `FeatureExtractor`: layers, mode, grid, pool, role, statistics, ...
    """
    from gan_core.features.transformer import FeatureExtractor

    extractor = FeatureExtractor(network, **settings)
    extractor.fit(images if training_images is None else training_images)
    return extractor.transform(images)


def read_features(
    folder: str | Path,
    layers: Sequence[str] | None = None,
    rows: npt.NDArray[Any] | None = None,
    *,
    framework: Literal["numpy", "torch"] = "numpy",
) -> Features:
    """The features of an extract artifact, with a row of lineage for each.

    Args:
        layers: names of layers, joined in the order given; None: all.
        rows: a bool mask or row numbers; None: all rows.
        framework: 'numpy' or 'torch' (a tensor that shares the array's memory).
    Raises: DataError: no features there; UnknownName: a layer that is not there.
    """
    from gan_core.features import parquet

    values: npt.NDArray[np.float16] | torch.Tensor
    values, table = parquet.read_features(Path(folder), layers, rows)
    if framework == "torch":
        import torch

        values = torch.from_numpy(values)
    return Features(values, table, parquet.read_lineage(Path(folder)))


def find_duplicates(
    folder: str | Path,
    *,
    against: str | Path | None = None,
    keep: Literal["best", "largest", "oldest", "first"] = "best",
    prefer: Sequence[str] = (),
    overlays: bool = False,
    workers: int = 0,
    progress: Progress = silent,
) -> pa.Table:
    """Near-duplicates in a folder of images or Parquet files: one row for each image.

    Args:
        against: another folder; then duplicates are images that are already in it.
        keep, prefer: which image of a group represents it, as in `discern dedup`.
        overlays: an image with text or a logo on it is a duplicate of the one without.
        workers: threads or processes that read; 0: one for each core.
    Returns: columns image_id, address, member, width, height, status, keep, representative_id,
        representative_address, representative_member, score, reason, group.
    Raises: DataError: no image can be read.
    """
    from gan_core.dedup.folder.run import dedup_images

    other = Path(against) if against is not None else None
    return dedup_images(
        Path(folder),
        against=other,
        keep=keep,
        prefer=prefer,
        overlays=overlays,
        workers=workers,
        progress=progress,
    ).table


def evaluate(
    features: Features | npt.NDArray[Any],
    labels: npt.NDArray[np.int64] | None = None,
    split: Sequence[str] | None = None,
    *,
    probe: str = "linear_svm",
    labels_per_class: Sequence[int | Literal["all"]] = ("all",),
    draws: int = 5,
    grid: Sequence[float] | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, dict[str, Any]]:
    """Test accuracy of a probe on features, with its 95 % interval.

    The probe's setting is chosen on a validation split cut from the training rows; the test rows
    are read once.

    Args:
        features: what `read_features` gave, or float [rows, dims].
        labels: int64 [rows]; None: those of `features`. Rows with a negative label are left out.
        split: 'train' or 'test' for each row; None: that of `features`.
        probe: `discern list probes`.
        labels_per_class: how many labels of each class a probe may see.
        draws: of labels, for numbers smaller than 'all'.
        grid: values of the probe's setting; None: its own.
    Returns: labels per class to 'mean', 'low', 'high', 'draws', 'chosen', 'validation', ...
    Raises: DataError: one class only, no training or no test rows, values that are not finite.
    """
    from gan_core.evaluation.scoring import evaluate_arrays

    if isinstance(features, Features):
        labels = features.labels if labels is None else labels
        split = features.split if split is None else split
        features = features.values
    if labels is None or split is None:
        raise RequestError(
            "An array of features has neither labels nor splits.",
            expected="evaluate(features, labels, split), or what read_features gave",
        )
    known = np.asarray(labels) >= 0
    protocol = EvaluateConfig(labels_per_class=list(labels_per_class), draws=draws)
    values = np.asarray(features)
    return evaluate_arrays(
        values if known.all() else values[known],
        np.asarray(labels, np.int64)[known],
        [name for name, there in zip(split, known, strict=True) if there],
        protocol,
        ProbeConfig(name=probe, grid=list(grid or ())),
        seed=seed,
        device=resolve_device(device),
    )


def inspect(
    snapshot: Snapshot | str | Path,
    name: str = "samples",
    *,
    training_set: str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> Inspection:
    """One inspection of a snapshot: figures (uint8 images), tables, numbers and a sentence.

    Args:
        name: `discern list inspections`.
        training_set: a pack artifact's folder, for inspections that compare with it.
        options: the inspection's own.
    Raises: NotApplicable: the snapshot or the data lack what it needs; UnknownName.
    """
    from gan_core import registry
    from gan_core.inspection.base import Context

    packs = [Path(training_set)] if training_set is not None else []
    loaded = _snapshot(snapshot)
    device = str(next(loaded.best_generator().parameters()).device)
    module = registry.load("inspection", name)
    found: Inspection = module.inspect(
        Context(loaded, seed, device, packs), registry.options("inspection", name, options)
    )
    return found


def _snapshot(given: Snapshot | str | Path) -> Snapshot:
    return load_snapshot(given) if isinstance(given, str | Path) else given
