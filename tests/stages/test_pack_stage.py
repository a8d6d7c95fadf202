"""Pack: the rows that stay, in shards by hash of their id, with their pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gan_core.contract import ArtifactRef, StageInput, StageRequest
from gan_core.errors import DataError
from gan_core.files import sha256_file, write_table
from gan_core.progress import silent
from gan_core.schemas import CROPS, DUPLICATES, image_id, shard_of
from gan_core.shards import PixelShards, write_rows, write_shard
from gan_core.stages import pack


def crops(folder: Path, source: str, count: int, *, failed: int = 0) -> list[str]:
    """A crop artifact of `count` images of one colour each (their number), the last fifth in split
    'test'.
    """
    folder.mkdir(parents=True)
    ids = [image_id(source, f"{n}.png") for n in range(count + failed)]
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    write_shard(folder, 0, pixels)
    rows = []
    for n, identity in enumerate(ids):
        ok = n < count
        row = dict.fromkeys(CROPS.names)
        row |= {
            "image_id": identity,
            "box": 0 if ok else -1,
            "source": source,
            "address": f"{n}.png",
            "member": "",
        }
        row |= {
            "split": "test" if ok and n >= 0.8 * count else "train",
            "label": n % 3,
            "status": "ok" if ok else "failed",
        }
        row |= {
            "shard": 0 if ok else None,
            "row": n if ok else None,
            "reason": "" if ok else "truncated: file",
        }
        rows.append(row)
    write_rows(folder, pa.Table.from_pylist(rows, CROPS))
    return ids


def duplicates(folder: Path, dropped: list[str]) -> None:
    folder.mkdir(parents=True)
    rows = [
        dict.fromkeys(DUPLICATES.names) | {"image_id": i, "box": 0, "keep": False} for i in dropped
    ]
    write_table(pa.Table.from_pylist(rows, DUPLICATES), folder / "duplicates.parquet")


def request(work: Path, inputs: dict[str, list[Path]]) -> StageRequest:
    made = {
        role: [
            StageInput(ref=ArtifactRef(stage=role, key="0" * 32, digest="0" * 64), path=path)
            for path in paths
        ]
        for role, paths in inputs.items()
    }
    return StageRequest(stage="pack", node="pack", key="0" * 32, part={}, inputs=made, work=work)


def test_kept_training_rows_of_all_sources_with_their_own_pixels(tmp_path: Path) -> None:
    a = crops(tmp_path / "a", "a", 20, failed=3)
    b = crops(tmp_path / "b", "b", 10)
    duplicates(tmp_path / "d", [a[0], a[5], b[2], a[19]])
    outcome = pack.run(
        request(
            tmp_path / "out",
            {"crops": [tmp_path / "a", tmp_path / "b"], "duplicates": [tmp_path / "d"]},
        ),
        silent,
    )
    assert outcome.counts == {"in": 16 + 3 + 8, "kept": 14 + 7, "duplicates": 3, "failed": 3}
    packed = PixelShards(tmp_path / "out")
    table = packed.table
    expected = {i for n, i in enumerate(a[:16]) if n not in (0, 5)} | {
        i for n, i in enumerate(b[:8]) if n != 2
    }
    assert set(table["image_id"].to_pylist()) == expected and len(packed) == 21
    numbers = [int(address.split(".")[0]) for address in table["address"].to_pylist()]
    assert packed.pixels()[:, 3, 3, 1].tolist() == numbers
    assert table.drop_columns(["folder"]).schema == CROPS


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    crops(tmp_path / "a", "a", 20)
    for name in ("one", "two"):
        pack.run(request(tmp_path / name, {"crops": [tmp_path / "a"]}), silent)
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["crops.parquet", "pixels-00000.npy"]
    assert all(
        sha256_file(tmp_path / "one" / f) == sha256_file(tmp_path / "two" / f) for f in files
    )


def test_one_new_image_changes_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the real shards hold 8,192 rows: too many for a test
    monkeypatch.setattr(pack, "shard_count", lambda rows: 4)
    old = crops(tmp_path / "a", "a", 200)
    new = crops(tmp_path / "b", "a", 250)  # the same 160 training images and 40 more
    assert new[:200] == old
    for name, source in (("one", "a"), ("two", "b")):
        drop = tmp_path / f"d{name}"
        duplicates(drop, new[161:200])
        pack.run(
            request(tmp_path / name, {"crops": [tmp_path / source], "duplicates": [drop]}), silent
        )
    changed = [
        n
        for n in range(4)
        if sha256_file(tmp_path / "one" / f"pixels-{n:05d}.npy")
        != sha256_file(tmp_path / "two" / f"pixels-{n:05d}.npy")
    ]
    assert changed == [shard_of(new[160], 4)]


def test_nothing_left_is_an_error_that_says_where_to_look(tmp_path: Path) -> None:
    a = crops(tmp_path / "a", "a", 5)
    duplicates(tmp_path / "d", a)
    with pytest.raises(DataError, match="No image is left"):
        pack.run(
            request(tmp_path / "out", {"crops": [tmp_path / "a"], "duplicates": [tmp_path / "d"]}),
            silent,
        )


def test_masks_travel_with_their_images(tmp_path: Path) -> None:
    """A mask holds its image's number; the source without masks gets 255."""
    crops(tmp_path / "a", "a", 20)
    crops(tmp_path / "b", "b", 10)
    write_shard(
        tmp_path / "a",
        0,
        np.load(tmp_path / "a" / "pixels-00000.npy")[..., 0].copy(),
        prefix="masks",
    )
    pack.run(request(tmp_path / "out", {"crops": [tmp_path / "a", tmp_path / "b"]}), silent)
    found = PixelShards(tmp_path / "out")
    assert found.has_masks and not PixelShards(tmp_path / "b").has_masks
    masks, pixels = found.masks(), found.pixels()
    own = np.array([source == "a" for source in found.table["source"].to_pylist()])
    assert own.sum() == 16 and (masks[own] == pixels[own][..., 0]).all()
    assert (masks[~own] == 255).all()
