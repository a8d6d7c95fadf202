"""`gc`: what it keeps, what it removes, during a run, and killed in the middle."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest

from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import RequestError
from gan_core.pipeline.garbage_collection import clean
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.request import RunRequest, prepare
from gan_core.pipeline.run_record import LIVE_LOCK, Run
from gan_core.pipeline.runner import _earlier, trajectory_key
from gan_core.specs import spec_of

ROOT = Path(__file__).resolve().parents[2]


def publish(
    store: Store, name: str, stage: str = "hash", files: int = 1, **part: object
) -> ArtifactRef:
    work = store.work(stage, name)
    for number in range(files):
        (work / f"codes-{number}.parquet").write_bytes(f"{name} {number}".encode() * 100)
    manifest = Manifest(stage=stage, version=1, key=name, digest="", part=dict(part))
    return store.publish(work, manifest, ("*.parquet",))[0]


def moment(minute: int) -> str:
    return f"2026-11-24T10:{minute:02d}:00+00:00"


def record(
    store: Store,
    name: str,
    minute: int,
    refs: list[ArtifactRef],
    state: str = "completed",
    recipe: str = "digits",
    **message: object,
) -> Path:
    folder = store.home / "runs" / name
    folder.mkdir(parents=True)
    nodes = [{"node": ref.key, "ref": ref.model_dump()} for ref in refs]
    known = {"recipe": recipe, "state": state, "started": moment(minute), "nodes": nodes}
    (folder / "run.json").write_text(json.dumps({**known, **message}))
    return folder


def age(folder: Path, minute: int) -> Path:
    """Makes a folder look as if it was last written then."""
    then = datetime.fromisoformat(moment(minute)).timestamp()
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then))
    return folder


def keys(store: Store) -> set[str]:
    return {ref.key for ref in store.artifacts.refs()}


def test_it_keeps_what_the_last_runs_name_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path)
    refs = {
        name: publish(store, name)
        for name in ("shared", "first", "second", "third", "failed", "pinned", "other", "unnamed")
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
    message = clean(store, 2, dry_run=True)
    assert len(keys(store)) == 9 and old.exists(), "a dry run removes nothing"
    assert message.leftovers == [old] and not (store.home / "locks").exists(), (
        "nor does it make any file"
    )
    with store.lock("crop", "abandoned", "a writer"):
        assert clean(store, 2, dry_run=True).leftovers == [], "it is locked"
    done = clean(store, 2, dry_run=False)
    assert keys(store) == {"shared", "second", "failed", "third", "pinned", "other", "imported"}
    assert (
        {ref.key for ref in message.artifacts}
        == {ref.key for ref in done.artifacts}
        == {"first", "unnamed"}
    )
    assert message.size == done.size > 1000
    assert {run.folder.name for run in done.removed} == {"run-1"} and not (
        store.home / "runs" / "run-1"
    ).exists()
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


def test_crops_that_a_run_is_copying_rows_from_stay(tmp_path: Path) -> None:
    """No kept run names them; the run that goes on took them up when its crop began."""
    store = Store(tmp_path)
    for number in range(4):
        place = store.work("crop", f"c{number}")
        (place / "crops.parquet").write_bytes(f"{number}".encode())
        made = {"at": moment(number)}
        version = spec_of("crop").version
        manifest = Manifest(
            stage="crop",
            version=version,
            key=f"c{number}",
            digest="",
            node="crop:digits",
            part={"crop": 1},
            made=made,
        )
        store.publish(place, manifest, ("*.parquet",))
    age(store.home / "artifacts", 10)
    alive = record(store, "run-1", 30, [], state="running")
    lock = os.open(alive / LIVE_LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        earlier = _earlier(store, Node("crop:digits", "crop", {"crop": 1}, {"crop": 1}))
        clean(store, 1, dry_run=False)
    finally:
        os.close(lock)
    assert [Path(folder).parent.name for folder in earlier] == ["c3", "c2"]
    assert keys(store) == {"c2", "c3"}


ASKED = {"scale": "full", "until": "report", "only": None, "overrides": [], "data": {}}


def test_only_the_same_request_takes_a_runs_place(tmp_path: Path) -> None:
    """A run at debug scale, of one stage, up to a stage, with other settings or data: none pushes
    out the training of days.
    """
    store = Store(tmp_path)
    days = publish(store, "days")
    record(store, "run-0", 0, [days], **ASKED)
    others = [
        {"scale": "debug"},
        {"only": "report"},
        {"until": "pack"},
        {"overrides": ["train.kimg=1"]},
        {"data": {"faces": "/elsewhere"}},
    ]
    for minute, other in enumerate(others * 2, 1):
        record(
            store,
            f"run-{minute}",
            minute,
            [publish(store, f"other-{minute}")],
            **{**ASKED, **other},
        )
    record(store, "older-1", 11, [publish(store, "typed")], command="discern run digits --data /a")
    for minute in (
        12,
        13,
    ):  # records that do not tell what was asked for are alike when the same was typed
        record(
            store,
            f"older-{minute}",
            minute,
            [publish(store, f"typed-{minute}")],
            command="discern prepare digits",
        )
    gone = {run.folder.name for run in clean(store, 1, dry_run=False).removed}
    assert gone == {"run-1", "run-2", "run-3", "run-4", "run-5", "older-12"}
    assert {"days", "typed", "typed-13"} <= keys(store)
    record(store, "run-99", 59, [], **ASKED)
    clean(store, 1, dry_run=False)
    assert "days" not in keys(store), "the same again, completed later, does"


def test_old_runs_that_stay_hold_nothing_but_their_own(tmp_path: Path) -> None:
    """A recipe that failed once, a pinned run and a folder without a record: what others left
    with them goes all the same.
    """
    store = Store(tmp_path)
    for name in ("failed", "paused", "theirs", "dead", "newer"):
        (store.state("train", name) / "state.json").touch()
        age(tmp_path / "state" / "train" / name, 40 if name == "newer" else 5)
    works = {name: store.work("extract", name) for name in ("failed", "dead")}
    begun = [
        {"stage": "train", "key": "k", "trajectories": ["failed", "theirs"]},
        {"stage": "extract", "key": "failed"},
    ]
    record(store, "failed", 1, [], state="failed", recipe="faces", begun=begun, **ASKED)
    (record(store, "pinned", 2, [], **ASKED) / "keep").touch()
    (tmp_path / "runs" / "unreadable").mkdir()
    age(tmp_path / "runs" / "unreadable", 3)
    record(
        store,
        "paused",
        4,
        [],
        state="paused",
        recipe="paused",
        begun=[{"stage": "train", "key": "p", "trajectories": ["paused"]}],
        **ASKED,
    )
    for name in works:
        age(works[name], 5)
    for minute in (20, 30):
        record(store, f"run-{minute}", minute, [], **ASKED)
    done = clean(store, 1, dry_run=False)
    assert {run.folder.name for run in done.removed} == {"unreadable", "run-20"}
    assert {path.name for path in (tmp_path / "state" / "train").iterdir()} == {
        "failed",
        "paused",
        "theirs",
        "newer",
    }
    assert works["failed"].exists() and not works["dead"].exists()
    # A failed run that does not tell what it began protects everything since.
    age(store.state("train", "old"), 16)
    record(store, "silent", 15, [], state="failed", recipe="old")
    assert clean(store, 1, dry_run=False).leftovers == []


def test_a_run_tells_what_it_has_begun(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = Run(store, prepare(RunRequest(recipe="digits", home=str(tmp_path)), store))
    nodes = {node.id: node for node in run.prepared.nodes}
    pack, codes = publish(store, "pack", stage="pack"), publish(store, "codes")
    run.begins(nodes["train"], {"pack": pack, "hash": codes})
    state = store.state("train", trajectory_key(nodes["train"], {"pack": pack, "hash": codes}))
    run.finish("failed", "a planted fault")
    age(state, 1)
    record(store, "run-1", 59, [], **ASKED)
    clean(store, 1, dry_run=False)
    assert state.exists(), "the training may be continued"
    shutil.rmtree(run.folder)
    clean(store, 1, dry_run=False)
    assert not state.exists()


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
    assert store.acquire("hash", "claimed") is not None
    clean(store, 1, dry_run=False)
    assert keys(store) == {"claimed"}
    run.finish("completed")
    clean(store, 1, dry_run=False)
    assert keys(store) == set(), "the run is over and did not name it"


def test_the_training_that_a_kept_run_starts_from_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = store.work("train", "ab" * 16)
    (work / "snapshot-000001.safetensors").write_bytes(b"weights")
    trained = Manifest(stage="train", version=1, key="ab" * 16, digest="", part={"train": {}})
    store.publish(work, trained, spec_of("train").content)
    settings = ["train.method=latent_regression", f"train.start=artifacts/train/{'ab' * 16}"]
    request = RunRequest(recipe="digits", home=str(tmp_path), overrides=settings)
    run = Run(store, prepare(request, store))
    run.finish("completed")
    clean(store, 1, dry_run=False)
    assert keys(store) == {"ab" * 16}
    shutil.rmtree(run.folder)
    clean(store, 1, dry_run=False)
    assert not keys(store)


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
    code = (
        "import sys; from gan_core.pipeline.garbage_collection import clean; from "
        "gan_core.artifacts.store import Store; clean(Store(sys.argv[1]), 1, dry_run=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    while process.poll() is None and not any((tmp_path / "trash").glob("*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = list(store.artifacts.refs())
    if len(left) == 1:
        pytest.skip("a busy machine: the cleaning ended before it was killed")
    assert len(left) < 301, "it was killed in the middle"
    assert not any(store.verify(ref) for ref in left)
    clean(store, 1, dry_run=False)
    assert keys(store) == {"kept"} and not (tmp_path / "trash").exists()


def test_a_cleaning_that_deletes_takes_nothing_of_one_that_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that does harm, by hand: one cleaning deletes what it has moved aside while another
    one moves.
    """
    store = Store(tmp_path)
    publish(store, "earlier")
    reached, may_delete, deleted = (threading.Event() for _ in range(3))
    remove, rename = shutil.rmtree, Path.rename

    def rmtree(path: Path, **given: bool) -> None:
        if threading.current_thread() is threading.main_thread():
            return remove(path, ignore_errors=True)
        reached.set()
        may_delete.wait(20)
        remove(path, ignore_errors=True)
        deleted.set()

    def rename_once_it_has_deleted(self: Path, target: Path) -> Path:
        may_delete.set()
        assert deleted.wait(20)
        return rename(self, target)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    first = threading.Thread(target=clean, args=(store, 1), kwargs={"dry_run": False})
    first.start()
    assert reached.wait(20)
    later = [publish(store, name) for name in ("later", "latest")]
    monkeypatch.setattr(Path, "rename", rename_once_it_has_deleted)
    clean(store, 1, dry_run=False)
    first.join(20)
    assert not any(store.path(ref).exists() for ref in later) and not (tmp_path / "trash").exists()


