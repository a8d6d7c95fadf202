"""What every store must do, on a local disk and on an object store (fsspec's memory filesystem)."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import pytest

from gan_core.errors import StoreError
from gan_core.manifest import Manifest
from gan_core.stages.contract import StageOutcome
from gan_core.store import LocalArtifacts, Store

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
    draft = Manifest(stage="crop", version=1, key=key, digest="", outcome=StageOutcome(counts={"in": 3}))
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


def test_verify_sees_a_flipped_byte(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = publish(store, "k1", "some text")
    path = store.path(made.ref()) / "rows.txt"
    path.write_text("some texT")
    assert store.find("crop", "k1") is not None, "sizes are equal: the quick look cannot see it"
    assert store.verify(made.ref()) == ["rows.txt has other content than when it was written"]


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
