"""Section `extract`: which activations become features."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from gan_core.validation import Section

FeatureMode = Literal["dcgan", "output", "ali", "avepool", "bn_crelu"]


class ExtractConfig(Section):
    """Which activations become features (DCGAN paper, section 5.1)."""

    network: str = Field(
        "",
        description=(
            "a role of the snapshot, such as discriminator or encoder; empty: the method's own "
            "choice; an external network is my_module:Discriminator, and then no GAN is trained"
        ),
    )
    also: list[str] = Field(
        default_factory=list,
        description=(
            "further roles of the snapshot whose features are extracted and scored in the same "
            "run, such as discriminator and generator"
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

    @property
    def roles(self) -> list[str]:
        """All roles of the snapshot whose features are extracted, the recipe's own first."""
        return list(dict.fromkeys([self.network, *self.also]))

    def of_role(self, role: str) -> ExtractConfig:
        """The settings of one role alone: those of a recipe that names no other."""
        return self.model_copy(update={"network": role, "also": []})

    @model_validator(mode="after")
    def _settings_go_together(self) -> ExtractConfig:
        if ":" in self.network and self.also:
            raise ValueError("extract.also names roles of a snapshot; an external network has none")
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
