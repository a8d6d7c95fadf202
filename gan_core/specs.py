"""What each stage is to the planner and the store: version, content, where it runs. Imports nothing
heavy.

Raise `version` when a change alters what the stage writes for the same request;
`tests/contract/test_stage_versions.py` compares the syntax trees of a stage's `code` with the
remembered ones and says which line to edit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gan_core.errors import UnknownName


@dataclass(frozen=True)
class StageSpec:
    """One stage.

    Attributes:
        name: the stage's name, and its module in gan_core/stages.
        version: in the key; raised when equal requests would give other content.
        content: glob patterns of the files whose bytes make the digest; every other file is a
            by-product.
        code: files and folders of gan_core whose code decides the content.
        child: runs in a process of its own, which a time limit can end and which gives its GPU
            memory back.
        time_limit: seconds after which the task ends it.
        keyless: settings of its part that change no content and stay out of the key.
        shares: its long part can be divided: with `share` [k, n] it leaves the k-th of n shares in
            its work folder and publishes nothing; with `shares` n afterwards it publishes them all.
    """

    name: str
    version: int
    content: tuple[str, ...]
    code: tuple[str, ...]
    child: bool = False
    time_limit: float = 6 * 3600
    keyless: frozenset[str] = field(default_factory=frozenset)
    shares: bool = False


_ALL = (
    StageSpec(
        "ingest",
        5,
        ("images.parquet",),
        ("stages/ingest.py", "datasets", "vision/headers.py", "vision/image_files.py"),
    ),
    StageSpec(
        "crop",
        3,
        ("crops.parquet", "pixels-*.npy", "masks-*.npy"),
        ("stages/crop.py", "datasets", "vision"),
        shares=True,
    ),
    StageSpec(
        "hash",
        5,
        ("codes.parquet", "encoder.safetensors"),
        ("stages/hash.py", "dedup/hashing/autoencoder.py", "dedup/hashing/codes.py"),
    ),
    StageSpec(
        "dedup",
        5,
        ("duplicates.parquet", "pairs.parquet", "leaked.parquet", "quality.json"),
        ("stages/dedup.py", "dedup", "metrics/intervals.py"),
    ),
    StageSpec("pack", 2, ("crops.parquet", "pixels-*.npy", "masks-*.npy"), ("stages/pack.py",)),
    StageSpec(
        "train",
        3,
        ("snapshot-*.safetensors",),
        ("stages/train.py", "training", "methods", "networks"),
        child=True,
        time_limit=7 * 24 * 3600,
        keyless=frozenset({"log_kimg", "grid_kimg", "state_kimg", "probe_kimg"}),
    ),
    StageSpec(
        "extract",
        4,
        ("features-*.parquet", "statistics.safetensors", "codebook.safetensors"),
        ("stages/extract.py", "features", "baselines", "networks"),
        child=True,
        time_limit=24 * 3600,
        shares=True,
    ),
    StageSpec(
        "evaluate",
        5,
        ("scores.parquet", "predictions.parquet", "choices.parquet"),
        (
            "stages/evaluate.py",
            "evaluation",
            "probes",
            "metrics/draws.py",
            "features/parquet.py",
            "metrics/intervals.py",
        ),
        time_limit=24 * 3600,
    ),
    StageSpec(
        "inspect",
        3,
        ("*.json", "*.png", "*.safetensors"),
        (
            "stages/inspect.py",
            "inspection",
            "networks",
            "metrics/generation.py",
            "evaluation/split.py",
        ),
    ),
    StageSpec("report", 7, ("summary.json",), ("stages/report.py", "reporting")),
)

STAGES: dict[str, StageSpec] = {spec.name: spec for spec in _ALL}


def spec_of(stage: str) -> StageSpec:
    """The stage of that name.

    Raises:
        UnknownName: there is none.
    """
    if stage not in STAGES:
        raise UnknownName("stage", stage, STAGES)
    return STAGES[stage]


# stage to the role of its artifacts in a report
REPORT_ROLES = {
    "ingest": "images",
    "crop": "crops",
    "hash": "codes",
    "dedup": "duplicates",
    "pack": "pack",
    "train": "snapshot",
    "extract": "features",
    "evaluate": "cells",
    "inspect": "inspect",
}
