"""What every kind of source must do, asked of each file in gan_core/datasets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_core import registry
from gan_core.config import SourceConfig
from gan_core.datasets.base import Entry, Source, fingerprint
from gan_core.errors import RequestError, UnknownName
from gan_core.vision.decode import decode
from gan_core.vision.image_files import UnreadableImage
from tests import published_sets

ROOT = Path(__file__).resolve().parents[2]
NAMES = registry.names("datasets")


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def make_folder(place: Path) -> None:
    for number in range(12):
        path = place / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def make_parquet(place: Path) -> None:
    for part in range(2):
        rows = {
            "image": [{"bytes": png(10 * part + n), "path": None} for n in range(10)],
            "label": [n % 3 for n in range(10)],
        }
        pq.write_table(pa.table(rows), place / f"train-{part}.parquet", row_group_size=4)


def make_tar(place: Path) -> None:
    for shard in range(2):
        with tarfile.open(place / f"train-{shard}.tar", "w") as archive:
            for number in range(10):
                for name, data in (
                    (f"{number:04d}.png", png(number)),
                    (f"{number:04d}.cls", str(number % 2).encode()),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def make_cifar10(place: Path) -> None:
    for number in (1, 2):
        rows = np.random.default_rng(number).integers(0, 256, (8, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (place / f"data_batch_{number}.bin").write_bytes(rows.tobytes())


def make_lmdb(place: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    for split in ("train", "val"):
        with (
            lmdb.open(str(place / f"bedroom_{split}_lmdb"), map_size=1 << 20) as database,
            database.begin(write=True) as change,
        ):
            for number in range(10):
                key = f"{number:040x}".encode() if number else b"\x00\xff no text"
                change.put(key, png(number))


MAKERS: dict[str, Callable[[Path], None]] = {
    "folder": make_folder,
    "parquet": make_parquet,
    "tar": make_tar,
    "lmdb": make_lmdb,
    "cifar10": make_cifar10,
    "cifar100": published_sets.make_cifar100,
    "svhn": published_sets.make_svhn,
    "stl10": published_sets.make_stl10,
    "mnist": published_sets.make_mnist,
    "fashion_mnist": published_sets.make_fashion_mnist,
    "celeba": published_sets.make_celeba,
    "hf": published_sets.make_hf,
}


def maker_of(name: str) -> Callable[[Path], None] | None:
    """Makes a small source: the file's own `example`, or one of these; None: it needs no place."""
    if not registry.literal("datasets", name, "NEEDS_LOCATION", True):
        return None
    maker = getattr(registry.load("datasets", name), "example", None) or MAKERS.get(name)
    assert maker is not None, f"the dataset {name} has no `example(folder)`"
    return maker


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(name: str, tmp_path: Path) -> Path | None:
    maker = maker_of(name)
    if maker is None:
        return None
    (tmp_path / "data").mkdir()
    maker(tmp_path / "data")
    return tmp_path / "data"


def opened(name: str, place: Path | None, **options: object) -> Source:
    source: Source = registry.load("datasets", name).open_source(
        SourceConfig(name="x", dataset=name, options=options), place
    )
    return source


def entries(source: Source) -> list[Entry]:
    return [entry for stamp in source.stamps() for entry in source.entries(stamp)]


def test_it_says_what_it_is_in_a_sentence(name: str) -> None:
    about = registry.about("datasets", name)
    assert 20 < len(about) < 130 and "\n" not in about


