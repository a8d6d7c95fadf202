"""A recipe: every choice of a run, as models that refuse what they do not know.

A section of the recipe belongs to one stage, and its values other than the defaults are part of
that stage's key (`key_part`): a field at its default is left out, so that a new field invalidates
no cache. What must never enter a key (device, workers, paths, logging) is not here: it travels as
the context of a request.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gan_core import registry
from gan_core.validation import Section as Section

Processes = Annotated[int, Field(ge=1, le=1024)] | Literal["auto"]
Labels = Annotated[int, Field(ge=1)] | Literal["all"]
FeatureMode = Literal["dcgan", "output", "ali", "avepool", "bn_crelu"]


def _options(kind: str, field: str) -> Callable[[dict[str, Any], ValidationInfo], dict[str, Any]]:
    """A validator of a plug-in's options: keeps those that differ from the plug-in's defaults.

    Args:
        field: the field of the plug-in's name, before its options.
    """

    def validate(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get(field)
        if name is None:
            return value
        return registry.options(kind, name, value).key_part()

    return validate


def _plugin(kind: str) -> AfterValidator:
    return AfterValidator(partial(registry.check, kind))


def _below(value: str) -> str:
    """A path that stays below the folder that it starts from."""
    path = PurePath(value)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not value.isprintable()
        or value != value.strip()
    ):
        raise ValueError("Input should be a folder below --data: no '..', and no '/' in front")
    return value


def _file_name(value: str) -> str:
    """Text that can be a part of a file's name anywhere."""
    if not re.fullmatch(r"\w[\w .()+-]{0,49}", value):
        raise ValueError(
            "Input should be at most 50 letters, digits and '_ .()+-', a letter or digit first"
        )
    return value


Method = Annotated[str, _plugin("methods")]
Network = Annotated[str, _plugin("networks")]
Dataset = Annotated[str, _plugin("datasets")]
Probe = Annotated[str, _plugin("probes")]
Baseline = Annotated[str, _plugin("baselines")]
MethodOptions = Annotated[dict[str, Any], AfterValidator(_options("methods", "method"))]
NetworkOptions = Annotated[dict[str, Any], AfterValidator(_options("networks", "name"))]
DatasetOptions = Annotated[dict[str, Any], AfterValidator(_options("datasets", "dataset"))]
ProbeOptions = Annotated[dict[str, Any], AfterValidator(_options("probes", "name"))]
BaselineOptions = Annotated[dict[str, Any], AfterValidator(_options("baselines", "name"))]


class SplitConfig(Section):
    """How rows without a published split are divided, by content hash: identical files never
    straddle splits.
    """

    use: Literal["published", "content"] = Field(
        "published",
        description=(
            "published: the source's own splits where it names them; content: divide all rows"
        ),
    )
    test: float = Field(
        0.2, ge=0, lt=1, description="share of rows for the test split when the source names none"
    )
    seed: int = Field(0, description="another seed gives another division")


class SourceConfig(Section):
    """A set of images at one address.

    `dataset` is a file name in gan_core/datasets (or a dotted path to a module of your own);
    `folder` is where the source lies under the `--data` root when a recipe has more than one
    source.
    """

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        max_length=50,
        description="the name used in addresses and ids",
    )
    dataset: Dataset = Field("folder", description="the kind of source")
    folder: Annotated[str, AfterValidator(_below)] | None = Field(
        None, description="folder under --data when several sources share a root"
    )
    splits: list[Literal["train", "validation", "test"]] | None = Field(
        None, description="only these splits; None: all"
    )
    layout: str = Field(
        "",
        description=(
            "what is expected there and how it is laid out, for users who do not have it yet"
        ),
    )
    images: int | None = Field(
        None, ge=1, description="how many are expected, for estimates before they are read"
    )
    limit: int | None = Field(
        None, ge=1, description="at most this many rows of each split, chosen by hash of their id"
    )
    split: SplitConfig = SplitConfig()
    options: DatasetOptions = Field(
        default_factory=dict, description="settings of the dataset itself"
    )


class SourcesConfig(Section):
    """Sources by role. The GAN is trained on `train` (labels unused); `evaluate` gives features."""

    train: list[SourceConfig] = Field(min_length=1)
    evaluate: list[SourceConfig] = Field(
        default_factory=list, description="empty: the training sources"
    )


