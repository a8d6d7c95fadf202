"""crop: every image a row, every crop where its row says; the same bytes whatever happened on the
way.
"""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core.config import CropConfig, SourceConfig
from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.errors import DataError, TransientError
from gan_core.progress import Progress, silent
from gan_core.schemas import CROPS, shard_of
from gan_core.shards import PixelShards
from gan_core.stages import crop, ingest
from gan_core.vision.decode import decode
from gan_core.vision.geometry import centre_crop

ROOT = Path(__file__).resolve().parents[2]


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def noise(seed: int, width: int = 40, height: int = 36) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        (folder / f"{seed:04d}.png").write_bytes(encoded(noise(seed)))
    return folder


def png_with_too_few_rows() -> bytes:
    """A PNG that is right in every checksum and holds 10 of its 48 rows: only decoding finds
    out.
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(193 * 10)))
        + chunk(b"IEND", b"")
    )


class Bench:
    """Runs ingest and crop on one source as the runner does, each crop into a folder of its own."""

    def __init__(self, folder: Path, dataset: str, location: Path | None, **config: Any) -> None:
        self.folder = folder
        self.source = SourceConfig.model_validate({"name": "mine", "dataset": dataset, **config})
        self.location = str(location) if location else None

    def ingest(self, name: str = "images") -> Path:
        work = self.folder / name
        work.mkdir(parents=True, exist_ok=True)
        part = {"source": self.source.model_dump(mode="json"), "fingerprint": "f"}
        context = {"location": self.location, "state": str(self.folder / "state")}
        ingest.run(
            StageRequest(
                stage="ingest",
                node="ingest:mine",
                key="0" * 32,
                part=part,
                context=context,
                work=work,
            ),
            silent,
        )
        return work

    def request(
        self, name: str, images: Path, earlier: tuple[Path, ...], workers: int, **settings: Any
    ) -> StageRequest:
        work = self.folder / name
        work.mkdir(parents=True, exist_ok=True)
        ref = ArtifactRef(stage="ingest", key="0" * 32, digest="0" * 64)
        return StageRequest(
            stage="crop",
            node="crop:mine",
            key="0" * 32,
            part={"crop": CropConfig(**settings).model_dump(mode="json")},
            inputs={"images": [StageInput(ref=ref, path=images)]},
            context={
                "source": self.source.model_dump(mode="json"),
                "location": self.location,
                "earlier": [str(path) for path in earlier],
                "workers": workers,
            },
            work=work,
        )

    def crop(
        self,
        name: str = "crops",
        images: Path | None = None,
        earlier: tuple[Path, ...] = (),
        workers: int = 2,
        progress: Progress = silent,
        **settings: Any,
    ) -> tuple[Path, StageOutcome]:
        request = self.request(name, images or self.folder / "images", earlier, workers, **settings)
        outcome = crop.run(request, progress)
        table = pq.read_table(request.work / "crops.parquet")
        assert table.schema.equals(CROPS)
        assert outcome.counts["in"] == sum(
            count for kind, count in outcome.counts.items() if kind != "in"
        )
        images_table = pq.read_table((images or self.folder / "images") / "images.parquet")
        assert set(table["image_id"].to_pylist()) == set(images_table["image_id"].to_pylist()), (
            "every image is there"
        )
        return request.work, outcome


def content(folder: Path) -> dict[str, bytes]:
    """The artifact's files by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards and pieces small enough that a few hundred images fill many."""
    monkeypatch.setattr(crop, "_SHARD_ROWS", 32)
    monkeypatch.setattr(crop, "_PIECE_BYTES", 16 * 16 * 3 * 50)


def test_the_digits_lie_where_their_rows_say(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "digits", None)
    bench.ingest()
    folder, outcome = bench.crop()
    assert (
        outcome.counts == {"in": 1797, "ok": 1797, "failed": 0} and outcome.summary["shards"] == 1
    )
    shards = PixelShards(folder)
    assert shards.shape == (32, 32, 3)
    from gan_core.datasets import digits

    source = digits.open_source(bench.source, None)
    members = shards.table["member"].to_pylist()
    truth = np.stack(
        [
            decode(blob.read())
            for blob in source.read_many([(digits.FILE, member) for member in members])
        ]
    )
    assert np.array_equal(shards.pixels(), truth)
    assert shards.table["image_id"].to_pylist() == sorted(shards.table["image_id"].to_pylist())


def test_crops_without_labels_have_no_names_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "folder", fill(tmp_path / "images", 3))
    bench.ingest()
    table = pq.read_table(bench.crop(size=16)[0] / "crops.parquet")
    assert table["label"].null_count == table["label_name"].null_count == 3


