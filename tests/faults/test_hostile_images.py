"""Bad images become rows with a reason; nothing is lost, nothing crashes, nothing fills the
memory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gan_core.artifacts.store import Store
from gan_core.pipeline.nodes import Settings
from gan_core.pipeline.plan import build_plan
from gan_core.pipeline.runner import StageResult, execute
from gan_core.pipeline.sources import fingerprint, locate
from gan_core.recipes import load_recipe
from tests.faults.hostile import hostile_folder


def prepare_folder(
    data: Path, home: Path, *overrides: str, until: str = "crop:folder"
) -> dict[str, StageResult]:
    """Runs the stages of recipe `folder` up to a node, without Prefect."""
    recipe, _ = load_recipe("folder", scale="debug", overrides=["threads=2", *overrides])
    store = Store(home)
    places = locate(recipe, [str(data)], home)
    settings = Settings(locations={name: place.path for name, place in places.items()})
    nodes = build_plan(
        recipe, {"folder": fingerprint(recipe.sources.train[0], places["folder"])}, settings
    )
    results: dict[str, StageResult] = {}
    for node in nodes:
        inputs = {name: results[name].ref for ids in node.inputs.values() for name in ids}
        results[node.id] = execute(store, node, inputs)  # type: ignore[arg-type]
        if node.id == until:
            break
    return results


def rows(home: Path, result: StageResult, name: str) -> list[dict[str, Any]]:
    assert result.ref is not None
    return pq.read_table(Store(home).path(result.ref) / name).to_pylist()


def test_every_file_is_a_row_and_bad_ones_say_why(tmp_path: Path) -> None:
    good, bad = hostile_folder(tmp_path / "images")
    results = prepare_folder(tmp_path / "images", tmp_path / "home")
    images = rows(tmp_path / "home", results["ingest:folder"], "images.parquet")
    crops = rows(tmp_path / "home", results["crop:folder"], "crops.parquet")
    addresses = [row["address"] for row in images]
    assert len(addresses) == len(set(addresses)), "a loop of links must not show an image twice"
    assert good | bad <= set(addresses)
    assert "notes.txt" not in addresses
    by_address = {row["address"]: row for row in crops}
    assert {name for name in good if by_address[name]["status"] != "ok"} == set()
    failed = {row["address"]: row["reason"] for row in crops if row["status"] != "ok"}
    assert bad <= set(failed) and all(failed[name] for name in bad)
    assert "2,500" in failed["bomb.png"] or "2500" in failed["bomb.png"], failed["bomb.png"]
    counts = results["crop:folder"].outcome.counts
    assert counts["in"] == len(images) == len(by_address)


def test_an_upright_image_is_seen_upright(tmp_path: Path) -> None:
    hostile_folder(tmp_path / "images")
    results = prepare_folder(tmp_path / "images", tmp_path / "home", until="ingest:folder")
    images = {
        row["address"]: row
        for row in rows(tmp_path / "home", results["ingest:folder"], "images.parquet")
    }
    assert (images["rotated.jpg"]["width"], images["rotated.jpg"]["height"]) == (40, 48)


def test_a_new_file_is_the_only_one_read(tmp_path: Path) -> None:
    """Old files get other bytes of the same size and time: had they been read again, their hashes
    would differ.
    """
    data, home = tmp_path / "images", tmp_path / "home"
    hostile_folder(data)
    before = prepare_folder(data, home)
    old = {
        row["address"]: row["content_sha256"]
        for row in rows(home, before["ingest:folder"], "images.parquet")
    }
    for path in data.glob("*.jpg"):
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    shutil.copyfile(data / "alpha.png", data / "new.png")
    after = prepare_folder(data, home)
    now = {
        row["address"]: row["content_sha256"]
        for row in rows(home, after["ingest:folder"], "images.parquet")
    }
    assert {name: now[name] for name in old} == old and set(now) - set(old) == {"new.png"}
    crops = {
        row["address"]: row["status"] for row in rows(home, after["crop:folder"], "crops.parquet")
    }
    assert crops["plain.jpg"] == "ok" == crops["new.png"], (
        "crops of known images are copied, not read"
    )


def test_moving_the_folder_makes_nothing_again(tmp_path: Path) -> None:
    hostile_folder(tmp_path / "images")
    prepare_folder(tmp_path / "images", tmp_path / "home")
    shutil.move(tmp_path / "images", tmp_path / "elsewhere")
    again = prepare_folder(tmp_path / "elsewhere", tmp_path / "home")
    assert all(result.cached for result in again.values())


def test_a_file_that_may_not_be_read_is_a_row(tmp_path: Path) -> None:
    """Run as an unprivileged user: root may read everything."""
    setpriv = shutil.which("setpriv")
    if os.getuid() == 0 and not setpriv:
        pytest.skip("root reads every file, and setpriv is not here to become another user")
    data = tmp_path / "images"
    hostile_folder(data)
    (data / "secret.png").write_bytes((data / "alpha.png").read_bytes())
    (data / "secret.png").chmod(0o000)
    home = tmp_path / "home"
    home.mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if os.stat(folder).st_uid == os.getuid() and str(folder).startswith("/tmp"):
            folder.chmod(0o755)
    home.chmod(0o777)
    script = (
        "import json, sys; from pathlib import Path; from tests.faults.test_hostile_images import "
        "prepare_folder, rows\n"
        "data, home = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "done = prepare_folder(data, home)\n"
        "print(json.dumps([[r['address'], r['status'], r['reason']] for r in rows(home, "
        "done['crop:folder'], 'crops.parquet')]))"
    )
    command = [sys.executable, "-c", script, str(data), str(home)]
    if os.getuid() == 0:
        command = [str(setpriv), "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "HOME": str(home)},
    )
    if done.returncode and "ermission" in done.stderr and "site-packages" in done.stderr:
        pytest.skip("this installation cannot be read by another user")
    assert done.returncode == 0, done.stderr[-2000:]
    statuses = {
        address: (status, reason)
        for address, status, reason in json.loads(done.stdout.strip().splitlines()[-1])
    }
    assert statuses["secret.png"][0] == "failed" and "ermission" in statuses["secret.png"][1]
    assert statuses["plain.jpg"][0] == "ok"
