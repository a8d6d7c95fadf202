"""A small run over real digits for the tests of the report: every stage that has scores or images
in it is the real one.

The digits carry planted copies and two files that are no images. Loaded by path, since tests are no
package.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from sklearn.datasets import load_digits

from gan_core import schemas
from gan_core.contract import ArtifactRef, StageInput, StageRequest
from gan_core.files import sha256_file, write_table
from gan_core.progress import silent
from gan_core.shards import write_rows, write_shard

COPIES = 9
BROKEN = (
    ("broken/half.png", "truncated: the file ends in the middle of an image"),
    ("broken/notes.png", "not_an_image: text"),
)


def stage_input(stage: str, path: Path) -> StageInput:
    digest = hashlib.sha256(
        "".join(sha256_file(p) for p in sorted(path.glob("*")) if p.is_file()).encode()
    ).hexdigest()
    return StageInput(ref=ArtifactRef(stage=stage, key=digest[:32], digest=digest), path=path)


def digit_rows(count: int, source: str) -> tuple[list[dict[str, Any]], np.ndarray]:
    """`count` digits of which the last COPIES are copies of the first ones, and two files that are
    no images.
    """
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))[: count - COPIES]
    order = np.concatenate([order, order[:COPIES]])
    pixels = np.stack(
        [
            cv2.resize(np.clip(found.images[i] * 16, 0, 255).astype(np.uint8), (32, 32))
            for i in order
        ]
    )
    rows = []
    for n, i in enumerate(order):
        address = f"digits/{n:04d}.png"
        content = hashlib.sha256(pixels[n].tobytes()).hexdigest()
        rows.append(
            {
                "image_id": schemas.image_id(source, address),
                "box": 0,
                "source": source,
                "address": address,
                "member": "",
                "content_sha256": content,
                "split": "test" if int(content, 16) % 4 == 0 else "train",
                "label": int(found.target[i]),
                "label_name": str(found.target[i]),
                "status": "ok",
                "reason": "",
                "format": "PNG",
                "width": 8,
                "height": 8,
            }
        )
    return rows, pixels[..., None].repeat(3, axis=3)


def write_source(home: Path, source: str, count: int, *, labels: bool = True) -> dict[str, Path]:
    """Artifacts of ingest, crop, dedup and pack for some digits, as those stages lay them out."""
    rows, pixels = digit_rows(count, source)
    if not labels:
        for row in rows:
            row |= {"label": None, "label_name": None}
    broken = [
        {
            "image_id": schemas.image_id(source, a),
            "box": -1,
            "source": source,
            "address": a,
            "status": "failed",
            "reason": r,
        }
        for a, r in BROKEN
    ]
    folders = {
        name: home / f"{name}-{source}" for name in ("images", "crops", "duplicates", "pack")
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    write_table(
        pa.Table.from_pylist(rows + broken, schema=schemas.IMAGES),
        folders["images"] / "images.parquet",
    )
    for n, row in enumerate(rows):
        row |= {"shard": 0, "row": n, "x0": 0.0, "y0": 0.0, "x1": 8.0, "y1": 8.0}
    write_shard(folders["crops"], 0, pixels)
    write_rows(folders["crops"], pa.Table.from_pylist(rows + broken, schema=schemas.CROPS))
    train = [row for row in rows if row["split"] == "train"]
    write_duplicates(folders["duplicates"], train)
    lost = pa.Table.from_pylist(train, schema=schemas.CROPS)
    keep = np.array([first_of(train, row) is row for row in train])
    write_shard(
        folders["pack"],
        0,
        pixels[[row["row"] for row, kept in zip(train, keep, strict=True) if kept]],
    )
    packed = lost.filter(pa.array(keep)).to_pylist()
    write_rows(
        folders["pack"],
        pa.Table.from_pylist(
            [row | {"row": n} for n, row in enumerate(packed)], schema=schemas.CROPS
        ),
    )
    return folders


def first_of(rows: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    return next(other for other in rows if other["content_sha256"] == row["content_sha256"])


def write_duplicates(folder: Path, rows: list[dict[str, Any]]) -> None:
    table = []
    for row in rows:
        alone = sum(other["content_sha256"] == row["content_sha256"] for other in rows) == 1
        keep = first_of(rows, row) is row
        extra = {
            "group": "" if alone else first_of(rows, row)["image_id"],
            "keep": keep,
            "score": 0.0 if keep else 1.0,
        }
        table.append({**row, **extra, "reason": "" if keep else "equal codes"})
    write_table(
        pa.Table.from_pylist(table, schema=schemas.DUPLICATES), folder / "duplicates.parquet"
    )


def run_stage(
    name: str, work: Path, part: dict[str, Any], inputs: dict[str, list[StageInput]]
) -> tuple[Path, Any]:
    work.mkdir(parents=True, exist_ok=True)
    request = StageRequest(
        stage=name,
        node=name,
        key="0" * 32,
        part={"seed": 0, "threads": 1, **part},
        inputs=inputs,
        context={"device": "cpu"},
        work=work,
    )
    return work, importlib.import_module(f"gan_core.stages.{name}").run(request, silent)


def train_briefly(home: Path, pack: StageInput, kimg: float) -> Path:
    """A real, short training."""
    settings = {
        "network": {"name": "dcgan32_svhn", "width": 0.25},
        "kimg": kimg,
        "batch": 32,
        "log_kimg": kimg / 16,
        "grid_kimg": kimg / 5,
    }
    return run_stage(
        "train", home / "train", {"train": settings, "image_size": 32}, {"pack": [pack]}
    )[0]


RECIPE: dict[str, Any] = {
    "name": "digits",
    "about": "Real digits, a very short training.",
    "scale": "debug",
    "sources": {"train": [{"name": "digits"}], "evaluate": []},
    "dedup": {"mode": "paper"},
}
CAVEAT = "So few & small digits show that the chain works, no more."


def build_chain(home: Path, count: int = 500, kimg: float = 1.0) -> dict[str, list[StageInput]]:
    """Inputs of a report, by role: everything from `train` on is made by the real stages."""
    folders = write_source(home, "digits", count)
    made = {role: [stage_input(role, path)] for role, path in folders.items()}
    made["snapshot"] = [stage_input("train", train_briefly(home, made["pack"][0], kimg))]
    made["features"], made["cells"] = [], []
    for kind in ("discriminator", "random", "pixels"):
        inputs = {"crops": made["crops"], "duplicates": made["duplicates"]}
        inputs |= {} if kind == "pixels" else {"pack": made["pack"]}
        inputs |= {"snapshot": made["snapshot"]} if kind == "discriminator" else {}
        network = (
            {"network": {"name": "dcgan32_svhn", "width": 0.25}, "image_size": 32}
            if kind == "random"
            else {}
        )
        folder, _ = run_stage(
            "extract",
            home / f"features-{kind}",
            {"features": kind, "extract": {}, **network},
            inputs,
        )
        made["features"].append(stage_input("extract", folder))
        for probe in ("linear_svm", "logistic", *(("chance",) if kind == "pixels" else ())):
            part = {
                "features": kind,
                "probe": {"name": probe},
                "protocol": {"labels_per_class": [5, "all"], "draws": 3},
            }
            cell, _ = run_stage(
                "evaluate", home / f"cell-{kind}-{probe}", part, {"features": made["features"][-1:]}
            )
            made["cells"].append(stage_input("evaluate", cell))
    made["inspect"] = []
    for name, options in (("samples", {"count": 16}), ("walks", {"rows": 3, "steps": 8})):
        folder, _ = run_stage(
            "inspect",
            home / f"inspect_{name}",
            {"inspection": {"name": name, "options": options}},
            {"snapshot": made["snapshot"]},
        )
        made["inspect"].append(stage_input("inspect", folder))
    return made


def artifacts_of(inputs: dict[str, list[StageInput]]) -> list[dict[str, Any]]:
    found = []
    for entries in inputs.values():
        for number, entry in enumerate(entries):
            ref = entry.ref
            found.append(
                {
                    "node": f"{ref.stage}:{number}",
                    "stage": ref.stage,
                    "key": ref.key,
                    "digest": ref.digest,
                    "path": str(entry.path),
                    "cached": number == 0,
                    "seconds": 1.5 + number,
                    "peak_memory_mb": 300.0,
                    "counts": {},
                    "summary": {},
                    "warnings": ["The best C is the smallest tried."]
                    if ref.stage == "evaluate" and number == 0
                    else [],
                }
            )
    return found


def report(
    work: Path,
    inputs: dict[str, list[StageInput]],
    recipe: dict[str, Any] | None = None,
    **section: Any,
) -> tuple[Path, Any]:
    work.mkdir(parents=True, exist_ok=True)
    part = {
        "recipe": RECIPE if recipe is None else recipe,
        "report": {"caveat": CAVEAT, "next": ["discern run cifar10"], **section},
    }
    context = {
        "artifacts": artifacts_of(inputs),
        "versions": {"discern": "0.1.0", "torch": "2"},
        "run": "quiet-digit",
        "command": "discern run digits",
    }
    request = StageRequest(
        stage="report",
        node="report",
        key="1" * 32,
        part=part,
        inputs=inputs,
        context=context,
        work=work,
    )
    return work, importlib.import_module("gan_core.stages.report").run(request, silent)
