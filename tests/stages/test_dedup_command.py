"""`discern dedup` as people call it: what it writes, what it never overwrites, and what it says of
odd folders.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.commands.dedup import FileOptions, SearchOptions
from flows.commands.dedup import dedup as dedup_command
from gan_core.dedup.folder.output import check_destination, is_ours
from gan_core.dedup.folder.run import IMAGES, dedup_images
from gan_core.errors import DataError, RequestError

ROOT = Path(__file__).resolve().parents[2]


def textures(count: int, seed: int = 0, side: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        layers = [
            cv2.resize(rng.normal(size=(n, n, 3)).astype(np.float32), (side, side))
            for n in (4, 7, 11)
        ]
        out.append(np.clip(128 + 28 * sum(layers), 0, 255).astype(np.uint8))
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images, a JPEG of one below, and what else lies about in folders."""
    place = tmp_path / "images"
    (place / "below").mkdir(parents=True)
    for number, image in enumerate(textures(8)):
        cv2.imwrite(str(place / f"{number}.png"), image)
    cv2.imwrite(str(place / "below" / "zero.jpg"), textures(8)[0], [cv2.IMWRITE_JPEG_QUALITY, 70])
    (place / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (place / "notes.txt").write_text("x")
    return place


def rows_of(place: Path, **options: Any) -> dict[str, dict[str, Any]]:
    return {row["address"]: row for row in dedup_images(place, **options).table.to_pylist()}


def dedup(place: Path, out: Path, **files: Any) -> None:
    dedup_command(place, out, options=SearchOptions(), files=FileOptions(**files))


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "flows.cli", "dedup", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, cwd=ROOT)


