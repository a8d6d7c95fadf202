"""Section `sources`: the sets of images and their splits."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gan_core.config.plugins import Dataset, DatasetOptions
from gan_core.validation import Section


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
