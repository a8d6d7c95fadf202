"""The recipe: the sections together, with those of inspections and of the report."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from gan_core import registry
from gan_core.config.evaluation import EvaluateConfig
from gan_core.config.features import ExtractConfig
from gan_core.config.images import CropConfig, DedupConfig, HashConfig
from gan_core.config.sources import SourceConfig, SourcesConfig
from gan_core.config.training import TrainConfig
from gan_core.validation import Section


def _file_name(value: str) -> str:
    """Text that can be a part of a file's name anywhere."""
    if not re.fullmatch(r"\w[\w .()+-]{0,49}", value):
        raise ValueError(
            "Input should be at most 50 letters, digits and '_ .()+-', a letter or digit first"
        )
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
