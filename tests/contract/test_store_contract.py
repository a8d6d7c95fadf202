"""What every store must do, on a local disk and on an object store (fsspec's memory filesystem)."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from flows.commands.outcome import feature_sets
from gan_core.artifacts import manifest as manifests
from gan_core.artifacts.locks import lease
from gan_core.artifacts.manifest import Manifest
from gan_core.artifacts.store import LocalArtifacts, Store
from gan_core.contract import StageOutcome
from gan_core.errors import StoreError
from gan_core.files import exchange
from gan_core.pipeline.runner import _checked

PATTERNS = ("*.txt", "deep/*.bin")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(tmp_path / "home")
    return Store(f"memory://discern-{uuid.uuid4().hex}", tmp_path / "local")


def publish(store: Store, key: str, text: str, log: str = "made at noon") -> Manifest:
    work = store.work("crop", key)
    (work / "rows.txt").write_text(text)
    (work / "deep").mkdir(exist_ok=True)
    (work / "deep" / "x.bin").write_bytes(b"\0" * 10)
    (work / "run.log").write_text(log)
    (work / "scratch").mkdir(exist_ok=True)
    (work / "scratch" / "half").write_text("not finished")
    draft = Manifest(
        stage="crop", version=1, key=key, digest="", outcome=StageOutcome(counts={"in": 3})
    )
    _, manifest = store.publish(work, draft, PATTERNS)
    return manifest


def test_found_after_publishing_and_not_before(store: Store) -> None:
    assert store.find("crop", "k1") is None
    made = publish(store, "k1", "hello")
    found = store.find("crop", "k1")
    assert found is not None and found.digest == made.digest
    assert found.outcome.counts == {"in": 3}
    folder = store.path(found.ref())
    assert (folder / "rows.txt").read_text() == "hello"
    assert (folder / "deep" / "x.bin").stat().st_size == 10
    assert (folder / "run.log").read_text() == "made at noon"
    assert not (folder / "scratch").exists()


def test_digest_is_of_content_alone(store: Store) -> None:
    first = publish(store, "k1", "same", log="one machine")
    second = publish(store, "k2", "same", log="another machine")
    third = publish(store, "k3", "other", log="one machine")
    assert first.digest == second.digest != third.digest


def test_a_new_version_replaces_and_the_old_one_stays(store: Store) -> None:
    old = publish(store, "k1", "old")
    new = publish(store, "k1", "new")
    found = store.find("crop", "k1")
    assert found is not None and found.digest == new.digest
    assert (store.path(old.ref()) / "rows.txt").read_text() == "old"
    assert {ref.digest for ref in store.artifacts.refs("crop")} == {old.digest, new.digest}


def test_made_again_with_equal_content_it_has_the_newer_byproducts(store: Store) -> None:
    made = publish(store, "k1", "same", log="the old page")
    assert (store.path(made.ref()) / "run.log").read_text() == "the old page"
    again = publish(store, "k1", "same", log="the new page")
    assert again.digest == made.digest
    assert (store.path(made.ref()) / "run.log").read_text() == "the new page"
    assert store.verify(made.ref()) == [] and not list(store.home.rglob("*.old"))


def test_it_is_there_at_every_moment_while_it_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = publish(store, "k1", "same")
    stop, missed = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            if store.find("crop", "k1") is None or store.artifacts.get(made.ref()) is None:
                missed.append(time.monotonic())

    watcher = threading.Thread(target=read)
    watcher.start()
    for number in range(100):
        publish(store, "k1", "same", log=str(number))
    stop.set()
    watcher.join()
    assert not missed


@pytest.mark.parametrize("atomic", [True, False])
def test_two_folders_change_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    """By one call of the kernel, and in steps where it has none for that disk."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    if not atomic:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    exchange(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "who").read_text() for name in "ab"] == ["b", "a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_damaged_copy_of_what_an_object_store_holds_is_fetched_again(tmp_path: Path) -> None:
    """No caller gets the whole artifact instead of the damaged one: not `verify`, and not a stage
    that reads it.
    """
    store = Store(f"memory://discern-{uuid.uuid4().hex}", tmp_path)
    made = publish(store, "k1", "some text")
    copy = store.path(made.ref()) / "rows.txt"
    copy.write_text("some texT")
    assert (_checked(store, made.ref()).path / "rows.txt").read_text() == "some text"
    copy.write_text("some texT")
    assert store.verify(made.ref()) == []
    copy.write_text("some texT")
    store.artifacts.drop(made.ref())
    again = publish(store, "k1", "some text")
    assert (store.path(again.ref()) / "rows.txt").read_text() == "some text"
    store.artifacts.filesystem.pipe_file(
        f"{store.artifacts._base('crop', 'k1')}/{made.digest[:12]}/rows.txt", b"some texT"
    )  # type: ignore[attr-defined]
    assert store.verify(made.ref()) == ["rows.txt has other content than when it was written"], (
        "and damage there is seen"
    )


def test_figures_of_a_run_come_from_either_home(store: Store) -> None:
    work = store.work("extract", "k1")
    (work / "features-00000.parquet").write_bytes(b"x")
    outcome = StageOutcome(summary={"length": "16 (conv1) = 16", "dims": 16})
    draft = Manifest(stage="extract", version=1, key="k1", digest="", outcome=outcome)
    ref, _ = store.publish(work, draft, ("*.parquet",))
    node = {"node": "extract:digits:discriminator", "ref": ref.model_dump(mode="json")}
    (found,) = feature_sets(store, [node, {"node": "report", "ref": None}])
    assert found["dims"] == 16 and (Path(found["folder"]) / "features-00000.parquet").is_file()