class CropConfig(Section):
    """From a decoded image to a square of `size` pixels.

    centre: shorter side resized to `size` (area interpolation down, linear up), then the centre is
    cut out (DCGAN paper, section 4). faces: one crop per detected face.
    """

    kind: Literal["centre", "faces"] = "centre"
    size: int = Field(32, ge=8, le=512, description="side of the crop in pixels")
    windows: int = Field(
        1,
        ge=1,
        description="squares of a centre crop, evenly spaced along the longer side; 1: the middle",
    )
    max_megapixels: float = Field(
        100.0, gt=0, description="images that declare more are refused unread, as a row"
    )
    face_cascade: Literal["alt2", "default"] = Field(
        "alt2", description="OpenCV's frontal-face cascade; alt2 finds as many, faster"
    )
    face_margin: float = Field(
        1.3, ge=1, le=3, description="side of the square over the longer side of the detector's box"
    )
    face_min_side: int = Field(64, ge=16, description="smallest face box in pixels of the original")
    face_scale_factor: float = Field(1.1, gt=1, le=2)
    face_min_neighbors: int = Field(5, ge=1)


class HashConfig(Section):
    """The 3072-128-3072 denoising, dropout-regularised ReLU autoencoder (DCGAN paper, section 4.1).

    The paper names the network and the threshold; noise, dropout rates, optimiser and length are
    ours.
    """

    epochs: int = Field(1, ge=1)
    min_steps: int = Field(
        1000,
        ge=0,
        description="least number of steps: a small set is shown for more than `epochs`",
    )
    batch: int = Field(48, ge=1)
    learning_rate: float = Field(1.5e-3, gt=0)
    input_dropout: float = Field(
        0.2, ge=0, lt=1, description="share of input values set to 0 (the noise)"
    )
    code_dropout: float = Field(0.5, ge=0, lt=1)
    fit_rows: int = Field(
        200_000, ge=1, description="at most this many crops are used to fit; all are encoded"
    )