def test_rows_are_dealt_by_the_hash_of_their_id(tmp_path: Path, many_shards: None) -> None:
    data = fill(tmp_path / "data", 200)
    (data / "bad.png").write_bytes(b"no image")
    bench = Bench(tmp_path, "folder", data)
    bench.ingest()
    folder, outcome = bench.crop(size=16)
    table = pq.read_table(folder / "crops.parquet").to_pylist()
    assert outcome.summary["shards"] == 8 and outcome.counts["failed"] == 1
    order = [(shard_of(row["image_id"], 8), row["image_id"]) for row in table]
    assert order == sorted(order)
    shards = PixelShards(folder, usable_only=False)
    for index, row in enumerate(table):
        if row["status"] == "failed":
            assert (row["shard"], row["row"], row["box"], row["x0"]) == (None, None, -1, None)
            assert row["reason"].startswith("not_an_image: ")
            continue
        assert row["shard"] == shard_of(row["image_id"], 8)
        expected, box = centre_crop(noise(int(row["address"][:4])), 16)
        assert np.array_equal(shards.pixels(np.array([index]))[0], expected)
        assert [row[name] for name in ("x0", "y0", "x1", "y1")] == pytest.approx(
            [box.x0, box.y0, box.x1, box.y1], rel=1e-6
        )
    assert sum(len(np.load(path)) for path in folder.glob("pixels-*.npy")) == 200


def test_workers_change_nothing(tmp_path: Path, many_shards: None) -> None:
    bench = Bench(tmp_path, "folder", fill(tmp_path / "data", 120))
    bench.ingest()
    one, _ = bench.crop("one", workers=1, size=16)
    four, _ = bench.crop("four", workers=4, size=16)
    assert content(one) == content(four)
    assert not (one / "scratch" / "pieces").exists()


def test_one_new_file_changes_one_shard_and_is_the_only_one_read(
    tmp_path: Path, many_shards: None
) -> None:
    data = fill(tmp_path / "data", 200)
    bench = Bench(tmp_path, "folder", data)
    bench.ingest()
    before, _ = bench.crop("before", size=16)
    for path in data.glob(
        "*.png"
    ):  # other bytes under the same stamp: were one read again, its hash would not be ingest's
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    fill(data, 1, 900)
    after, outcome = bench.crop(
        "after", images=bench.ingest("grown"), earlier=(tmp_path / "nothing", before), size=16
    )
    assert (outcome.summary["reused"], outcome.summary["read"]) == (200, 1)
    changed = [name for name, data in content(after).items() if content(before).get(name) != data]
    assert len(changed) == 2 and "crops.parquet" in changed, changed


def test_reused_crops_are_the_bytes_of_fresh_ones(tmp_path: Path, many_shards: None) -> None:
    data = fill(tmp_path / "data", 90)
    (data / "bad.png").write_bytes(encoded(noise(1))[:-30])
    bench = Bench(tmp_path, "folder", data)
    bench.ingest()
    fresh, _ = bench.crop("fresh", size=16)
    again, outcome = bench.crop("again", earlier=(fresh,), size=16)
    assert content(again) == content(fresh) and outcome.summary["read"] == 0
    (data / "0005.png").write_bytes(encoded(noise(500)))
    changed = bench.ingest("changed")
    expected, _ = bench.crop("expected", images=changed, size=16)
    got, outcome = bench.crop("got", images=changed, earlier=(fresh,), size=16)
    assert content(got) == content(expected) and outcome.summary["read"] == 1


def test_a_damaged_earlier_artifact_is_not_used(tmp_path: Path, many_shards: None) -> None:
    bench = Bench(tmp_path, "folder", fill(tmp_path / "data", 60))
    bench.ingest()
    fresh, _ = bench.crop("fresh", size=16)
    expected = content(fresh)
    next(fresh.glob("pixels-*.npy")).write_bytes(b"x")
    got, outcome = bench.crop("got", earlier=(fresh,), size=16)
    assert content(got) == expected and outcome.summary["read"] == 60


KILLED = """
import os, signal, sys
from pathlib import Path
from gan_core.stages import crop
from gan_core.contract import StageRequest

crop._SHARD_ROWS, crop._PIECE_BYTES = 32, 16 * 16 * 3 * 50
crop.Throttled = lambda progress: progress

def watch(done, total, unit, **figures):
    if done >= 130:
        os.kill(os.getpid(), signal.SIGKILL)

crop.run(StageRequest.model_validate_json(Path(sys.argv[1]).read_text()), watch)
"""


