"""Section `evaluate`: probes, baselines and the protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gan_core import registry
from gan_core.config.plugins import Baseline, BaselineOptions, Probe, ProbeOptions
from gan_core.validation import Section

Labels = Annotated[int, Field(ge=1)] | Literal["all"]
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