def test_opening_and_listing_import_nothing_heavy(name: str, place: Path | None) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from gan_core import registry; from gan_core.config import SourceConfig; from "
        "gan_core.datasets.base import fingerprint\n"
        "place = Path(sys.argv[2]) if sys.argv[2] else None\n"
        "source = registry.load('datasets', sys.argv[1]).open_source(SourceConfig(name='x', "
        "dataset=sys.argv[1]), place)\n"
        "fingerprint(source.stamps())\n"
        "print(*sorted({'numpy', 'pyarrow', 'cv2', 'torch', 'torchvision', 'sklearn', 'PIL', "
        "'prefect'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, name, str(place or "")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_listing_is_sorted_and_repeats(name: str, place: Path | None) -> None:
    first, second = opened(name, place).stamps(), opened(name, place).stamps()
    assert first == second and first
    assert [stamp.address for stamp in first] == sorted(stamp.address for stamp in first)
    assert all(not stamp.address.startswith(("/", ".")) for stamp in first)


def test_every_entry_is_named_once_and_can_be_read(name: str, place: Path | None) -> None:
    source = opened(name, place)
    found = entries(source)
    names = [(entry.address, entry.member) for entry in found]
    assert len(set(names)) == len(names) >= 10
    blobs = list(source.read_many(names))
    assert [(blob.address, blob.member) for blob in blobs] == names
    for blob in blobs:
        assert decode(blob.read()).ndim == 3
        assert source.has_masks or blob.read_mask() is None
    assert {entry.split for entry in found} <= {"", "train", "validation", "test"}
    assert all(entry.label is None or entry.label >= 0 for entry in found)


def test_reading_takes_any_order_and_any_part(name: str, place: Path | None) -> None:
    names = [(entry.address, entry.member) for entry in entries(opened(name, place))]
    whole = {
        (blob.address, blob.member): blob.read() for blob in opened(name, place).read_many(names)
    }
    rng = np.random.default_rng(0)
    for wanted in (
        names[::-1][:40],
        names[3::5],
        [names[i] for i in rng.integers(0, len(names), 30)],
        [],
    ):
        got = list(opened(name, place).read_many(wanted))
        assert [(blob.address, blob.member) for blob in got] == wanted
        assert all(blob.read() == whole[(blob.address, blob.member)] for blob in got)


def test_the_fingerprint_sees_what_changes(name: str, place: Path | None) -> None:
    before = fingerprint(opened(name, place).stamps())
    assert before == fingerprint(opened(name, place).stamps()) and len(before) == 64
    if place is None:
        return
    moved = place.rename(place.with_name("moved"))
    assert fingerprint(opened(name, moved).stamps()) == before, "the place itself is no part of it"
    addresses = tuple(stamp.address for stamp in opened(name, moved).stamps())
    files = (path for path in sorted(moved.rglob("*")) if path.is_file())
    one = next(path for path in files if path.as_posix().endswith(addresses))
    os.utime(one, ns=(0, one.stat().st_mtime_ns + 1))
    touched = fingerprint(opened(name, moved).stamps())
    assert touched != before
    one.unlink()
    assert fingerprint(opened(name, moved).stamps()) not in (before, touched)


def test_a_place_that_is_not_there_is_reported(name: str, tmp_path: Path) -> None:
    if maker_of(name) is None:
        assert registry.load("datasets", name).NEEDS_LOCATION is False
        return
    with pytest.raises(RequestError) as caught:
        opened(name, None)
    assert "--data" in caught.value.remedy
    with pytest.raises(RequestError) as caught:
        opened(name, tmp_path / "nothing")
    assert "nothing" in caught.value.message and caught.value.remedy
    with pytest.raises(RequestError) as found:
        opened(name, tmp_path).stamps()
    assert found.value.expected and found.value.remedy


def test_an_option_that_it_does_not_have_is_reported(name: str, place: Path | None) -> None:
    with pytest.raises(UnknownName):
        opened(name, place, no_such_option=1)


def test_what_is_not_there_any_more_is_a_problem_of_that_row(name: str, place: Path | None) -> None:
    if place is None:
        return
    source = opened(name, place)
    wanted = [(entry.address, entry.member) for entry in entries(source)]
    for path in place.rglob("*"):
        if path.is_file():
            path.unlink()
    for blob in source.read_many(wanted[:2]):
        with pytest.raises(UnreadableImage):
            blob.read()
