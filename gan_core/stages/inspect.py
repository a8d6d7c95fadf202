"""Looks inside a snapshot: samples, latent walks, what features answer to, vector arithmetic;
figures and their numbers.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.config import InspectConfig
from gan_core.contract import StageOutcome, StageRequest
from gan_core.files import atomic_write_bytes, write_json
from gan_core.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gan_core.networks.snapshot import Snapshot

log = logging.getLogger(__name__)

GAP = 2  # pixels between the images of a sheet; the report takes sheets apart by it
# mean difference of two samples, as a share of the range, below which a generator gives one image
# only (ours)
HARDLY = 0.02


def run(request: StageRequest, progress: Progress) -> StageOutcome:
    """Writes a PNG sheet and a JSON file of numbers for each of: samples, walk, guided, arithmetic.

    Guided backpropagation looks at training images where the request has a `pack`, else at samples.
    """
    from gan_core.devices import resolve_device, use_threads
    from gan_core.networks.snapshot import chosen_snapshot, load_snapshot

    config = InspectConfig.model_validate(request.part["inspect"])
    seed, threads = int(request.part.get("seed", 0)), int(request.part.get("threads") or 0)
    if threads:
        use_threads(threads)
    device = resolve_device(str(request.context.get("device", "cpu")))
    own = str(request.context.get("network", ""))  # the recipe's, whose code the user means to run
    snapshot = load_snapshot(chosen_snapshot(request.one("snapshot").path), device, allow=[own])
    request.work.mkdir(parents=True, exist_ok=True)
    packs = [entry.path for entry in request.inputs.get("pack", [])]

    numbers = {"samples": _samples(request.work, snapshot, config, seed)}
    progress(1, 4, "figures")
    numbers["walk"] = _walk(request.work, snapshot, config, seed)
    progress(2, 4, "figures")
    if config.guided:
        numbers["guided"] = _guided(request.work, snapshot, config, seed, packs)
    progress(3, 4, "figures")
    if config.arithmetic:
        numbers["arithmetic"] = _arithmetic(request.work, snapshot, seed)
    progress(4, 4, "figures")

    spread = float(numbers["samples"]["diversity"])
    warnings = []
    if spread < HARDLY:
        said = f"The samples hardly differ ({100 * spread:.1f} % of the value range)"
        warnings.append(f"{said}: the generator has collapsed, or was hardly trained.")
    return StageOutcome(
        counts={"figures": len(numbers), "samples": config.samples, "walks": config.walks},
        summary={
            "diversity": spread,
            **{
                name: numbers["walk"][name]
                for name in ("mean_step", "largest_jump", "largest_jump_ratio", "sharp")
            },
        },
        warnings=warnings,
    )


def _write(
    work: Path,
    name: str,
    pictures: npt.NDArray[np.uint8],
    columns: int | None,
    numbers: dict[str, Any],
) -> None:
    from gan_core.vision.sheets import encode_png, sheet

    atomic_write_bytes(work / f"{name}.png", encode_png(sheet(pictures, columns, GAP)))
    write_json(work / f"{name}.json", numbers)


def _samples(work: Path, snapshot: Snapshot, config: InspectConfig, seed: int) -> dict[str, Any]:
    from gan_core.inspection.samples import diversity, draw_samples

    pictures = draw_samples(snapshot, config.samples, seed)
    numbers = {
        "count": len(pictures),
        "diversity": round(diversity(pictures), 6),
        "kimg": snapshot.meta.get("kimg"),
    }
    _write(work, "samples", pictures, None, numbers)
    return numbers


def _walk(work: Path, snapshot: Snapshot, config: InspectConfig, seed: int) -> dict[str, Any]:
    from gan_core.inspection.walks import draw_walk, walk_numbers

    walk = draw_walk(snapshot, config.walks, config.walk_steps, seed)
    path = "great circle" if snapshot.prior.distribution == "normal" else "straight line"
    numbers = {**walk_numbers(walk), "path": path, "prior": snapshot.prior.distribution}
    _write(work, "walk", walk.reshape(-1, *walk.shape[2:]), walk.shape[1], numbers)
    return numbers


def _guided(
    work: Path, snapshot: Snapshot, config: InspectConfig, seed: int, packs: list[Path]
) -> dict[str, Any]:
    """A row for each feature: images and traces of the trained filters, then traces of random ones."""
    import numpy as np
    import torch

    from gan_core.inspection.guided import draw_guided
    from gan_core.networks.snapshot import generate, sample_latents
    from gan_core.randomness import numpy_stream, torch_stream
    from gan_core.vision.tensors import to_float

    count = config.guided_images
    if packs:
        from gan_core.shards import PixelShards

        shards = PixelShards(packs)
        order = numpy_stream(seed, "inspect", "guided").permutation(len(shards))[:count]
        images = to_float(torch.from_numpy(shards.pixels(np.sort(order))))
    else:
        images = generate(
            snapshot, sample_latents(snapshot.prior, count, torch_stream(seed, "inspect", "guided"))
        )
    device = next(snapshot.discriminator.parameters()).device
    found = draw_guided(
        snapshot.discriminator, images.to(device), features=config.guided, seed=seed
    )
    rows = np.concatenate([found.images, found.trained, found.random], axis=1)
    numbers = {
        **found.numbers,
        "of": "training images" if packs else "samples",
        "columns": found.images.shape[1],
    }
    _write(work, "guided", rows.reshape(-1, *rows.shape[2:]), rows.shape[1], numbers)
    return numbers


def _arithmetic(work: Path, snapshot: Snapshot, seed: int) -> dict[str, Any]:
    from gan_core.inspection.arithmetic import alike, draw_arithmetic, lay_out
    from gan_core.inspection.samples import as_images
    from gan_core.networks.snapshot import generate, sample_latents
    from gan_core.randomness import torch_stream

    latents = sample_latents(snapshot.prior, 256, torch_stream(seed, "inspect", "exemplars"))
    groups = alike(as_images(generate(snapshot, latents)))
    found = draw_arithmetic(snapshot, *(latents[group.tolist()] for group in groups), seed=seed)
    rows = lay_out(found)
    _write(work, "arithmetic", rows.reshape(-1, *rows.shape[2:]), rows.shape[1], found.numbers)
    return found.numbers
