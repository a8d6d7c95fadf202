"""The images of a crop or pack artifact in a form that other programs read.

imagefolder   <split>/<class>/<image_id>-<box>.png, as torchvision's ImageFolder reads them
webdataset    <split>-<shard>.tar with .png, .cls (where there is a label) and .json
hf            what Hugging Face's `DatasetDict.save_to_disk` writes; source `hf` reads it
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gan_core.errors import RequestError, UnknownName
from gan_core.files import sha256_text
from gan_core.progress import Progress, silent
from gan_core.shards import TABLE, PixelShards
from gan_core.vision.sheets import encode_png

SHARD_IMAGES = 10_000  # in a tar file
_BATCH = 512
_NO_SPLIT = "train"  # where the source names none
_NO_LABEL = "unlabelled"
# what travels with the pixels: where an image came from
_ROW = ("image_id", "box", "source", "address", "member", "split", "label", "label_name")


def export(artifact: Path, kind: str, out: Path, progress: Progress = silent) -> dict[str, int]:
    """Writes an artifact's images into a new folder, which appears when it is complete.

    Args:
        artifact: the folder of a crop or pack artifact.
        kind: 'imagefolder', 'webdataset' or 'hf'.
        out: must not be there, or be empty.
    Returns: split to the number of its images.
    Raises:
        UnknownName: no such kind.
        RequestError: no images there, or something at `out`.
    """
    if kind not in WRITERS:
        raise UnknownName("form of export", kind, WRITERS)
    if not (artifact / TABLE).is_file():
        raise RequestError(
            f"{artifact} holds no images.",
            expected=f"an artifact of crop or pack: a folder with {TABLE} and pixels-*.npy",
            remedy="features are Parquet files already: docs/python.md reads them",
        )
    if out.is_dir() and any(out.iterdir()) or out.is_file():
        raise RequestError(
            f"{out} is there already.",
            expected="a new or empty folder",
            remedy="choose another place with --out",
        )
    images = PixelShards(artifact)
    rows = images.table.select(_ROW).to_pylist()
    by_split: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_split.setdefault(row["split"] or _NO_SPLIT, []).append(number)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        done = 0

        def read(split: str) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.uint8]]]:
            nonlocal done
            numbers = by_split[split]
            for start in range(0, len(numbers), _BATCH):
                some = numbers[start : start + _BATCH]
                yield from zip(
                    [rows[number] for number in some], images.pixels(np.array(some)), strict=True
                )
                done += len(some)
                progress(done, len(rows), "images")

        WRITERS[kind](temporary, list(by_split), read, _class_names(rows))
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {split: len(numbers) for split, numbers in by_split.items()}


Rows = Callable[[str], Iterator[tuple[dict[str, Any], npt.NDArray[np.uint8]]]]


def _class_names(rows: list[dict[str, Any]]) -> dict[int, str]:
    """Label to a name that is a folder's name too and belongs to this label alone."""
    names: dict[int, str] = {}
    for label, name in sorted(
        {(row["label"], row["label_name"]) for row in rows if row["label"] is not None}
    ):
        safe = re.sub(r"[^\w .()+-]", "_", name or str(label)).strip(" .") or str(label)
        taken = safe == _NO_LABEL or safe in names.values()
        names[label] = f"{safe}-{label}" if taken else safe
    return names


def _stem(row: dict[str, Any]) -> str:
    return f"{row['image_id']}-{row['box']}"


def _write_imagefolder(out: Path, splits: list[str], read: Rows, names: dict[int, str]) -> None:
    for split in splits:
        for row, image in read(split):
            folder = out / split / names.get(row["label"], _NO_LABEL)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{_stem(row)}.png").write_bytes(encode_png(image))


def _write_webdataset(out: Path, splits: list[str], read: Rows, names: dict[int, str]) -> None:
    for split in splits:
        with contextlib.ExitStack() as shard:
            for number, (row, image) in enumerate(read(split)):
                if number % SHARD_IMAGES == 0:
                    shard.close()
                    name = f"{split}-{number // SHARD_IMAGES:06d}.tar"
                    archive = shard.enter_context(tarfile.open(out / name, "w"))
                label = {} if row["label"] is None else {"cls": str(row["label"]).encode()}
                parts = {
                    "png": encode_png(image),
                    **label,
                    "json": json.dumps(row, ensure_ascii=False).encode(),
                }
                for ending, data in parts.items():
                    member = tarfile.TarInfo(f"{_stem(row)}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def _write_hf(out: Path, splits: list[str], read: Rows, names: dict[int, str]) -> None:
    count = max(names, default=-1) + 1
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if names:
        listed = [names.get(label, str(label)) for label in range(count)]
        features["label"] = {"names": listed, "_type": "ClassLabel"}
    texts = ("image_id", "source", "address", "member")
    features |= {name: {"dtype": "string", "_type": "Value"} for name in texts}
    features["box"] = {"dtype": "int32", "_type": "Value"}
    types = {
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        "label": pa.int64(),
        "box": pa.int32(),
    }
    schema = pa.schema(
        [(name, types.get(name, pa.string())) for name in features],
        metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()},
    )
    for split in splits:
        folder = out / split
        folder.mkdir()
        name = "data-00000-of-00001.arrow"
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            waiting: list[dict[str, Any]] = []
            for row, image in read(split):
                label = -1 if row["label"] is None else row["label"]
                data = {"bytes": encode_png(image), "path": None}
                waiting.append({**row, "image": data, "label": label})
                if len(waiting) == _BATCH:
                    stream.write_batch(pa.RecordBatch.from_pylist(waiting, schema))
                    waiting = []
            if waiting:
                stream.write_batch(pa.RecordBatch.from_pylist(waiting, schema))
        state: dict[str, Any] = {
            "_data_files": [{"filename": name}],
            "_fingerprint": sha256_text(f"{split} {sorted(names.items())}")[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        info = {"citation": "", "description": "", "features": features, "homepage": ""}
        (folder / "state.json").write_text(json.dumps(state, indent=2))
        (folder / "dataset_info.json").write_text(json.dumps({**info, "license": ""}, indent=2))
    (out / "dataset_dict.json").write_text(json.dumps({"splits": splits}))


WRITERS: dict[str, Callable[[Path, list[str], Rows, dict[int, str]], None]] = {
    "imagefolder": _write_imagefolder,
    "webdataset": _write_webdataset,
    "hf": _write_hf,
}
