"""Tar shards in the manner of WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from gan_core.config import SourceConfig
from gan_core.datasets import tar
from gan_core.datasets.base import Entry, Source
from gan_core.errors import RequestError
from tests.images import png


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def opened(place: Path) -> Source:
    return tar.open_source(SourceConfig(name="shards", dataset="tar"), place)


def entries(source: Source) -> list[Entry]:
    return [entry for stamp in source.stamps() for entry in source.entries(stamp)]


def test_what_lies_next_to_an_image_describes_it(tmp_path: Path) -> None:
    shard(tmp_path / "train-0000.tar", {
        "a.jpg": png(0), "a.cls": b"3", "dir/b.c.seg.png": png(1),
        "dir/b.json": json.dumps({"label": 5, "lon": 1.5}).encode(),
        "d.png": png(2), "d.txt": b"ein Bild", "e.png": png(3), "e.cls": b"tabby cat",
        "readme.md": b"x",
    })  # fmt: skip
    shard(tmp_path / "sub/val-0000.tar", {"f.jpg": png(4), "f.cls": b"-1"})
    found = {entry.member: entry for entry in entries(opened(tmp_path))}
    assert [(name, e.label, e.label_name, e.split) for name, e in found.items()] == [
        ("f.jpg", None, "", "validation"), ("a.jpg", 3, "3", "train"), ("dir/b.c.seg.png", 5, "5",
        "train"),
        ("d.png", None, "", "train"), ("e.png", None, "tabby cat", "train"),
    ]  # fmt: skip
    assert found["dir/b.c.seg.png"].attributes == {"lon": 1.5} and found["d.png"].attributes == {
        "text": "ein Bild"
    }


def test_a_shard_cut_short_keeps_what_it_has(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {f"{number}.png": png(number) for number in range(20)})
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: 1024 * 10 + 600])
    found = entries(opened(tmp_path))
    assert found[0].problem.startswith("damaged: ") or len(found) < 20
    blobs = list(
        opened(tmp_path).read_many(
            [(entry.address, entry.member) for entry in found if entry.member]
        )
    )
    assert all(blob.read() == png(int(blob.member[:-4])) for blob in blobs if not blob.problem)
    assert sum(not blob.problem for blob in blobs) >= 9


def test_a_name_twice_is_reported_and_the_later_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for seed in (1, 2):
            member = tarfile.TarInfo("same.png")
            member.size = len(png(seed))
            archive.addfile(member, io.BytesIO(png(seed)))
    source = opened(tmp_path)
    (entry,) = entries(source)
    (blob,) = source.read_many([(entry.address, entry.member)])
    assert blob.read() == png(2) and any("same.png" in warning for warning in source.warnings)


def test_packed_shards_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(RequestError, match="gunzip"):
        opened(tmp_path).stamps()


def test_links_and_names_of_any_bytes_are_rows_or_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("real.png")
        member.size = len(png(1))
        archive.addfile(member, io.BytesIO(png(1)))
        for name, kind, target in (
            ("symbolic.png", tarfile.SYMTYPE, "real.png"),
            ("loop.png", tarfile.SYMTYPE, "loop.png"),
            ("hard.png", tarfile.LNKTYPE, "real.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("notes", tarfile.SYMTYPE, "elsewhere"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
        odd = tarfile.TarInfo("caf\udce9.png")
        odd.size = len(png(2))
        archive.addfile(odd, io.BytesIO(png(2)))
    source = opened(tmp_path)
    found = [entry for stamp in source.stamps() for entry in source.entries(stamp)]
    problems = {entry.member: entry.problem for entry in found}
    links = {"symbolic.png", "loop.png", "hard.png", "pipe.png"}
    assert set(problems) == {"real.png", "caf\\xe9.png", *links}
    assert {name for name, problem in problems.items() if problem} == links
    assert source.ignored["links and special members without an image's ending"] == 1
    blob = next(source.read_many([("a.tar", "caf\\xe9.png")]))
    assert blob.read() == png(2)
