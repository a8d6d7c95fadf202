"""The store: immutable artifacts under a home, found by key, published whole or not at all.

Layout under the home:
    artifacts/<stage>/<key>/<digest12>/   content, by-products, manifest.json
    artifacts/<stage>/<key>/current.json  which version is in use
    artifacts/<stage>/<key>/.work/        what a running or killed attempt has written so far
    locks/  state/  cache/  runs/  prefect/

A home on an object store (any fsspec address) keeps artifacts and locks there and everything else
in a local folder.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from gan_core.artifacts.locks import Waiting, file_lock, shared_lock
from gan_core.artifacts.manifest import (
    MANIFEST,
    Manifest,
    describe_files,
    digest_of,
    problems,
    read_manifest,
    stamp,
)
from gan_core.contract import ArtifactRef
from gan_core.errors import StoreError
from gan_core.files import exchange, read_json, write_json

# an empty file in a key's folder; its modification time is when a run last acquired the artifact
_USED = "used"


class Artifacts(Protocol):
    """Where artifacts are kept: a local folder (`LocalArtifacts`) or an object store
    (`object_store.RemoteArtifacts`).
    """

    def find(self, stage: str, key: str) -> Manifest | None:
        """The version in use under a key if its content files are whole (`manifest.problems`, not
        deep), else None.
        """

    def acquire(self, stage: str, key: str) -> Manifest | None:
        """As `find`, and marks the artifact as used now, so that `discern gc` keeps it while a run
        lasts that began before.
        """

    def pin(self, ref: ArtifactRef) -> bool:
        """Marks one version as used now; False when it is gone."""

    def get(self, ref: ArtifactRef) -> Manifest | None:
        """One version by its digest, whole or not; None when its manifest is gone or cannot be
        read.
        """

    def local(self, ref: ArtifactRef) -> Path:
        """A local folder with the version's files."""

    def refetch(self, ref: ArtifactRef) -> Path:
        """As `local`, but fetched from an object store again, whatever local copy there is."""

    def put(self, work: Path, manifest: Manifest) -> ArtifactRef:
        """Publishes a finished work folder and makes it the version in use."""

    def refs(self, stage: str | None = None) -> Iterator[ArtifactRef]:
        """Every version; one without a readable manifest is named by its folder."""

    def drop(self, ref: ArtifactRef) -> None:
        """Removes one version (and its key's folder when nothing is left)."""

    def unlink_current(self, ref: ArtifactRef) -> None:
        """Takes the version out of use: the key no longer finds it."""

    def lock(
        self, stage: str, key: str, who: str, waiting: Waiting | None
    ) -> contextlib.AbstractContextManager[None]:
        """One writer per key."""


class LocalArtifacts:
    """Artifacts on a local disk: published by rename, locked by the kernel."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root = home / "artifacts"

    def folder(self, ref: ArtifactRef) -> Path:
        """Where a version lies."""
        return self.root / ref.stage / ref.key / ref.digest[:12]

    def find(self, stage: str, key: str) -> Manifest | None:
        base = self.root / stage / key
        try:
            name = str(read_json(base / "current.json")["version"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        manifest = read_manifest(base / name)
        if manifest is None or problems(base / name, manifest, deep=False):
            return None
        return manifest

    def get(self, ref: ArtifactRef) -> Manifest | None:
        return read_manifest(self.folder(ref))

    def local(self, ref: ArtifactRef) -> Path:
        return self.folder(ref)

    def refetch(self, ref: ArtifactRef) -> Path:
        return self.folder(ref)

    def put(self, work: Path, manifest: Manifest) -> ArtifactRef:
        target = self.root / manifest.stage / manifest.key / manifest.digest[:12]
        write_json(work / MANIFEST, manifest.model_dump(mode="json"))
        stamp(work, manifest)
        # made again with equal content: newer by-products (a report's page) replace the older ones
        if target.exists():
            exchange(work, target)
            shutil.rmtree(work, ignore_errors=True)
        else:
            work.rename(target)
        write_json(target.parent / "current.json", {"version": target.name})
        return manifest.ref(target.relative_to(self.home).as_posix())

    def refs(self, stage: str | None = None) -> Iterator[ArtifactRef]:
        for folder in sorted(self.root.glob(f"{stage or '*'}/*/[0-9a-f]*/")):
            address = folder.relative_to(self.home).as_posix()
            manifest = read_manifest(folder)
            if manifest is not None:
                yield manifest.ref(address)
            else:  # its manifest is gone or cannot be read: `verify` says so
                stage_name, key, version = folder.parts[-3:]
                yield ArtifactRef(stage=stage_name, key=key, digest=version, address=address)

    def drop(self, ref: ArtifactRef) -> None:
        folder = self.folder(ref)
        self.unlink_current(ref)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()

    def acquire(self, stage: str, key: str) -> Manifest | None:
        with shared_lock(self._cleaning_lock):
            manifest = self.find(stage, key)
            if manifest is not None:
                self._touch(self.root / stage / key)
            return manifest

    def pin(self, ref: ArtifactRef) -> bool:
        with shared_lock(self._cleaning_lock):
            if not (self.folder(ref) / MANIFEST).exists():
                return False
            self._touch(self.folder(ref).parent)
            return True

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Keeps every other process from acquiring an artifact, while cleaning decides."""
        return shared_lock(self._cleaning_lock, exclusive=True)

    def last_use(self, ref: ArtifactRef) -> float:
        """When the key was last published or acquired (time.time); 0 without marks."""
        folder = self.folder(ref)
        marks = [folder.parent / "current.json", folder.parent / _USED, folder / MANIFEST]
        return max((mark.stat().st_mtime for mark in marks if mark.exists()), default=0.0)

    def unlink_current(self, ref: ArtifactRef) -> None:
        folder = self.folder(ref)
        (folder.parent / _USED).unlink(missing_ok=True)
        with contextlib.suppress(OSError, ValueError, KeyError):
            if read_json(folder.parent / "current.json")["version"] == folder.name:
                (folder.parent / "current.json").unlink()

    @staticmethod
    def _touch(folder: Path) -> None:
        with contextlib.suppress(OSError):  # a read-only home is not cleaned either
            (folder / _USED).touch()

    @property
    def _cleaning_lock(self) -> Path:
        return self.home / "locks" / "cleaning.lock"

    def lock(
        self, stage: str, key: str, who: str, waiting: Waiting | None
    ) -> contextlib.AbstractContextManager[None]:
        return file_lock(self.home / "locks" / f"{stage}-{key}.lock", who, waiting)