class DedupConfig(Section):
    """Which crops are near-duplicates of which; ids only, pixels stay.

    verified: neighbours by edge histograms and by code, each pair verified on pixels with tolerance
    for shift, scale, brightness and mirroring. paper: equal codes (DCGAN paper, section 4.1).
    radius: codes within `radius` bits. off: everything is kept.
    """

    mode: Literal["verified", "paper", "radius", "off"] = "verified"
    threshold: float = Field(
        0.92, gt=0, le=1, description="verified: least correlation of details after alignment"
    )
    neighbours: int = Field(
        10,
        ge=1,
        le=1000,
        description="verified: nearest images that are compared with each image",
    )
    mirror: bool = Field(True, description="verified: mirror images count as duplicates")
    radius: int = Field(
        2, ge=0, le=16, description="bits; mode radius, and candidates of mode verified"
    )
    max_group: int = Field(1000, ge=2, description="a group of more crops than this gets a warning")
    leakage: bool = Field(
        True,
        description=(
            "verified: search the held-out splits in the training split; nothing is removed"
        ),
    )
    measure: bool = Field(
        True,
        description=(
            "measure the search for the report: injected duplicates, chance look-alikes, "
            "other thresholds"
        ),
    )

    @field_validator("mode", mode="before")
    @classmethod
    def _off_in_yaml(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML 1.1 reads a bare off as false


class NetworkConfig(Section):
    """An architecture and its width."""

    name: Network = Field(
        "dcgan32_svhn", description="file name in gan_core/networks, or a dotted path"
    )
    width: float = Field(1.0, gt=0, le=8, description="factor on every layer's number of maps")
    latent_dim: int | None = Field(None, ge=1, description="None: the network's own")
    options: NetworkOptions = Field(default_factory=dict, description="settings of the network")


class ScheduleConfig(Section):
    """The learning rate over a training: a factor on it, as a function of kimg."""

    kind: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    warmup_kimg: float = Field(0.0, ge=0, description="linear rise from 0 at the beginning")
    from_kimg: float = Field(0.0, ge=0, description="the factor is 1 until here, then it falls")
    until_kimg: float | None = Field(
        None, gt=0, description="`final` is reached here; None: at train.kimg"
    )
    final: float = Field(0.0, ge=0, le=1, description="last factor; exponential: above 0")

    @model_validator(mode="after")
    def _exponential_ends_above_zero(self) -> ScheduleConfig:
        if self.kind == "exponential" and self.final == 0:
            raise ValueError("an exponential schedule needs `final` above 0, such as 0.01")
        return self

    def factor(self, kimg: float, length: float) -> float:
        """The factor on the rate at `kimg`. Args: length: train.kimg."""
        warm = min(1.0, kimg / self.warmup_kimg) if self.warmup_kimg else 1.0
        if self.kind == "constant":
            return warm
        until = self.until_kimg or length
        t = min(1.0, max(0.0, kimg - self.from_kimg) / max(until - self.from_kimg, 1e-9))
        if self.kind == "exponential":
            return float(warm * self.final**t)
        falling = 1 - t if self.kind == "linear" else (1 + math.cos(math.pi * t)) / 2
        return warm * (self.final + (1 - self.final) * falling)


class TrainConfig(Section):
    """How the GAN is trained. Lengths are in kimg: thousands of real images shown to the
    discriminator.
    """

    method: Method = Field("dcgan", description="file name in gan_core/methods, or a dotted path")
    options: MethodOptions = Field(default_factory=dict, description="settings of the method")
    network: NetworkConfig = NetworkConfig()
    snapshot: str | None = Field(
        None,
        description="name of an imported snapshot to use instead of training (`discern import`)",
    )
    start: str | None = Field(
        None,
        description=(
            "the snapshot of another training to start from: its file, or the address of a train "
            "artifact; its digest is in the key"
        ),
    )
    kimg: float = Field(1000.0, gt=0)
    batch: int = Field(128, ge=2)
    accumulate: int = Field(
        1,
        ge=1,
        description="gradient accumulation: parts that a batch is split into, to save memory",
    )
    learning_rate: float = Field(2e-4, gt=0)
    schedule: ScheduleConfig = ScheduleConfig()
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(
        1e-5, ge=0, description="added to the gradient before Adam's moments, as the authors do"
    )
    ema_kimg: float = Field(
        10.0, ge=0, description="half-life of the averaged generator (modern); 0 is off"
    )
    flip: bool = Field(False, description="mirror each real image with probability one half")
    processes: Processes = Field(
        1,
        description=(
            "training processes on this machine, each with its share of a batch; auto: "
            "one for each GPU"
        ),
    )
    synchronise_norms: bool = Field(
        True,
        description=(
            "with several processes: batch norm over all of them, or each over its own share"
        ),
    )
    probe_kimg: float = Field(
        0.0,
        ge=0,
        description=(
            "kimg between two fits of a linear probe, scored on validation labels of the training "
            "images; 0: no probe"
        ),
    )
    choose: Literal["last", "best_probe"] = Field(
        "last",
        description=(
            "the snapshot whose features are extracted; best_probe: the one with the best accuracy "
            "of that probe (stated in every result)"
        ),
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "float32", description="auto: bf16 where the processor has units for it"
    )
    compile: Literal["auto", "off", "graphs"] = Field(
        "auto",
        description=(
            "graphs: each step as one CUDA graph; auto: graphs on a GPU where training is long "
            "enough to pay, off on a CPU (docs/benchmarks.md)"
        ),
    )
    log_kimg: float = Field(2.0, gt=0, description="kimg between two lines of statistics")
    grid_kimg: float = Field(
        0.0, ge=0, description="kimg between two sample grids; 0: six over the training"
    )
    snapshot_kimg: float = Field(
        0.0, ge=0, description="kimg between two snapshots; 0: only the last one"
    )
    state_kimg: float = Field(
        10.0,
        gt=0,
        description="kimg between two checkpoints to resume from, each after a line of statistics",
    )
    on_divergence: Literal["stop", "rollback", "warn"] = Field(
        "stop",
        description=(
            "rollback: continue from the last good checkpoint with half the learning rate, at most "
            "three times; warn: continue with a warning"
        ),
    )
    on_new_data: Literal["ignore", "retrain", "continue"] = Field(
        "retrain",
        description=(
            "a training set that has grown: keep the present snapshot, train again, or "
            "continue from its last checkpoint"
        ),
    )
    min_new_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="retrain, continue: below this share of new images the present snapshot stays",
    )
    continue_kimg: float = Field(
        0.0, ge=0, description="continue: further kimg on the grown set; 0: `kimg` again"
    )

    @model_validator(mode="after")
    def _choice_has_a_probe(self) -> TrainConfig:
        if self.choose == "best_probe" and not self.probe_kimg:
            raise ValueError(
                "choose best_probe needs a probe: give train.probe_kimg, the kimg between two fits"
            )
        return self


