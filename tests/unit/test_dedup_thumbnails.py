"""Reading many files by several processes gives what one process reads, whoever dies."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from gan_core.dedup.folder import read as reading
from gan_core.dedup.folder import thumbnails
from gan_core.dedup.folder.thumbnails import File, Shared, read_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images of several sizes, and what else lies about in folders."""
    place = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(600):
        image = random.integers(0, 256, (20 + number % 40, 30, 3), np.uint8)
        cv2.imwrite(str(place / f"{number:04d}.png"), image)
    (place / "0100.png").write_bytes((place / "0101.png").read_bytes()[:200])
    (place / "0200.png").write_bytes(b"")
    (place / "no ending, no image").write_text("hello")
    (place / "no ending, an image").write_bytes((place / "0300.png").read_bytes())
    with open(os.fsencode(place) + b"/\xff odd.png", "wb") as out:
        out.write((place / "0400.png").read_bytes())
    return place


def test_several_processes_read_what_threads_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_threads = reading.read_images(folder, None, 2, 100.0, tmp_path)
    monkeypatch.setattr(reading, "MANY", 100)
    reports: list[float] = []
    by_processes = reading.read_images(
        folder, None, 3, 100.0, tmp_path, lambda done, total, unit: reports.append(done)
    )
    assert (
        by_threads.ids == by_processes.ids and len(by_threads.ids) == 602
    )  # the text file is none, the others are
    assert by_threads.problems == by_processes.problems
    assert [problem.partition(":")[0] for problem in by_threads.problems if problem] == [
        "truncated",
        "empty",
    ]
    assert (by_threads.thumbnails == by_processes.thumbnails).all() and by_threads.thumbnails.any(
        axis=(1, 2, 3)
    ).sum() == 600
    assert (by_threads.sizes == by_processes.sizes).all()
    assert reports == sorted(reports) and reports[-1] == 603


def test_the_blocks_of_a_killed_reader_are_read_again(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [File(str(path)) for path in sorted(folder.glob("0*.png"))] * 20
    small, sizes = (
        Shared.make((len(files), 32, 32, 3), np.uint8),
        Shared.make((len(files), thumbnails.FACTS), np.int64),
    )
    pool = thumbnails._WorkerPool(files, small, sizes, 100.0, tmp_path, lambda done: None)
    pool.start(1)
    process = pool.helpers[0][0]
    while not pool.done:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    pool.work()
    pool.end()
    alone, sizes_alone, problems = read_files(files, 1, 100.0, tmp_path)
    assert (
        (small.array == alone).all()
        and (sizes.array == sizes_alone).all()
        and pool.problems == problems
    )
    assert len(pool.done) == pool.count and "died (-9)" in caplog.text


def test_thumbnails_on_disk_are_the_same_and_leave_no_file(folder: Path, tmp_path: Path) -> None:
    files = [File(str(path)) for path in sorted(folder.glob("0*.png"))]
    in_memory, on_disk = (
        read_files(files, 2, 100.0, tmp_path, on_disk=where)[0] for where in (False, True)
    )
    assert (in_memory == on_disk).all()
    assert not any(path.stat().st_size > 1_000_000 for path in tmp_path.iterdir())
