"""`gc`: what it keeps, what it removes, beside a run that is going on, and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan_core.errors import RequestError
from gan_core.gc import clean
from gan_core.manifest import Manifest
from gan_core.runs import Run, RunRequest, prepare
from gan_core.stages.contract import ArtifactRef
from gan_core.store import Store

ROOT = Path(__file__).resolve().parents[2]


def publish(store: Store, name: str, stage: str = "hash", files: int = 1, **part: object) -> ArtifactRef:
    work = store.work(stage, name)
    for number in range(files):
        (work / f"codes-{number}.parquet").write_bytes(f"{name} {number}".encode() * 100)
    manifest = Manifest(stage=stage, version=1, key=name, digest="", part=dict(part))
    return store.publish(work, manifest, ("*.parquet",))[0]


def record(
    store: Store, name: str, minute: int, refs: list[ArtifactRef], state: str = "completed", recipe: str = "digits"
) -> Path:
    folder = store.home / "runs" / name
    folder.mkdir(parents=True)
    nodes = [{"node": ref.key, "ref": ref.model_dump()} for ref in refs]
    started = f"2026-11-24T10:{minute:02d}:00+00:00"
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "state": state, "started": started, "nodes": nodes}))
    return folder


def keys(store: Store) -> set[str]:
    return {ref.key for ref in store.artifacts.refs()}


def test_it_keeps_what_the_last_runs_name_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    refs = {
        name: publish(store, name) for name in ("shared", "first", "second", "third", "failed", "pinned", "other", "nobody")
    }
    publish(store, "imported", stage="train", snapshot="theirs")
    pinned = record(store, "run-0", 0, [refs["pinned"]])
    (pinned / "keep").touch()
    record(store, "run-1", 1, [refs["shared"], refs["first"]])
    record(store, "run-2", 2, [refs["shared"], refs["second"]])
    record(store, "run-3", 3, [refs["failed"]], state="failed")
    record(store, "run-4", 4, [refs["third"]])
    record(store, "run-5", 5, [refs["other"]], recipe="faces")
    old = store.work("crop", "abandoned")
    (old / "piece").write_bytes(b"x" * 1000)
    for path in (old / "piece", old):
        os.utime(path, (1, 1))
    told = clean(store, 2, dry_run=True)
    assert len(keys(store)) == 9 and old.exists(), "a dry run removes nothing"
    done = clean(store, 2, dry_run=False)
    assert keys(store) == {"shared", "second", "failed", "third", "pinned", "other", "imported"}
    assert {ref.key for ref in told.artifacts} == {ref.key for ref in done.artifacts} == {"first", "nobody"}
    assert told.size == done.size > 1000
    assert {run.folder.name for run in done.removed} == {"run-1"} and not (store.home / "runs" / "run-1").exists()
    assert not old.exists() and not (store.home / "trash").exists()
    assert not any(store.verify(ref) for ref in store.artifacts.refs())
    assert clean(store, 2, dry_run=False).artifacts == []


def test_a_recipe_that_only_fails_loses_no_good_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    good, bad = publish(store, "good"), publish(store, "bad")
    record(store, "run-1", 1, [good])
    for minute in range(2, 8):
        record(store, f"run-{minute}", minute, [bad], state="failed")
    clean(store, 1, dry_run=False)
    assert "good" in keys(store)


def test_a_key_that_is_being_written_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store, "busy")
    with store.lock("hash", "busy", "a test"):
        assert clean(store, 1, dry_run=False).passed_over == 1
        assert keys(store) == {"busy"}
    clean(store, 1, dry_run=False)
    assert keys(store) == set()


def test_what_a_living_run_has_claimed_or_planned_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("claimed", "forgotten"):
        ref = publish(store, name)
        for path in [*store.path(ref).parent.rglob("*")]:
            os.utime(path, (1, 1))
    run = Run(store, prepare(RunRequest(recipe="digits", home=str(tmp_path)), store))
    assert store.claim("hash", "claimed") is not None
    clean(store, 1, dry_run=False)
    assert keys(store) == {"claimed"}
    run.finish("completed")
    clean(store, 1, dry_run=False)
    assert keys(store) == set(), "the run is over and did not name it"


def test_nothing_to_keep_and_object_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="would remove every run"):
        clean(Store(tmp_path), 0, dry_run=True)
    with pytest.raises(RequestError, match="other machines"):
        clean(Store("memory://cleaning", tmp_path), 1, dry_run=True)


def test_a_killed_cleaning_leaves_a_store_that_verifies(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = publish(store, "kept", files=20)
    for number in range(300):
        publish(store, f"old{number:03d}", files=20)
    record(store, "run-1", 1, [kept])
    code = "import sys; from gan_core.gc import clean; from gan_core.store import Store; clean(Store(sys.argv[1]), 1, dry_run=False)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    while process.poll() is None and not any((tmp_path / "trash").glob("*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = list(store.artifacts.refs())
    assert 1 < len(left) < 301, "it was killed in the middle"
    assert not any(store.verify(ref) for ref in left)
    clean(store, 1, dry_run=False)
    assert keys(store) == {"kept"} and not (tmp_path / "trash").exists()


RUNS = """
import sys
from gan_core.runner import execute
from gan_core.runs import Run, RunRequest, prepare
from gan_core.store import Store

store = Store(sys.argv[1])
for size in (8, 12, 8, 16, 12, 8, 12):  # settings that come back find what an earlier run made, or make it again
    request = RunRequest(recipe="digits", until="crop", overrides=[f"crop.size={size}"], home=sys.argv[1])
    prepared = prepare(request, store)
    run = Run(store, prepared)
    results = {}
    for node in prepared.nodes:
        refs = {name: results[name].ref for ids in node.inputs.values() for name in ids}
        results[node.id] = execute(store, node, refs)
        run.add(results[node.id])
    for result in results.values():
        assert not store.verify(result.ref), result
    run.finish("completed")
    print(size, *[result.ref.digest for result in results.values()], flush=True)
"""


def test_cleaning_over_and_over_beside_runs_changes_no_digest(tmp_path: Path) -> None:
    quiet, cleaned = tmp_path / "quiet", tmp_path / "cleaned"
    said = {}
    for home in (quiet, cleaned):
        process = subprocess.Popen([sys.executable, "-c", RUNS, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        removed = 0
        while process.poll() is None:
            if home == cleaned:
                removed += len(clean(Store(home), 1, dry_run=False).artifacts)
            else:
                time.sleep(0.05)
        assert process.returncode == 0
        said[home] = process.stdout.read() if process.stdout else ""
    assert removed, "there was something to clean between the runs"
    assert said[quiet] == said[cleaned] and len(said[quiet].splitlines()) == 7
    store = Store(cleaned)
    assert not any(store.verify(ref) for ref in store.artifacts.refs())