class ExtractConfig(Section):
    """Which activations become features (DCGAN paper, section 5.1)."""

    network: str = Field(
        "",
        description=(
            "a role of the snapshot, such as discriminator or encoder; empty: the method's own "
            "choice; an external network is my_module:Discriminator, and then no GAN is trained"
        ),
    )
    weights: str | None = Field(
        None,
        description=(
            "external network: file of its weights, safetensors or a state dict; its "
            "digest is in the key"
        ),
    )
    network_args: dict[str, Any] = Field(
        default_factory=dict, description="external network: arguments of its constructor"
    )
    side: int | None = Field(
        None,
        ge=1,
        description=(
            "external network: images are resized to this side; None: to one that it accepts"
        ),
    )
    values: Literal["-1..1", "0..1", "imagenet"] = Field(
        "-1..1", description="external network: what it was trained on"
    )
    mode: FeatureMode = Field(
        "dcgan",
        description=(
            "dcgan: all convolutional layers, pooled; output, ali, avepool, bn_crelu: see "
            "gan_core/features/modes.py"
        ),
    )
    layers: list[str] | None = Field(None, description="None: the mode's choice")
    grid: int = Field(4, ge=1, description="mode dcgan: maps are pooled to grid x grid")
    pool: Literal["max", "average", "both"] = Field(
        "max", description="mode dcgan; both: maxima and averages joined"
    )
    shift: int = Field(
        0,
        ge=0,
        le=16,
        description="averaged over nine views shifted by this many pixels; 0: one view",
    )
    mirror: bool = Field(False, description="averaged over each view and its mirror image")
    crop: int = Field(
        0,
        ge=0,
        description=(
            "side in pixels of native crops, averaged by quadrant, for a network that was trained "
            "on crops; 0: whole images"
        ),
    )
    crops: int = Field(4, ge=2, le=32, description="crops per side")
    statistics: Literal["real", "running"] = Field(
        "real", description="real: batch-norm statistics recomputed over training images"
    )
    statistics_images: int = Field(10_000, ge=1, description="at most this many of them")
    batch: int = Field(128, ge=1)
    precision: Literal["float32", "bf16"] = "float32"

    @model_validator(mode="after")
    def _settings_go_together(self) -> ExtractConfig:
        outside = [name for name in ("weights", "network_args", "side") if getattr(self, name)]
        if ":" not in self.network and outside:
            raise ValueError(
                f"{', '.join(outside)} belong to an external network (extract.network: "
                "my_module:Discriminator)"
            )
        if self.crop and (self.shift or self.mode == "bn_crelu"):
            raise ValueError("extract.crop goes with neither extract.shift nor mode bn_crelu")
        if self.mode != "dcgan" and (self.grid != 4 or self.pool != "max"):
            raise ValueError(
                f"grid and pool belong to mode 'dcgan'; mode {self.mode!r} has its own"
            )
        return self


Preparation = Literal["sqrt", "standardise"]