def test_the_command_end_to_end(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "duplicates.parquet"
    done = command(folder, "--out", out)
    assert done.returncode == 0, done.stderr
    assert (
        "10 images: 1 are duplicates of another one, 9 are kept." in done.stdout
        and "1 .txt files" in done.stdout
    )
    table = pq.read_table(out)
    assert table.schema.equals(IMAGES) and is_ours(out) and is_ours(out.with_suffix(".html"))
    rows = {row["address"]: row for row in table.to_pylist()}
    assert (
        rows["below/zero.jpg"]["representative_address"] == "0.png"
        and rows["below/zero.jpg"]["score"] > 0.9
    )
    assert rows["phone.HEIC"]["status"] == "failed" and rows["phone.HEIC"]["reason"].startswith(
        "unsupported: HEIC"
    )

    other = tmp_path / "other"
    other.mkdir()
    cv2.imwrite(str(other / "known.png"), cv2.resize(textures(8)[3], (90, 90)))
    (other / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    known = tmp_path / "known.parquet"
    done = command(folder, "--against", other, "--out", known, "--json")
    reply = json.loads(done.stdout)
    assert done.returncode == 0 and reply["counts"]["duplicates"] == 1
    assert any("of the other set could not be read" in warning for warning in reply["warnings"])
    duplicates = [row for row in pq.read_table(known).to_pylist() if not row["keep"]]
    theirs = rows_of(other)
    assert [row["address"] for row in duplicates] == ["3.png"] and duplicates[0][
        "representative_id"
    ] == theirs["known.png"]["image_id"]
    refused = command(folder, "--out", folder / "0.png")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr


def test_what_lies_at_the_destination_is_not_destroyed(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.parquet"
    for _ in range(2):  # a second run may replace what the first one wrote
        dedup(folder, own)
    other, page = tmp_path / "other.parquet", tmp_path / "page.html"
    pq.write_table(pa.table({"a": [1]}), other)
    page.write_text("mine")
    (folder / "report.html").write_text("mine")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").write_text("x")
    bad = [
        other,
        page.with_suffix(".parquet"),
        folder / "report.parquet",
        tmp_path / "folder.parquet",
        tmp_path / "file/a.parquet",
    ]
    for out in bad:
        with pytest.raises(RequestError):
            dedup(folder, out)
    assert other.stat().st_size > 100 and page.read_text() == "mine"
    check_destination(other, [folder], force=True)
    with pytest.raises(RequestError):  # a file of the set is never replaced
        check_destination(folder / "report.parquet", [folder], force=True)
    images = tmp_path / "set.parquet"
    pq.write_table(pa.table({"image": [(folder / "0.png").read_bytes()]}), images)
    for places in ([images], [folder, images]):
        with pytest.raises(RequestError):
            check_destination(images, places, force=True)


def test_a_set_that_lies_nowhere_is_no_kind_of_folder(folder: Path, tmp_path: Path) -> None:
    done = command(folder, "--dataset", "digits", "--out", tmp_path / "duplicates.parquet")
    assert (
        done.returncode == 2
        and "comes with a package" in done.stderr
        and not (tmp_path / "duplicates.parquet").exists()
    )


def test_tables_next_to_images_make_no_parquet_set(folder: Path, tmp_path: Path) -> None:
    below = tmp_path / "only below"
    (below / "a").mkdir(parents=True)
    (folder / "0.png").rename(below / "a" / "0.png")
    dedup(below, below / "duplicates.parquet")
    assert list(rows_of(below)) == ["a/0.png"]
    tables = tmp_path / "tables"
    tables.mkdir()
    data = [(folder / f"{number}.png").read_bytes() for number in (1, 2)]
    pq.write_table(pa.table({"image": data}), tables / "train.parquet")
    dedup(tables, tables / "duplicates.parquet")
    result = dedup_images(tables)
    assert result.counts["in"] == 2 and result.counts["failed"] == 0
    assert result.ignored == {str(tables): {"Parquet files without a column of images": 1}}
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="--dataset") as caught:
        dedup_images(empty)
    assert "--data " not in str(caught.value)


def test_a_link_is_never_the_representative(folder: Path, tmp_path: Path) -> None:
    (folder / "00 first.png").symlink_to(folder / "1.png")
    os.link(folder / "2.png", folder / "again.png")
    rows = rows_of(folder)
    assert rows["1.png"]["keep"] and not rows["00 first.png"]["keep"]
    assert (
        rows["00 first.png"]["representative_address"] == "1.png"
        and rows["00 first.png"]["reason"] == "the same file, by a link"
    )
    kept = [name for name in ("2.png", "again.png") if rows[name]["keep"]]
    assert len(kept) == 1 and "under another name" in next(
        rows[n]["reason"] for n in ("2.png", "again.png") if n not in kept
    )
    # The other set holds this one, and a link into it: an image is no duplicate of itself.
    assert (
        rows_of(folder / "below", against=folder)["zero.jpg"]["representative_address"] == "0.png"
    )
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "3.png").symlink_to(folder / "3.png")
    cv2.imwrite(str(tmp_path / "links" / "another.png"), textures(1, seed=9)[0])
    assert rows_of(folder, against=tmp_path / "links")["3.png"]["keep"]
    assert not rows_of(tmp_path / "links", against=folder)["3.png"]["keep"]
    with pytest.raises(RequestError):
        dedup_images(folder, against=folder)


def test_the_opaque_and_the_less_compressed_image_is_kept(tmp_path: Path) -> None:
    one, two = textures(2)
    Image.fromarray(np.dstack([one, np.where(one[..., :1] > 60, 255, 120)]).astype(np.uint8)).save(
        tmp_path / "alpha.png"
    )
    Image.fromarray(one).save(tmp_path / "opaque.jpg", quality=90)
    for name, quality in (("aa.jpg", 40), ("zz.jpg", 95), ("bb.jpg", 60)):
        Image.fromarray(two).save(tmp_path / name, quality=quality)
    rows = rows_of(tmp_path)
    assert {name for name, row in rows.items() if row["keep"]} <= {
        "opaque.jpg",
        "alpha.png",
        "zz.jpg",
    }
    assert rows["zz.jpg"]["keep"] and rows["opaque.jpg"]["keep"]


def test_files_that_cannot_be_opened_have_a_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "closed").write_bytes((folder / "0.png").read_bytes())
    (folder / "closed").chmod(0)
    if os.access(folder / "closed", os.R_OK):  # root reads everything
        real = open

        def refusing(path: Any, *arguments: Any, **options: Any) -> Any:
            if str(path).endswith("closed"):
                raise PermissionError(13, "Permission denied")
            return real(path, *arguments, **options)

        monkeypatch.setattr("gan_core.dedup.folder.thumbnails.open", refusing, raising=False)
    assert rows_of(folder)["closed"]["reason"] == "unreadable: Permission denied"