def test_dropped_is_gone(store: Store) -> None:
    made = publish(store, "k1", "text")
    store.artifacts.drop(made.ref())
    assert store.find("crop", "k1") is None
    assert list(store.artifacts.refs()) == []


def test_nothing_is_published_without_content(store: Store) -> None:
    work = store.work("crop", "k1")
    (work / "run.log").write_text("only a log")
    with pytest.raises(StoreError, match="no content file"):
        store.publish(work, Manifest(stage="crop", version=1, key="k1", digest=""), PATTERNS)
    assert store.find("crop", "k1") is None


def test_one_writer_at_a_time(store: Store) -> None:
    inside = []
    waited = []

    def write(name: str) -> None:
        with store.lock("crop", "k1", name, waited.append):
            inside.append(name)
            assert len(inside) == 1
            time.sleep(0.3)
            inside.remove(name)

    threads = [threading.Thread(target=write, args=(f"run {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(waited) >= 2 and all("run" in holder for holder in waited)


@pytest.mark.parametrize("fault", ["truncated", "missing", "manifest"])
def test_damage_is_not_found(tmp_path: Path, fault: str) -> None:
    store = Store(tmp_path)
    made = publish(store, "k1", "some text")
    folder = store.path(made.ref())
    if fault == "truncated":
        (folder / "rows.txt").write_text("some")
    elif fault == "missing":
        (folder / "deep" / "x.bin").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    assert store.find("crop", "k1") is None
    assert store.verify(made.ref())
    again = publish(store, "k1", "some text")
    assert again.digest == made.digest and store.verify(again.ref()) == []


def test_a_flipped_byte_is_found_by_the_time_of_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = publish(store, "k1", "some text")
    (store.path(made.ref()) / "rows.txt").write_text("some texT")
    assert store.find("crop", "k1") is None
    assert store.verify(made.ref()) == ["rows.txt has other content than when it was written"]


def test_a_file_with_another_time_is_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that was copied has other times and the same bytes."""
    store = Store(tmp_path)
    made = publish(store, "k1", "some text")
    os.utime(store.path(made.ref()) / "rows.txt", (1, 1))
    hashed: list[str] = []
    real = manifests.sha256_file
    monkeypatch.setattr(
        manifests, "sha256_file", lambda path: (hashed.append(path.name), real(path))[1]
    )
    assert store.find("crop", "k1") is not None and store.find("crop", "k1") is not None
    assert hashed == ["rows.txt"]


def test_damage_without_a_trace_is_found_by_reading_every_byte(store: Store) -> None:
    made = publish(store, "k1", "some text")
    assert store.damage(made.ref()) == [] and store.find("crop", "k1") is not None
    if isinstance(store.artifacts, LocalArtifacts):
        path = store.path(made.ref()) / "rows.txt"
        status = path.stat()
        path.write_text("some texT")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        place = f"{store.artifacts._base('crop', 'k1')}/{made.digest[:12]}/rows.txt"
        store.artifacts.filesystem.pipe_file(place, b"some texT")  # type: ignore[attr-defined]
    assert store.find("crop", "k1") is not None, "size and time are those of the manifest"
    assert store.damage(made.ref()) == ["rows.txt has other content than when it was written"]
    assert store.find("crop", "k1") is None
    publish(store, "k1", "some text")
    assert store.damage(made.ref()) == [] and store.find("crop", "k1") is not None


def test_a_lost_byproduct_does_not_make_an_artifact_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = publish(store, "k1", "text")
    (store.path(made.ref()) / "run.log").unlink()
    assert store.find("crop", "k1") is not None
    assert store.verify(made.ref()) == ["run.log is missing"]


def test_work_of_a_killed_attempt_is_still_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.work("crop", "k1") / "part").write_text("half")
    again = Store(tmp_path)
    assert (again.work("crop", "k1") / "part").read_text() == "half"
    assert again.find("crop", "k1") is None
    assert isinstance(again.artifacts, LocalArtifacts)


def test_equal_content_made_again_brings_its_newer_byproducts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = publish(store, "k1", "text", log="old page")
    new = publish(store, "k1", "text", log="new page")
    assert new.digest == old.digest
    assert (store.path(new.ref()) / "run.log").read_text() == "new page"
    assert len(list(store.artifacts.refs())) == 1 and store.verify(new.ref()) == []


def test_a_lease_that_another_run_holds_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    filesystem, root = fsspec.core.url_to_fs(f"memory://discern-{uuid.uuid4().hex}")
    filesystem.makedirs(root)
    with (
        caplog.at_level("WARNING", "gan_core.artifacts.locks"),
        lease(filesystem, f"{root}/key.json", "run 1", seconds=0.6),
    ):
        filesystem.pipe_file(
            f"{root}/key.json", b'{"who": "run 2", "token": "theirs", "until": 9e9}'
        )
        time.sleep(0.6)
    assert "run 2 holds it now" in caplog.text
    assert b"theirs" in filesystem.cat_file(f"{root}/key.json"), "and it is left to them"
