"""Crop artifacts of scikit-learn's real digits, and requests over them, for the tests of extract
and evaluate.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits

from gan_core import schemas, shards
from gan_core.contract import ArtifactRef, StageInput, StageRequest


def digits_crops(
    folder: Path, count: int = 400, size: int = 32, shard_total: int = 4, labels: str = "yes"
) -> Path:
    """Writes a crop artifact of the first `count` digits, repeated up to `size`; a fifth of them is
    the test split.
    """
    digits = load_digits()
    levels = (digits.images[:count] * 15.9375).astype(np.uint8)
    pixels = np.repeat(np.repeat(levels, size // 8, 1), size // 8, 2)[..., None].repeat(3, -1)
    rows: list[dict[str, Any]] = []
    places: dict[int, list[int]] = {}
    for number in range(len(pixels)):
        identity = schemas.image_id("digits", "digits.npz", str(number))
        shard = schemas.shard_of(identity, shard_total)
        inside = places.setdefault(shard, [])
        inside.append(number)
        label = None if labels == "none" else 3 if labels == "one" else int(digits.target[number])
        rows.append(
            {
                "image_id": identity,
                "box": 0,
                "source": "digits",
                "address": "digits.npz",
                "member": str(number),
                "split": "test" if int(identity[-4:], 16) % 5 == 0 else "train",
                "label": label,
                "label_name": None if label is None else str(label),
                **dict.fromkeys(("x0", "y0"), 0.0),
                **dict.fromkeys(("x1", "y1"), 8.0),
                "status": "ok",
                "reason": "",
                "shard": shard,
                "row": len(inside) - 1,
                "content_sha256": hashlib.sha256(pixels[number].tobytes()).hexdigest(),
                "attributes": "",
            }
        )
    failed = {
        **rows[0],
        "image_id": schemas.image_id("digits", "broken.png"),
        "address": "broken.png",
        "member": "",
    }
    rows.append(
        {
            **failed,
            "status": "failed",
            "reason": "truncated: 3 bytes",
            "shard": None,
            "row": None,
            "label": None,
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    shards.write_rows(folder, pa.Table.from_pylist(rows, schema=schemas.CROPS))
    for shard, numbers in places.items():
        shards.write_shard(folder, shard, pixels[numbers])
    return folder


def given(stage: str, folder: Path, digest: str = "a") -> StageInput:
    """An input as the planner gives it."""
    return StageInput(ref=ArtifactRef(stage=stage, key="0" * 32, digest=digest * 64), path=folder)


def extract_request(
    crops: Path, work: Path, features: str = "random", **settings: Any
) -> StageRequest:
    """A request for the untrained 7,168-feature network at a quarter of its width, or for the
    pixels.
    """
    work.mkdir(parents=True, exist_ok=True)
    extra = settings.pop("inputs", {})
    part: dict[str, Any] = {
        "features": features,
        "options": settings.pop("options", {}),
        "extract": settings,
        "seed": 0,
        "threads": 1,
        "image_size": 32,
    }
    part["network"] = {"name": "dcgan32_svhn", "width": 0.25, "latent_dim": None}
    inputs = {"crops": [given("crop", crops)], "pack": [given("pack", crops, "b")], **extra}
    return StageRequest(
        stage="extract",
        node=f"extract:digits:{features}",
        key="k",
        part=part,
        inputs=inputs,
        context={"device": "cpu"},
        work=work,
    )


def evaluate_request(
    features: Path,
    work: Path,
    probe: str = "linear_svm",
    grid: list[float] | None = None,
    **protocol: Any,
) -> StageRequest:
    """A request for one cell."""
    work.mkdir(parents=True, exist_ok=True)
    part = {
        "probe": {"name": probe, "grid": grid or []},
        "protocol": protocol,
        "features": "random",
        "seed": 0,
        "threads": 1,
    }
    inputs = {"features": [given("extract", features)]}
    return StageRequest(
        stage="evaluate",
        node="evaluate",
        key="k",
        part=part,
        inputs=inputs,
        context={"device": "cpu"},
        work=work,
    )
