"""A folder of images: labels, splits, links, odd names and everything that is no image."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core.config import SourceConfig
from gan_core.datasets import folder
from gan_core.datasets.base import Entry, Source, fingerprint
from gan_core.errors import RequestError, UnknownName
from gan_core.vision.image_files import UnreadableImage


def png(seed: int = 0, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    ).save(buffer, "PNG")
    return buffer.getvalue()


def lay(root: Path, *addresses: str) -> Path:
    for number, address in enumerate(addresses):
        path = root / address
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def opened(root: Path, **options: Any) -> Source:
    return folder.open_source(SourceConfig(name="images", options=options), root)


def entries(source: Source) -> dict[str, Entry]:
    return {entry.address: entry for stamp in source.stamps() for entry in source.entries(stamp)}


def message(source: Source) -> dict[str, tuple[str, str]]:
    return {address: (entry.split, entry.label_name) for address, entry in entries(source).items()}


def test_subfolders_are_classes(tmp_path: Path) -> None:
    lay(tmp_path, "cat/a.png", "cat/deeper/b.png", "dog/c.png", "d.png")
    assert message(opened(tmp_path)) == {
        "cat/a.png": ("", "cat"), "cat/deeper/b.png": ("", "cat"), "d.png": ("", ""),
        "dog/c.png": ("", "dog"),
    }  # fmt: skip
    assert set(message(opened(tmp_path, labels=False)).values()) == {("", "")}


def test_split_folders_stand_above_the_classes(tmp_path: Path) -> None:
    lay(tmp_path, "train/cat/a.png", "Val/cat/b.png", "test/dog/sub/c.png", "train/d.png")
    assert message(opened(tmp_path)) == {
        "Val/cat/b.png": ("validation", "cat"), "test/dog/sub/c.png": ("test", "dog"),
        "train/cat/a.png": ("train", "cat"), "train/d.png": ("train", ""),
    }  # fmt: skip
    assert message(opened(tmp_path, splits=False))["train/cat/a.png"] == ("", "train")


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    """Among other classes and without a training split, 'test' is a class like any other."""
    assert message(opened(lay(tmp_path, "cat/a.png", "dog/b.png", "test/c.png")))["test/c.png"] == (
        "",
        "test",
    )


def test_a_folder_next_to_the_splits_is_reported(tmp_path: Path) -> None:
    source = opened(lay(tmp_path, "train/cat/a.png", "test/cat/b.png", "extra/c.png"))
    assert message(source)["extra/c.png"] == ("", "extra")
    assert any("extra" in warning for warning in source.warnings)


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root = lay(tmp_path / "root", "a/1.png", "b/2.png")
    lay(tmp_path / "elsewhere", "3.png")
    (root / "a" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "b" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "again").symlink_to(tmp_path / "elsewhere")
    (root / "link.png").symlink_to(root / "a" / "1.png")
    source = opened(root)
    assert sorted(entries(source)) == ["a/1.png", "b/2.png", "b/again/3.png", "link.png"]
    assert source.ignored["folders linked a second time"] == 2


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    lay(tmp_path, "a.png", ".hidden.png", ".git/b.png", "__MACOSX/c.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "labels.csv").write_text("x")
    (tmp_path / "no_ending").write_bytes(png())
    (tmp_path / "unknown.xyz").write_bytes(b"nothing")
    source = opened(tmp_path)
    found = entries(source)
    assert sorted(found) == ["a.png", "no_ending", "unknown.xyz"]
    assert found["a.png"].certain and not found["no_ending"].certain
    assert source.ignored == {"hidden files": 3, ".txt files": 1, ".csv files": 1}
    blobs = {
        blob.address: blob.is_image() for blob in source.read_many([(name, "") for name in found])
    }
    assert blobs == {"a.png": True, "no_ending": True, "unknown.xyz": False}


def test_links_to_nowhere_and_pipes_are_rows_with_a_reason(tmp_path: Path) -> None:
    lay(tmp_path, "a.png")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    source = opened(tmp_path)
    found = entries(source)
    assert sorted(found) == ["a.png", "gone.jpg", "pipe.png"]
    assert found["gone.jpg"].problem.startswith("unreadable: ") and found[
        "pipe.png"
    ].problem.startswith("unreadable: ")
    for blob in source.read_many([("gone.jpg", ""), ("pipe.png", "")]):
        with pytest.raises(UnreadableImage):
            blob.read()


def test_names_that_are_no_text_are_read_all_the_same(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(odd)
    with open(odd + b"/\xff.png", "wb") as file:
        file.write(png(7))
    lay(tmp_path, "ünïcode/a b\n.png")
    source = opened(tmp_path)
    found = entries(source)
    assert sorted(found) == ["caf\\xe9/\\xff.png", "ünïcode/a b\n.png"]
    "".join(found).encode()
    fresh = opened(tmp_path)  # the crop stage reads without having listed
    (blob,) = fresh.read_many([("caf\\xe9/\\xff.png", "")])
    assert blob.read() == png(7)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root reads everything; another user does not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_a_row_or_a_warning(tmp_path: Path) -> None:
    lay(tmp_path, "a.png", "secret.png", "closed/b.png", "c/d.png")
    for place in [tmp_path, *tmp_path.parents]:
        if place.is_relative_to("/tmp") and place != Path("/tmp"):
            place.chmod(0o755)
    (tmp_path / "secret.png").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        with as_nobody():
            source = opened(tmp_path)
            assert sorted(entries(source)) == ["a.png", "c/d.png", "secret.png"]
            assert any(
                "closed" in warning and "ermission" in warning for warning in source.warnings
            )
            (blob,) = source.read_many([("secret.png", "")])
            with pytest.raises(UnreadableImage) as caught:
                blob.read()
            assert caught.value.reason == "unreadable: Permission denied"
            tmp_path.joinpath("c").stat()
        tmp_path.chmod(0)
        with as_nobody(), pytest.raises(RequestError, match="may not be listed"):
            opened(tmp_path).stamps()
    finally:
        tmp_path.chmod(0o755)
        (tmp_path / "closed").chmod(0o755)


def test_masks_lie_in_a_folder_of_their_own_under_the_same_names(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.jpg", "images/b.png", "masks/images/a.png")
    source = opened(tmp_path, masks="masks")
    assert source.has_masks and sorted(entries(source)) == ["images/a.jpg", "images/b.png"]
    with_mask, without = source.read_many([("images/a.jpg", ""), ("images/b.png", "")])
    assert with_mask.read_mask() == png(2) and without.read_mask() is None
    before = fingerprint(source.stamps())
    (tmp_path / "masks/images/a.png").write_bytes(png(9))
    assert fingerprint(opened(tmp_path, masks="masks").stamps()) != before


def test_a_place_that_cannot_be_meant_is_reported(tmp_path: Path) -> None:
    lay(tmp_path / "images", "a.png")
    with pytest.raises(RequestError, match=r"did you mean .*images'\?"):
        opened(tmp_path / "imagse")
    with pytest.raises(RequestError, match="is a file"):
        opened(tmp_path / "images" / "a.png")
    with pytest.raises(RequestError, match="--data"):
        folder.open_source(SourceConfig(name="x"), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="it is empty"):
        opened(tmp_path / "empty").stamps()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.parquet").write_bytes(b"x")
    with pytest.raises(RequestError, match="--set sources.train.images.dataset=parquet"):
        opened(tmp_path / "tables").stamps()
    with pytest.raises(RequestError, match="--set sources.train.images.dataset=parquet"):
        opened(tmp_path / "tables" / "train.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "tables" / "train.parquet")
    with pytest.raises(RequestError) as caught:
        opened(tmp_path / "tables").stamps()
    assert "no column of images" in caught.value.remedy and "--set" not in caught.value.remedy
    with pytest.raises(UnknownName, match="did you mean 'masks'"):
        opened(tmp_path / "images", mask="m")
    with pytest.raises(RequestError, match="labels"):
        opened(tmp_path / "images", labels="perhaps")
