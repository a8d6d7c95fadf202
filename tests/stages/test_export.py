"""Exports are read back by torchvision, tarfile, `datasets` and this project's own sources."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_core import registry
from gan_core.config import SourceConfig
from gan_core.datasets.export import export
from gan_core.errors import RequestError, UnknownName
from gan_core.shards import PixelShards
from gan_core.vision.decode import decode
from tests.stages.digits_artifacts import digits_crops


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_crops(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="module")
def wanted(crops: Path) -> dict[str, tuple[str, str, int, Any]]:
    """'<image_id>-<box>' to split, class name, label, pixels."""
    images = PixelShards(crops)
    pixels = images.pixels()
    return {
        f"{row['image_id']}-{row['box']}": (row["split"], row["label_name"], row["label"], image)
        for row, image in zip(images.table.to_pylist(), pixels, strict=True)
    }


def test_an_image_folder(crops: Path, wanted: Any, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    counts = export(crops, "imagefolder", tmp_path / "out")
    assert sum(counts.values()) == len(wanted)
    seen = 0
    for split in counts:
        found = ImageFolder(str(tmp_path / "out" / split))
        for (path, index), (image, _) in zip(found.samples, found, strict=True):
            its_split, name, _, pixels = wanted[Path(path).stem]
            assert (split, found.classes[index]) == (its_split, name)
            assert np.array_equal(np.asarray(image), pixels)
            seen += 1
    assert seen == len(wanted)


def test_a_web_dataset(
    crops: Path, wanted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By tarfile, and by this project's source `tar`; the shards are small."""
    monkeypatch.setattr("gan_core.datasets.export.SHARD_IMAGES", 100)
    counts = export(crops, "webdataset", tmp_path / "out")
    seen: dict[str, dict[str, bytes]] = {}
    for shard in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                stem, _, ending = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                seen.setdefault(stem, {})[ending] = file.read()
                assert shard.name.startswith(wanted[stem][0])
    assert seen.keys() == wanted.keys()
    assert len(list((tmp_path / "out").glob("*.tar"))) == sum(-(-n // 100) for n in counts.values())
    for stem, parts in seen.items():
        _, name, label, pixels = wanted[stem]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(parts["png"]))), pixels)
        assert int(parts["cls"]) == label
        assert json.loads(parts["json"])["label_name"] == name
    assert read_back("tar", tmp_path / "out") == {
        (split, label, pixels.tobytes()) for split, _, label, pixels in wanted.values()
    }


def test_a_dataset_of_hugging_face(crops: Path, wanted: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    counts = export(crops, "hf", tmp_path / "out")
    found = datasets.load_from_disk(str(tmp_path / "out"))
    assert {split: len(found[split]) for split in found} == counts
    for split in found:
        names = found[split].features["label"].names
        for row in found[split]:
            its_split, name, label, pixels = wanted[f"{row['image_id']}-{row['box']}"]
            assert (split, names[row["label"]], row["label"]) == (its_split, name, label)
            assert np.array_equal(np.asarray(row["image"]), pixels)
    assert read_back("hf", tmp_path / "out") == {
        (split, label, pixels.tobytes()) for split, _, label, pixels in wanted.values()
    }


def read_back(dataset: str, place: Path) -> set[tuple[str, int | None, bytes]]:
    """(split, label, pixels) of every image, through a source of this project."""
    module = registry.load("datasets", dataset)
    source = module.open_source(SourceConfig(name="x", dataset=dataset), place)
    entries = [entry for stamp in source.stamps() for entry in source.entries(stamp)]
    blobs = source.read_many([(entry.address, entry.member) for entry in entries])
    return {
        (entry.split, entry.label, decode(blob.read()).tobytes())
        for entry, blob in zip(entries, blobs, strict=True)
    }


def test_names_of_classes_become_folders_within_the_export() -> None:
    from gan_core.datasets.export import _class_names

    rows = [
        {"label": 0, "label_name": "../../etc"},
        {"label": 1, "label_name": ".._.._etc"},
        {"label": 2, "label_name": "unlabelled"},
        {"label": 3, "label_name": "..."},
        {"label": None, "label_name": ""},
    ]
    names = _class_names(rows)
    assert len(set(names.values())) == 4
    assert all("/" not in name and name.strip(".") == name for name in names.values())
    assert "unlabelled" not in names.values()


def test_what_cannot_be_exported_is_refused(crops: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'imagefolder'"):
        export(crops, "image-folder", tmp_path / "out")
    with pytest.raises(RequestError, match="holds no images"):
        export(tmp_path, "hf", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(RequestError, match="is there already"):
        export(crops, "hf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command(crops: Path, discern: Any, tmp_path: Path) -> None:
    answer = discern(
        "export", str(crops), "--to", "imagefolder", "--out", str(tmp_path / "out"), "--json"
    )
    assert answer.code == 0, answer.err
    assert sum(answer.json["images"].values()) == 400
    refused = discern("export", "pack/ab", "--to", "hf", "--out", str(tmp_path / "other"))
    assert refused.code == 2 and "it is no folder" in refused.err