def test_cleanings_at_once_leave_nothing_half_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = publish(store, "kept", files=5)
    record(store, "run-1", 1, [kept])
    code = (
        "import sys, time; from gan_core.pipeline.garbage_collection import clean; from "
        "gan_core.artifacts.store import Store; store = Store(sys.argv[1])\n"
        "while time.time() < float(sys.argv[2]):\n"
        "    found = clean(store, 1, dry_run=False)\n"
        "    assert found.passed_over or not any(store.path(ref).exists() for ref in "
        "found.artifacts), 'said to be removed'"
    )
    ends = time.time() + 2
    cleaners = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(ends)], cwd=ROOT)
        for _ in range(3)
    ]
    number = 0
    while any(cleaner.poll() is None for cleaner in cleaners):
        number += 1
        with store.lock("hash", f"old{number:04d}", "a test"):
            publish(store, f"old{number:04d}", files=5)
    assert [cleaner.returncode for cleaner in cleaners] == [0, 0, 0] and number > 20
    clean(store, 1, dry_run=False)
    assert keys(store) == {"kept"} and not any(store.verify(ref) for ref in store.artifacts.refs())
    assert {path.name for path in (tmp_path / "artifacts" / "hash").iterdir()} == {"kept"} and not (
        tmp_path / "trash"
    ).exists()