def test_a_killed_run_continues_and_ends_the_same(tmp_path: Path, many_shards: None) -> None:
    bench = Bench(tmp_path, "folder", fill(tmp_path / "data", 220))
    images = bench.ingest()
    whole, _ = bench.crop("whole", size=16)
    request = bench.request("killed", images, (), 2, size=16)
    (tmp_path / "request.json").write_text(request.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "request.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (request.work / "crops.parquet").exists()
    pieces = sorted((request.scratch / "pieces").glob("*.npy"))
    assert len(pieces) == 2
    pieces[0].write_bytes(b"torn")  # a fault on top: what is not whole is made again
    got, outcome = bench.crop("killed", size=16)
    assert outcome.summary["read"] == 170 and content(got) == content(whole)


def test_pieces_of_other_settings_are_not_taken(tmp_path: Path, many_shards: None) -> None:
    bench = Bench(tmp_path, "folder", fill(tmp_path / "data", 60))
    images = bench.ingest()
    request = bench.request("mixed", images, (), 1, size=16)

    class Stop(Exception): ...

    def stop(done: float, total: float, unit: str, **figures: float) -> None:
        if done >= 60:
            raise Stop

    with pytest.raises(Stop):
        crop.run(request, stop)
    assert list((request.scratch / "pieces").glob("*.npy"))
    got, outcome = bench.crop("mixed", size=16, max_megapixels=50)
    assert outcome.summary["read"] == 60
    assert content(got) == content(bench.crop("clean", size=16)[0])


@pytest.mark.parametrize("size", [36, 48])
def test_masks_are_cut_where_their_images_are(tmp_path: Path, size: int) -> None:
    """The mask is the red channel in 8 steps of the same coarse image, so each crop tells what its
    mask must be.
    """
    rng = np.random.default_rng(0)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images, masks = [], []
    for _ in range(30):
        coarse = rng.integers(0, 8, (6, 9), dtype=np.uint8)
        large = np.kron(coarse, np.ones((24, 24), np.uint8))
        images.append({"bytes": encoded(np.repeat(large[..., None] * 30, 3, 2)), "path": None})
        masks.append({"bytes": encoded(large), "path": None})
    masks[4] = None
    masks[5] = {"bytes": encoded(np.zeros((3, 3), np.uint8)), "path": None}
    masks[6] = {"bytes": b"no mask", "path": None}
    (tmp_path / "data").mkdir()
    table = {"image": pa.array(images, kind), "mask": pa.array(masks, kind)}
    pq.write_table(pa.table(table), tmp_path / "data" / "a.parquet", row_group_size=7)
    bench = Bench(tmp_path, "parquet", tmp_path / "data")
    bench.ingest()
    folder, outcome = bench.crop("crops", size=size)
    shards = PixelShards(folder)
    mask = np.load(folder / "masks-00000.npy")
    assert mask.shape == (30, size, size) and outcome.summary["masks"]
    members = shards.table["member"].to_pylist()
    for index, (member, pixels) in enumerate(zip(members, shards.pixels(), strict=True)):
        if member in ("4", "5", "6"):
            assert (mask[index] == 255).all()
        else:
            agree = np.abs(pixels[..., 0].astype(int) - mask[index].astype(int) * 30) <= 2
            assert agree.mean() > 0.7, (
                "they may differ where the image was mixed and the mask picked"
            )
    assert any(warning.startswith("3 masks") for warning in outcome.warnings)
    again, outcome = bench.crop("again", earlier=(folder,), size=size)
    assert content(again) == content(folder) and outcome.summary["read"] == 0
    masks[0], masks[1] = masks[1], masks[0]
    pq.write_table(
        pa.table({**table, "mask": pa.array(masks, kind)}),
        tmp_path / "data" / "a.parquet",
        row_group_size=7,
    )
    swapped = bench.ingest("swapped")
    got, outcome = bench.crop("got", images=swapped, earlier=(folder,), size=size)
    assert outcome.summary["read"] == 2, "another mask under the same image is seen"
    assert content(got) == content(bench.crop("clean", images=swapped, size=size)[0])


def test_masks_of_a_folder(tmp_path: Path) -> None:
    data = fill(tmp_path / "data" / "images", 10)
    for number in range(10):
        path = tmp_path / "data" / "masks" / "images" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(np.full((36, 40), number, np.uint8)))
    bench = Bench(tmp_path, "folder", data.parent, options={"masks": "masks"})
    bench.ingest()
    folder, outcome = bench.crop(size=16)
    mask = np.load(folder / "masks-00000.npy")
    addresses = PixelShards(folder).table["address"].to_pylist()
    assert [int(address[7:11]) for address in addresses] == mask[
        :, 0, 0
    ].tolist() and not outcome.warnings[1:]