class ProbeConfig(Section):
    """A classifier on frozen features and the values of its setting that are tried.

    The values (C, k, alpha) are compared on the validation split.
    """

    name: Probe = Field(description="file name in gan_core/probes, or a dotted path")
    grid: list[float] = Field(default_factory=list, description="values tried; empty: the probe's")
    grids: dict[str, list[float]] = Field(
        default_factory=dict,
        description="other values for the features of some baselines: {NAME: [0.001, 0.002]}",
    )
    options: ProbeOptions = Field(default_factory=dict, description="settings of the probe")
    prepare: list[Preparation] = Field(
        default_factory=list,
        description="transforms of the features before the fit, in this order: sqrt (signed square "
        "root), standardise (over the training rows)",
    )

    @property
    def label(self) -> str:
        """Name and preparation: 'linear_svm+sqrt+standardise', as tables and nodes have it."""
        return "+".join([self.name, *self.prepare])

    @model_validator(mode="after")
    def _values_can_be_fitted(self) -> ProbeConfig:
        least = registry.literal("probes", self.name, "LEAST")
        above = registry.literal("probes", self.name, "ABOVE")
        whole = registry.literal("probes", self.name, "WHOLE", False)
        for value in [*self.grid, *(value for values in self.grids.values() for value in values)]:
            if (
                (whole and not float(value).is_integer())
                or (least is not None and value < least)
                or (above is not None and value <= above)
            ):
                numbers = "whole numbers" if whole else "numbers"
                bound = f"above {above:g}" if above is not None else f"from {least:g}"
                raise ValueError(
                    f"{self.name} cannot be fitted with {value:g}: its values are {numbers} {bound}"
                )
        return self

    def values(self, features: str) -> list[float]:
        """The values tried on some features; empty: what the probe's file says.

        The recipe's own for these features, else its grid, else those of the baseline's file.
        """
        given = self.grids.get(features) or self.grid
        if given or features not in registry.names("baselines"):
            return given
        return list(registry.literal("baselines", features, "GRIDS", {}).get(self.name, []))


class BaselineConfig(Section):
    """Features that the trained network's must beat."""

    name: Baseline = Field(description="file name in gan_core/baselines, or a dotted path")
    options: BaselineOptions = Field(default_factory=dict, description="settings of the baseline")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


def _few_and_all() -> list[Labels]:
    return [10, 100, "all"]


def _default_probes() -> list[ProbeConfig]:
    return [ProbeConfig(name="linear_svm"), ProbeConfig(name="logistic")]


def _default_baselines() -> list[BaselineConfig]:
    return [BaselineConfig(name="pixels"), BaselineConfig(name="random")]