RUNS = """
import json
import sys
from pathlib import Path
from gan_core.pipeline.runner import execute
from gan_core.pipeline.request import RunRequest, prepare
from gan_core.pipeline.run_record import Run
from gan_core.artifacts.store import Store

store = Store(sys.argv[1])
own = Path(sys.argv[1]).with_suffix(".yaml")
source = {"name": "digits", "dataset": "digits"}
# a recipe that is changed, and back: it finds what an earlier run made, or makes it again
for size in (8, 12, 8, 16, 12, 8, 12):
    recipe = {"name": "own", "about": "", "sources": {"train": [source]}, "crop": {"size": size}}
    own.write_text(json.dumps(recipe))
    request = RunRequest(recipe=str(own), until="crop", home=sys.argv[1])
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


def test_cleaning_over_and_over_during_runs_changes_no_digest(tmp_path: Path) -> None:
    quiet, cleaned = tmp_path / "quiet", tmp_path / "cleaned"
    result = {}
    for home in (quiet, cleaned):
        process = subprocess.Popen(
            [sys.executable, "-c", RUNS, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        removed = 0
        while process.poll() is None:
            if home == cleaned:
                removed += len(clean(Store(home), 1, dry_run=False).artifacts)
            else:
                time.sleep(0.05)
        assert process.returncode == 0
        result[home] = process.stdout.read() if process.stdout else ""
    assert removed, "there was something to clean between the runs"
    assert result[quiet] == result[cleaned] and len(result[quiet].splitlines()) == 7
    store = Store(cleaned)
    assert not any(store.verify(ref) for ref in store.artifacts.refs())