def test_odd_images_become_crops_and_bad_ones_rows(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    image = Image.fromarray(noise(0, 64, 48))
    image.convert("CMYK").save(data / "cmyk.jpg")
    image.convert("P").save(data / "palette.png")
    image.convert("LA").save(data / "alpha.png")
    image.save(data / "animated.gif", save_all=True, append_images=[image.rotate(90)])
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)).save(data / "sixteen.png")
    image.resize((1, 700)).save(data / "thin.png")
    image.resize((20, 10)).save(data / "small.png")
    jpeg = encoded(noise(0, 64, 48), "JPEG")
    (data / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (data / "inside.png").write_bytes(png_with_too_few_rows())
    Image.fromarray(noise(0, 400, 300)).save(data / "large.png")
    bench = Bench(tmp_path, "folder", data)
    bench.ingest()
    folder, outcome = bench.crop(max_megapixels=0.1)
    rows = {row["address"]: row for row in pq.read_table(folder / "crops.parquet").to_pylist()}
    assert {name: row["reason"].partition(":")[0] for name,
    row in rows.items() if row["status"] != "ok"} == {
        "cut.jpg": "truncated", "inside.png": "damaged", "large.png": "too_large",
    }  # fmt: skip
    assert (
        "400 x 300" in rows["large.png"]["reason"]
        and "crop.max_megapixels" in rows["large.png"]["reason"]
    )
    assert outcome.counts == {"in": 10, "ok": 7, "failed": 3} and outcome.summary["enlarged"] == 2
    assert any("3 of 10 images" in warning for warning in outcome.warnings)


def test_data_that_changed_since_ingest_ends_the_stage(tmp_path: Path) -> None:
    data = fill(tmp_path / "data", 20)
    bench = Bench(tmp_path, "folder", data)
    bench.ingest()
    (data / "0007.png").write_bytes(encoded(noise(700)))
    with pytest.raises(DataError, match=r"0007.png is no longer what ingest read"):
        bench.crop("changed")
    (data / "0007.png").unlink()
    with pytest.raises(TransientError, match=r"0007.png could be read at ingest and cannot now"):
        bench.crop("gone")


def test_no_crop_at_all_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "folder", fill(tmp_path / "data", 4))
    bench.ingest()
    with pytest.raises(DataError, match="4 too_large"):
        bench.crop(max_megapixels=1e-4)
    with pytest.raises(DataError, match="face_min_side") as caught:
        bench.crop("faces", kind="faces")
    assert "4 no_face" in caught.value.message


def test_shards_depend_on_the_images_alone() -> None:
    assert [crop.shards_for(images, 32) for images in (1, 8192, 8193, 60_000, 1_281_167)] == [
        1,
        1,
        2,
        8,
        256,
    ]
    assert crop.shards_for(8192, 64) == 1 and crop.shards_for(8192, 128) == 4
    assert all(
        crop.shards_for(10_000, size) * (96 << 20) >= 10_000 * size * size * 3
        for size in (8, 32, 64, 100, 256, 512)
    )


@pytest.mark.data
def test_faces_of_real_photos(tmp_path: Path, real_data: Path) -> None:
    bench = Bench(tmp_path, "parquet", real_data / "faces" / "photos.parquet", limit=60)
    bench.ingest()
    folder, outcome = bench.crop(kind="faces", size=64)
    rows = pq.read_table(folder / "crops.parquet").to_pylist()
    assert outcome.counts["ok"] >= 105 and outcome.counts["in"] == 120
    assert outcome.summary["cascade_sha256"] and outcome.counts["no_face"] == sum(
        row["status"] == "no_face" for row in rows
    )
    for row in rows:
        if row["status"] == "ok":
            assert row["x1"] - row["x0"] == row["y1"] - row["y0"] >= 64
    one, _ = bench.crop("one", kind="faces", size=64, workers=1)
    assert content(one) == content(folder), "one thread or two: the same faces"


@pytest.mark.data
def test_the_real_training_set_keeps_its_mean(tmp_path: Path, real_data: Path) -> None:
    bench = Bench(tmp_path, "cifar10", real_data / "cifar10", splits=["train"])
    bench.ingest()
    folder, outcome = bench.crop()
    assert (
        outcome.counts == {"in": 50_000, "ok": 50_000, "failed": 0}
        and outcome.summary["shards"] == 8
    )
    total = sum(
        int(np.load(path, mmap_mode="r").sum(dtype=np.int64))
        for path in folder.glob("pixels-*.npy")
    )
    assert total / (50_000 * 3072) == pytest.approx(120.7075, abs=5e-5)


def test_windows_are_spread_along_the_longer_side(tmp_path: Path) -> None:
    image = np.zeros((96, 128, 3), np.uint8)
    image[:] = np.arange(128)[None, :, None]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(encoded(image))
    bench = Bench(tmp_path, "folder", tmp_path / "data")
    bench.ingest()
    folder, _ = bench.crop("crops", size=96, windows=3)
    shards = PixelShards(folder)
    assert shards.table["box"].to_pylist() == [0, 1, 2]
    assert shards.table["x0"].to_pylist() == [0, 16, 32]
    assert shards.pixels()[:, 0, 0, 0].tolist() == [0, 16, 32]
