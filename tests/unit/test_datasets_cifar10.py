"""CIFAR-10 in its three forms, and its download through torchvision's downloader from a server on
this machine.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gan_core.config import SourceConfig
from gan_core.datasets import cifar10
from gan_core.datasets.base import Entry, Source
from gan_core.errors import RequestError, TransientError
from gan_core.vision.decode import decode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(
    0, 256, (6, 5, 32, 32, 3), dtype=np.uint8
)  # five training batches and a test batch of five images
LABELS = RNG.integers(0, 10, (6, 5))
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def python2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch byte for byte as cPickle of Python 2 wrote them: strings without encoding, numpy's
    old module names.
    """

    def text(value: bytes) -> bytes:
        return (
            b"U" + bytes([len(value)]) + value
            if len(value) < 256
            else b"T" + struct.pack("<I", len(value)) + value
        )

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        + b"(K\x01" + b"(" + number(pixels.shape[0]) + number(pixels.shape[1]) + b"t"
        + b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89" + text(pixels.tobytes()) + b"tb"
    )  # fmt: skip
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    label = text(b"batch_label") + text(b"training batch 1 of 5")
    return b"\x80\x02}(" + label + text(b"labels") + listed + text(b"data") + array + b"u."


def python_version(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels, labels in zip(NAMES, PIXELS, LABELS, strict=True):
        (folder / name).write_bytes(python2_pickle(planes(pixels), labels.tolist()))
    return folder


def binary_version(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels, labels in zip(NAMES, PIXELS, LABELS, strict=True):
        rows = np.concatenate([labels[:, None].astype(np.uint8), planes(pixels)], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def opened(place: Path) -> Source:
    return cifar10.open_source(SourceConfig(name="cifar10", dataset="cifar10"), place)


def entries(source: Source) -> list[Entry]:
    return [entry for stamp in source.stamps() for entry in source.entries(stamp)]


def check(source: Source) -> None:
    found = entries(source)
    assert [entry.label for entry in found] == LABELS.flatten().tolist()
    assert [entry.label_name for entry in found] == [
        cifar10.CLASSES[label] for label in LABELS.flatten()
    ]
    assert [entry.split for entry in found] == ["train"] * 25 + ["test"] * 5
    blobs = source.read_many([(entry.address, entry.member) for entry in found])
    assert np.array_equal(
        np.stack([decode(blob.read()) for blob in blobs]), PIXELS.reshape(30, 32, 32, 3)
    )


def test_the_pickle_of_this_test_is_one_that_python_reads() -> None:
    batch = pickle.loads(python2_pickle(planes(PIXELS[0]), LABELS[0].tolist()), encoding="bytes")
    assert (
        np.array_equal(batch[b"data"], planes(PIXELS[0])) and batch[b"labels"] == LABELS[0].tolist()
    )


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_the_python_version(tmp_path: Path, below: str) -> None:
    python_version(tmp_path / below)
    check(opened(tmp_path))


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_the_binary_version(tmp_path: Path, below: str) -> None:
    binary_version(tmp_path / below)
    check(opened(tmp_path))


def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return (os.mkdir, (str(tmp_path / "harm"),))

    python_version(tmp_path)
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps({b"data": Harm(), b"labels": []}))
    found = entries(opened(tmp_path))
    assert not (tmp_path / "harm").exists()
    (bad,) = [entry for entry in found if entry.problem]
    assert bad.address == "data_batch_2" and "mkdir" in bad.problem and len(found) == 26


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80\x02}.", b"\x80\x02N.", python2_pickle(planes(PIXELS[0]), [1, 2]), b"garbage"],
)
def test_a_damaged_batch_is_one_row(tmp_path: Path, data: bytes) -> None:
    python_version(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(data)
    found = entries(opened(tmp_path))
    assert found[0].problem.startswith("damaged: ") and len(found) == 26


def test_missing_and_cut_batches_are_reported(tmp_path: Path) -> None:
    binary_version(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    (tmp_path / "data_batch_4.bin").write_bytes(b"x" * 3074)
    source = opened(tmp_path)
    found = entries(source)
    assert len(found) == 16 + 5 and any(
        "data_batch_3.bin is missing" in warning for warning in source.warnings
    )
    assert [entry.problem.partition(":")[0] for entry in found if entry.problem] == ["truncated"]


def test_what_is_no_cifar10_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="CIFAR-10 files"):
        opened(tmp_path)
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"x")
    with pytest.raises(RequestError, match="unpack cifar-10-python.tar.gz"):
        opened(archive)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(address, MD5) of an archive like CIFAR-10's on a server of this machine."""
    python_version(tmp_path / "made" / "cifar-10-batches-py")
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    md5 = hashlib.md5((served / "cifar-10-python.tar.gz").read_bytes()).hexdigest()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(served))
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/cifar-10-python.tar.gz", md5
        running.shutdown()


def test_fetch_downloads_checks_and_keeps_parquet(tmp_path: Path, server: tuple[str, str]) -> None:
    url, md5 = server
    target = tmp_path / "cache"
    with pytest.raises(TransientError, match="could not be downloaded"):
        cifar10.fetch(target, url=url, md5="0" * 32)
    seen: list[float] = []
    cifar10.fetch(target, lambda done, total, unit, **figures: seen.append(done), url=url, md5=md5)
    assert sorted(path.name for path in target.iterdir()) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]
    assert seen[-1] == 30
    source = opened(target)
    found = entries(source)
    assert [entry.split for entry in found] == ["test"] * 5 + ["train"] * 25
    assert [entry.attributes["index"] for entry in found] == [*range(5), *range(25)]
    assert found[0].label_name == cifar10.CLASSES[LABELS[5, 0]]
    pixels = np.stack(
        [decode(blob.read()) for blob in source.read_many([(e.address, e.member) for e in found])]
    )
    assert np.array_equal(pixels, np.concatenate([PIXELS[5], PIXELS[:5].reshape(25, 32, 32, 3)]))
    assert cifar10.fetch(target, url="http://127.0.0.1:9/never-asked") == target


@pytest.mark.data
@pytest.mark.slow  # tests/stages/test_crop_stage.py reads the same images in the default run
def test_the_real_set_has_its_known_mean(real_data: Path) -> None:
    """The mean of all training pixels is 120.7075: one wrong image or channel order would
    move it.
    """
    source = opened(real_data / "cifar10")
    found = [entry for entry in entries(source) if entry.split == "train"]
    assert (
        len(found) == 50_000
        and np.bincount([entry.label or 0 for entry in found]).tolist() == [5000] * 10
    )
    total = sum(
        int(decode(blob.read()).sum())
        for blob in source.read_many([(e.address, e.member) for e in found])
    )
    assert total / (50_000 * 3072) == pytest.approx(120.7075, abs=5e-5)