def test_another_set_of_which_nothing_can_be_read(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes(b"")
    with pytest.raises(DataError):
        dedup_images(folder, against=other)


def test_the_suffix_chooses_the_format_and_own_files_are_replaced(
    folder: Path, tmp_path: Path
) -> None:
    expected = dedup_images(folder).table.to_pylist()
    for name in ("a.parquet", "b.csv", "c.json"):
        out = tmp_path / name
        dedup(folder, out)
        assert is_ours(out, IMAGES.names)
        dedup(folder, out)
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == expected
    reply = json.loads((tmp_path / "c.json").read_text())["images"]
    assert [row["address"] for row in reply] == [row["address"] for row in expected]
    with open(tmp_path / "b.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["representative_id"] for row in rows] == [row["representative_id"] for row in reply]
    assert [row["keep"] == "true" for row in rows] == [row["keep"] for row in reply]
    (tmp_path / "d.csv").write_text("image_id,mine\n")
    for bad in ("d.csv", "e.xlsx"):
        with pytest.raises(RequestError):
            dedup(folder, tmp_path / bad)


def test_what_is_not_kept_is_listed_linked_and_moved_on_request_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, aside = tmp_path / "t.csv", tmp_path / "aside"
    dedup(folder, out, list_duplicates=True)
    assert capsys.readouterr().out.splitlines() == [str(folder / "below" / "zero.jpg")]
    before = sorted(folder.rglob("*"))
    for action in ("move", "link"):  # dry runs
        dedup(folder, out, **{action: aside})
        shown = capsys.readouterr().out
        assert f"{folder / 'below/zero.jpg'} -> {aside / 'below/zero.jpg'}" in shown
        assert "--yes" in shown and not aside.exists() and sorted(folder.rglob("*")) == before
    dedup(folder, out, link=tmp_path / "links", yes=True)
    link = tmp_path / "links" / "below" / "zero.jpg"
    assert link.is_symlink() and link.resolve() == folder / "below" / "zero.jpg"
    clean = tmp_path / "clean"
    data = (folder / "below" / "zero.jpg").read_bytes()
    dedup(folder, out, move=aside, export=clean, copy=True, yes=True)
    assert (aside / "below" / "zero.jpg").read_bytes() == data
    assert not (folder / "below" / "zero.jpg").exists()
    assert sorted(path.name for path in clean.iterdir()) == [f"{n}.png" for n in range(8)]
    assert not any(path.is_symlink() for path in clean.iterdir())
    dedup(folder, out, export=tmp_path / "linked")
    assert {path.resolve() for path in (tmp_path / "linked").iterdir()} == {
        folder / f"{number}.png" for number in range(8)
    }
    for wrong in (
        {"export": clean},  # not overwritten
        {"move": folder / "below" / "x", "yes": True},  # within the set
        {"move": aside, "link": aside},
        {"yes": True},
        {"copy": True},
    ):
        with pytest.raises(RequestError):
            dedup(folder, out, **wrong)


def test_moving_links_never_moves_the_file_that_is_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to("1.png")
    (folder / "linked").symlink_to(folder / "below", target_is_directory=True)
    aside = tmp_path / "aside"
    dedup(folder, tmp_path / "t.json", move=aside, yes=True)
    moved = {str(path.relative_to(aside)) for path in aside.rglob("*") if not path.is_dir()}
    assert moved == {"link.png", "below/zero.jpg"}
    assert (aside / "link.png").resolve() == folder / "1.png" and (folder / "1.png").exists()
