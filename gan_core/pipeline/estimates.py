"""Estimates of a run's time, disk and memory, right within a factor of about three: enough to
refuse a run that cannot work.

Nothing here is measured on this machine; the constants say where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass

from gan_core.config import Recipe
from gan_core.devices import bf16_units, memory_bytes
from gan_core.errors import RequestError

# GFLOP per second that convolution training sustains, per CPU core and per CUDA device. CPU: from
# docs/benchmarks.md, where 2 cores of a 2024 server CPU sustain about 60 to 150 in float32 on these
# networks. CUDA: assumed.
_CPU_GFLOPS = {"float32": 40.0, "bf16": 120.0}
_CUDA_GFLOPS = {"float32": 15_000.0, "bf16": 60_000.0}
DAY = 86_400.0


@dataclass(frozen=True)
class Estimate:
    """Figures for a person: seconds of training (none for an imported snapshot), feature values per
    image and the sum that they are, layer by layer, bytes that evaluation holds at once."""

    training_seconds: float
    features: int
    evaluation_bytes: int
    gflop_per_image: float
    length: str = ""


def estimate(recipe: Recipe, device: str, rows: int) -> Estimate:
    """Estimates a recipe for `rows` evaluated images. Imports torch: the networks themselves say
    how large they are.
    """
    from gan_core.features.modes import length_of, select_configured
    from gan_core.networks.snapshot import feature_network
    from gan_core.training.step_cost import step_cost

    cost = step_cost(recipe.train)
    features, length, role = 0, "", recipe.extract.network
    if role in cost.networks:
        network = feature_network(cost.method, role, cost.networks[role])
        sizes = select_configured(network, recipe.extract).sizes
        features, length = sum(size.dims for size in sizes), length_of(sizes)
    step = cost.gflop_per_image
    precision = recipe.train.precision
    if precision == "auto":
        precision = "bf16" if bf16_units(device) else "float32"
    rate = (
        _CUDA_GFLOPS[precision]
        if device.startswith("cuda")
        else _CPU_GFLOPS[precision] * recipe.threads
    )
    return Estimate(
        _training_seconds(recipe, step, rate), features, _held(rows, features), step, length
    )


@dataclass(frozen=True)
class Needs:
    """What a whole run asks of a machine. Bytes are 0 where the number of images is not known.

    Attributes:
        training_seconds: on `device`; gpu_seconds: on one data-centre GPU in bf16.
        images: source name to images, as far as known.
        disk: kind of file to bytes; memory: stage to bytes held at once.
    """

    device: str
    training_seconds: float
    gpu_seconds: float
    gflop_per_image: float
    features: int
    length: str
    images: dict[str, int]
    disk: dict[str, int]
    memory: dict[str, int]

    def lines(self) -> list[str]:
        """For a person, a line each."""
        known = ", ".join(f"{count:,} of {name}" for name, count in self.images.items())
        hours = (
            f"training  {_hours(self.training_seconds)} on {self.device}, "
            f"{self.gflop_per_image:.2f} GFLOP an image"
        )
        if not self.device.startswith("cuda"):
            hours += f" (one data-centre GPU in bf16: {_hours(self.gpu_seconds)})"
        lines = [
            hours,
            f"features  {self.features:,} values for each "
            f"image{f': {self.length}' if self.length else ''}",
        ]
        if not self.images:
            return [
                *lines,
                "disk, memory: not known before the stage ingest has counted the images",
            ]
        for name, parts in (("disk", self.disk), ("memory", self.memory)):
            size = sum(parts.values()) if name == "disk" else max(parts.values(), default=0)
            lines.append(
                f"{name:<8}  {_gib(size)}: "
                f"{', '.join(f'{kind} {_gib(part)}' for kind, part in parts.items())}"
                + ("; each process needs about 1.2 GiB more" if name == "memory" else "")
            )
        return [f"images  {known}", *lines]


def _hours(seconds: float) -> str:
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:,.0f} days"
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else "about a minute"


def _gib(size: float) -> str:
    return (
        f"{size / 2**30:,.1f} GiB" if size >= 2**30 / 10 else f"{max(1, round(size / 2**20)):,} MiB"
    )


def needs(recipe: Recipe, device: str, images: dict[str, int]) -> Needs:
    """Hours, disk and memory of a recipe. Args: images: source name to their number, for the
    sources of which it is known.
    """
    from gan_core import registry
    from gan_core.training.data import RESIDENT_SHARE
    from gan_core.training.step_cost import step_cost

    trained = sum(images.get(source.name, 0) for source in recipe.sources.train)
    evaluated = sum(images.get(source.name, 0) for source in recipe.evaluated())
    found = estimate(recipe, device, evaluated)
    cost = step_cost(recipe.train)
    method = cost.method
    moved = sum(cost.parameters(role) for role in cost.networks)
    snapshot = 4 * sum(
        cost.parameters(role) * (2 if role in method.averaged else 1)
        for role in cost.networks
        if role not in method.scratch
    )
    state = 2 * (snapshot + 8 * moved)  # two are kept, with Adam's two moments
    crop = 3 * recipe.crop.size**2
    # further roles have about as many features
    values = found.features * len(recipe.extract.roles) + sum(
        registry.load("baselines", baseline.name).dims(
            registry.options("baselines", baseline.name, baseline.options),
            recipe.crop.size,
            found.features,
        )
        for baseline in recipe.evaluate.baselines
    )
    disk = {
        "crops": crop * sum(images.values()),
        "training set": crop * trained,
        "features": 2 * values * evaluated,
        "snapshots and state": snapshot + state,
    }
    resident = crop * trained
    memory = {
        "hash": 3072 * min(trained, recipe.hash.fit_rows) * 5,  # uint8 and float32
        "train": (resident if resident <= RESIDENT_SHARE * memory_bytes() else 0) + 3 * state,
        "evaluate, with labels": found.evaluation_bytes,
    }
    fast = _training_seconds(recipe, found.gflop_per_image, _CUDA_GFLOPS["bf16"])
    return Needs(
        device,
        found.training_seconds,
        fast,
        found.gflop_per_image,
        found.features,
        found.length,
        dict(images),
        disk,
        memory,
    )


def _training_seconds(recipe: Recipe, gflop: float, rate: float) -> float:
    kimg = 0.0 if recipe.train.snapshot else recipe.train.kimg
    return kimg * 1000 * gflop / rate


def _held(rows: int, dims: int) -> int:
    """Bytes: float16 as read, float32 or two bf16 copies while the probe is fitted."""
    return rows * dims * (2 + 4)


def refuse_what_exceeds_memory(rows: int, dims: int) -> None:
    """Raises RequestError, with the figures, where evaluating `rows` images of `dims` values would
    not fit into memory.
    """
    memory = memory_bytes()
    if _held(rows, dims) > 0.9 * memory:
        raise RequestError(
            f"Evaluating {rows:,} images with {dims:,} features each would hold about "
            f"{_held(rows, dims) / 2**30:.0f} GiB; this machine has {memory / 2**30:.0f} GiB.",
            expected="features that fit into memory",
            remedy=(
                "--scale small, fewer images (--set sources.train.NAME.limit=N), or a smaller "
                "train.network.width"
            ),
        )


def refuse_the_impossible(
    recipe: Recipe, device: str, rows: int, *, trains: bool = True
) -> Estimate:
    """The estimate, or an error with its figures when the run would not fit into memory or a day.

    Raises:
        RequestError: what would not fit, by how much, and the setting to change.
    """
    found = estimate(recipe, device, rows)
    refuse_what_exceeds_memory(rows, found.features)
    if trains and found.training_seconds > DAY:
        kimg = recipe.train.kimg * DAY / found.training_seconds
        raise RequestError(
            f"Training {recipe.train.kimg:,g} kimg of {recipe.train.network.name} (width "
            f"{recipe.train.network.width:g}) would take about "
            f"{found.training_seconds / 3600:.0f} hours on {device} ({found.gflop_per_image:.2f} "
            "GFLOP an image).",
            expected="a training that ends within a day",
            remedy=f"--scale small, a GPU, --set train.kimg={kimg:.0f}, or --max-seconds to train "
            "in portions",
        )
    return found