class Store:
    """The home as stages, planner and command line see it.

    Args:
        home: an absolute local folder, or an fsspec address such as 's3://bucket/discern'.
        local: for an fsspec address, the local folder for work, state, runs and copies.
    """

    def __init__(self, home: str | Path, local: Path | None = None) -> None:
        if "://" in str(home):
            from gan_core.artifacts.object_store import RemoteArtifacts

            if local is None:
                raise StoreError(
                    f"A home at {home} needs a local folder for work and copies.",
                    remedy="give one with --home",
                )
            self.home = local
            self.artifacts: Artifacts = RemoteArtifacts(str(home), local / "cache" / "artifacts")
        else:
            self.home = Path(home).absolute()
            self.artifacts = LocalArtifacts(self.home)
        self.address = str(home)

    def find(self, stage: str, key: str) -> Manifest | None:
        """The artifact in use under a key if it is there and whole (all content files, unchanged
        since they were written as far as size and modification time show), else None.
        """
        return self.artifacts.find(stage, key)

    def acquire(self, stage: str, key: str) -> Manifest | None:
        """As `find`, for use afterwards: cleaning will not remove it while this run
        lasts.
        """
        return self.artifacts.acquire(stage, key)

    def path(self, ref: ArtifactRef) -> Path:
        """A local folder with an artifact's files (copied from the object store when it is kept
        there).
        """
        return self.artifacts.local(ref)

    def work(self, stage: str, key: str) -> Path:
        """The folder in which an attempt at a key works, with what a killed attempt left."""
        folder = self.home / "artifacts" / stage / key / ".work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def state(self, *names: str) -> Path:
        """A folder below `state/`, for what must outlive an attempt (training state, ingest's
        memory); made when asked for.
        """
        folder = self.home.joinpath("state", *names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def publish(
        self, work: Path, manifest: Manifest, patterns: tuple[str, ...]
    ) -> tuple[ArtifactRef, Manifest]:
        """Hashes a work folder's files, completes the manifest, and publishes both at once.

        Raises:
            StoreError: the work folder holds no content file.
        """
        shutil.rmtree(work / "scratch", ignore_errors=True)
        content, byproducts = describe_files(work, patterns)
        if not content:
            raise StoreError(
                f"The stage {manifest.stage} wrote no content file.",
                expected=f"at least one of {', '.join(patterns)} in {work}",
            )
        complete = manifest.model_copy(
            update={"content": content, "byproducts": byproducts, "digest": digest_of(content)}
        )
        return self.artifacts.put(work, complete), complete

    def lock(
        self, stage: str, key: str, who: str, waiting: Waiting | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Holds the key while an artifact is made; a second writer waits and then finds it
        published.
        """
        return self.artifacts.lock(stage, key, who, waiting)

    def damage(self, ref: ArtifactRef) -> list[str]:
        """What is wrong with the content of a version, every byte of which is compared with its
        manifest; where something is, its key no longer leads to it.
        """
        manifest = self.artifacts.get(ref)
        if manifest is None:
            return [f"{MANIFEST} is missing or cannot be read"]
        found = problems(self.artifacts.refetch(ref), manifest, deep=True, byproducts=False)
        if found:
            with contextlib.suppress(OSError):
                self.artifacts.unlink_current(ref)
        return found

    def verify(self, ref: ArtifactRef) -> list[str]:
        """What is wrong with one version: empty when every file has the hash that the manifest
        names.
        """
        manifest = self.artifacts.get(ref)
        if manifest is None:
            return [f"{MANIFEST} is missing or cannot be read"]
        found = problems(self.artifacts.refetch(ref), manifest, deep=True)
        if digest_of(manifest.content) != manifest.digest:
            found.append("the manifest's digest does not fit its list of files")
        return found