class EvaluateConfig(Section):
    """Protocol: how labels are drawn, how choices are made, what is scored."""

    protocol: str = Field(
        "own",
        description=(
            "a published protocol (gan_core/recipes/protocols), the defaults of the settings below"
        ),
    )
    labels_per_class: list[Labels] = Field(default_factory=_few_and_all)
    draws: int = Field(5, ge=1, description="draws of labels at each number below 'all'")
    final_draws: int = Field(
        0, ge=0, description="fresh draws that are scored once choices are made; 0: the same draws"
    )
    validation: float = Field(
        0.2, gt=0, lt=1, description="share of the training labels on which choices are made"
    )
    validation_rows: int | None = Field(
        None,
        ge=1,
        description="number of training rows instead of a share; at most half of them",
    )
    train_rows: Literal["all", "kept"] = "all"
    exclude_leaked: bool | None = Field(
        None,
        description=(
            "score the test split a second time without the images that dedup found in the "
            "training split; None: where dedup searches for them; true: refuse a recipe where it "
            "does not"
        ),
    )
    probes: list[ProbeConfig] = Field(default_factory=_default_probes)
    baselines: list[BaselineConfig] = Field(default_factory=_default_baselines)

    @field_validator("probes", "baselines")
    @classmethod
    def _names_differ(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        names = [getattr(entry, "label", entry.name) for entry in value]
        if len(set(names)) < len(names):
            hint = "; put all values into one grid" if info.field_name == "probes" else ""
            raise ValueError(f"each name occurs once{hint}")
        return value

    @field_validator("labels_per_class")
    @classmethod
    def _not_empty(cls, value: list[Labels]) -> list[Labels]:
        if not value:
            raise ValueError("give at least one number of labels per class, or 'all'")
        return value


class ReportConfig(Section):
    """What the report shows."""

    title: str | None = None
    caveat: str | None = Field(
        None, description="one honest line on what this set can and cannot show"
    )
    next: list[str] = Field(default_factory=list, description="what to try next, as commands")


class SegmenterConfig(Section):
    """Which class each pixel of an image shows, for the inspections that need it."""

    palette: dict[str, list[int]] = Field(
        default_factory=dict, description="class to colour (RGB): the nearest colour decides"
    )
    network: str = Field(
        "",
        description="unet: a small network fitted on the masks of the training set; or "
        "my_module:Segmenter, torchvision.models.segmentation:NAME(num_classes=21)",
    )
    weights: str = Field("", description="file of a network's weights: safetensors or a state dict")
    classes: list[str] = Field(default_factory=list, description="names of the classes, from 0 on")
    steps: int = Field(1500, ge=10, description="minibatches of 32 that the unet is fitted on")


def default_inspections() -> list[str]:
    """Inspections that are made unless a recipe leaves them out, in the report's order."""
    names = registry.names("inspection")
    wanted = [name for name in names if registry.literal("inspection", name, "DEFAULT", True)]
    return sorted(wanted, key=lambda name: registry.literal("inspection", name, "ORDER", 100))


class Recipe(Section):
    """One run's choices. `scales` holds overlays (`debug`, `small`, `full`) over the sections below
    it.
    """

    name: Annotated[str, AfterValidator(_file_name)] = Field(
        description="the name of the run's folder begins with it"
    )
    about: str = ""
    scale: Annotated[str, AfterValidator(_file_name)] = "full"
    seed: int = Field(0, ge=0)
    threads: int = Field(
        0, ge=0, le=4096, description="CPU threads of each computation; 0: all cores but one"
    )
    sources: SourcesConfig
    crop: CropConfig = CropConfig()
    hash: HashConfig = HashConfig()
    dedup: DedupConfig = DedupConfig()
    train: TrainConfig = TrainConfig()
    extract: ExtractConfig = ExtractConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    inspect: dict[str, Any] = Field(
        default_factory=dict,
        description=(
            "options of inspections by name, added to the defaults; null or false leaves one out; "
            "a list of names: these alone"
        ),
    )
    report: ReportConfig = ReportConfig()

    @field_validator("inspect", mode="before")
    @classmethod
    def _these_alone(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if not all(isinstance(name, str) for name in value):
            raise ValueError("a list holds names of inspections; options need a mapping")
        return dict.fromkeys(default_inspections(), False) | {name: {} for name in value}

    @field_validator("inspect")
    @classmethod
    def _inspections_exist(cls, value: dict[str, Any]) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        for name, given in value.items():
            if not isinstance(given, dict | bool | None):
                raise ValueError(f"{name} needs a mapping of options; null or false leaves it out")
            options = given if isinstance(given, dict) else {}
            parts = registry.options("inspection", name, options).key_part()
            checked[name] = False if given in (None, False) else parts
        return checked

    @model_validator(mode="after")
    def _source_names_differ(self) -> Recipe:
        seen: dict[str, SourceConfig] = {}
        for source in [*self.sources.train, *self.sources.evaluate]:
            if seen.setdefault(source.name, source) != source:
                raise ValueError(
                    f"two different sources are called {source.name!r}; give one another name"
                )
        return self

    @model_validator(mode="after")
    def _leaked_images_are_known(self) -> Recipe:
        unknown = [
            source.name for source in self.evaluated() if not self.searches_leaks(source.name)
        ]
        if self.evaluate.exclude_leaked and unknown:
            raise ValueError(
                "evaluate.exclude_leaked is true, but no stage searches for the test images of "
                f"{', '.join(unknown)} in the training split: dedup.mode 'verified' with "
                "dedup.leakage true does, for sources that are trained on; leave exclude_leaked "
                "out to score without leaked images where they are known"
            )
        return self

    def searches_leaks(self, source: str) -> bool:
        """Whether dedup searches the training split for this source's held-out images."""
        return (
            self.dedup.mode == "verified"
            and self.dedup.leakage
            and any(one.name == source for one in self.sources.train)
        )

    def inspections(self) -> dict[str, dict[str, Any]]:
        """Inspection to its options, in the report's order: the defaults that the method has the
        networks for, then what is named.
        """
        available = {"features", *registry.literal("methods", self.train.method, "FEATURES", ())}
        defaults = [
            name
            for name in default_inspections()
            if available.issuperset(registry.literal("inspection", name, "NEEDS", ()))
        ]
        wanted = [*defaults, *self.inspect]
        given = {name: self.inspect.get(name, {}) for name in wanted}
        return {name: options for name, options in given.items() if isinstance(options, dict)}

    def all_sources(self) -> list[SourceConfig]:
        """Every source once, training sources first."""
        return list(
            {source.name: source for source in [*self.sources.train, *self.evaluated()]}.values()
        )

    def evaluated(self) -> list[SourceConfig]:
        """The sources whose features are extracted: the ones named, else the training sources."""
        return self.sources.evaluate or self.sources.train
