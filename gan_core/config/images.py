"""Sections `crop`, `hash` and `dedup`: from images to a training set without near-duplicates."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from gan_core.validation import Section


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
