"""A tree of 1,000 mutated files of every format: `discern run folder` ends with a report and a row
for each file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.faults.hostile import encoded, hostile_folder, mutated_header, photo

ROOT = Path(__file__).resolve().parents[2]
FORMATS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "AVIF": "avif",
    "JPEG2000": "jp2",
}


def hostile_tree(root: Path, count: int) -> set[str]:
    """Fills `root` with `count` files, a quarter of them whole; returns their addresses."""
    rng = np.random.default_rng(0)
    names = set()
    for number in range(count):
        form = list(FORMATS)[number % len(FORMATS)]
        data = encoded(photo(number), form)
        fault = rng.integers(0, 4)
        if fault == 1:
            data = data[: int(rng.integers(0, len(data)))]
        elif fault == 2:
            data = mutated_header(data, rng)
        ending = list(FORMATS.values())[rng.integers(len(FORMATS))] if fault == 3 else FORMATS[form]
        address = f"class{number % 3}/{number:04d}.{ending}"
        (root / address).parent.mkdir(parents=True, exist_ok=True)
        (root / address).write_bytes(data)
        names.add(address)
    return names


@pytest.mark.slow
def test_a_hostile_tree_ends_with_a_report_and_a_row_for_each_file(tmp_path: Path) -> None:
    names = hostile_tree(tmp_path / "images", 980)
    good, bad = hostile_folder(tmp_path / "images" / "class0")
    names |= {f"class0/{name}" for name in good | bad} | {"class0/dangling.png"}
    command = [sys.executable, "-m", "flows.cli", "run", "folder", "--scale", "debug", "--json"]
    command += ["--data", str(tmp_path / "images"), "--home", str(tmp_path / "home")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)
    assert list((tmp_path / "home").rglob("report.html"))
    (table,) = (tmp_path / "home" / "artifacts" / "ingest").rglob("images.parquet")
    images = pq.read_table(table)
    assert names <= set(images["address"].to_pylist())
    assert images.num_rows == len(set(images["address"].to_pylist()))
    statuses = images["status"].to_pylist()
    assert statuses.count("failed") > 200 and statuses.count("ok") > 200
