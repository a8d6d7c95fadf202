"""Artifacts on an object store, through fsspec: payload first, manifest last; copied to a local
folder before use.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from gan_core.artifacts.locks import Waiting, lease
from gan_core.artifacts.manifest import MANIFEST, Manifest, problems, read_manifest
from gan_core.contract import ArtifactRef
from gan_core.errors import RequestError, nearest
from gan_core.files import exchange, write_json


class RemoteArtifacts:
    """The store's artifacts under an fsspec address.

    Args:
        address: e.g. 's3://bucket/discern' or 'memory://discern'.
        cache: local folder for copies; whole copies are used again.
    Raises:
        RequestError: an address that fsspec cannot open, or whose package is not installed.
    """

    def __init__(self, address: str, cache: Path) -> None:
        self.address = address
        self.cache = cache
        self.filesystem: Any
        kind = address.partition("://")[0]
        try:
            self.filesystem, self.root = fsspec.core.url_to_fs(address)
        except (ImportError, TypeError, ValueError) as error:
            known = fsspec.available_protocols()
            near = None if kind in known else nearest(kind, known)
            raise RequestError(
                f"The home {address} cannot be opened: {error}"
                + (f"; did you mean {near}://?" if near else "."),
                expected="a folder, or an address that fsspec opens, such as s3://bucket/discern",
                remedy="choose another with --home or the environment variable DISCERN_HOME",
            ) from error

    def _base(self, stage: str, key: str) -> str:
        return f"{self.root}/artifacts/{stage}/{key}"

    def _manifest(self, stage: str, key: str, version: str) -> Manifest | None:
        try:
            return Manifest.model_validate_json(
                self.filesystem.cat_file(f"{self._base(stage, key)}/{version}/{MANIFEST}")
            )
        except (OSError, ValueError):
            return None

    def find(self, stage: str, key: str) -> Manifest | None:
        try:
            version = str(
                json.loads(self.filesystem.cat_file(f"{self._base(stage, key)}/current.json"))[
                    "version"
                ]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        manifest = self._manifest(stage, key, version)
        if manifest is None:
            return None
        for name, entry in manifest.content.items():
            try:
                if (
                    self.filesystem.size(f"{self._base(stage, key)}/{version}/{name}")
                    != entry.bytes
                ):
                    return None
            except OSError:
                return None
        return manifest

    def acquire(self, stage: str, key: str) -> Manifest | None:
        # `discern gc` refuses an object store, so nothing has to be marked as used
        return self.find(stage, key)

    def pin(self, ref: ArtifactRef) -> bool:
        return self.get(ref) is not None

    def get(self, ref: ArtifactRef) -> Manifest | None:
        return self._manifest(ref.stage, ref.key, ref.digest[:12])

    def local(self, ref: ArtifactRef) -> Path:
        manifest, copy = self._present(ref), self._copy(ref)
        return copy if self._is_copy_of(manifest, copy) else self._fetch(ref, manifest, copy)

    def refetch(self, ref: ArtifactRef) -> Path:
        return self._fetch(ref, self._present(ref), self._copy(ref))

    def _copy(self, ref: ArtifactRef) -> Path:
        return self.cache / ref.stage / ref.key / ref.digest[:12]

    def _present(self, ref: ArtifactRef) -> Manifest:
        manifest = self.get(ref)
        if manifest is None:
            raise FileNotFoundError(
                f"{self.address} holds no artifact {ref.stage}/{ref.key}/{ref.digest[:12]}"
            )
        return manifest

    @staticmethod
    def _is_copy_of(manifest: Manifest, folder: Path) -> bool:
        """Whether the copy is of this very manifest: one that was made again may have other
        by-products under the same digest.
        """
        return read_manifest(folder) == manifest and not problems(folder, manifest, deep=False)

    def _fetch(self, ref: ArtifactRef, manifest: Manifest, target: Path) -> Path:
        """Copies a version here, in the place of a copy that may be there."""
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        base = f"{self._base(ref.stage, ref.key)}/{ref.digest[:12]}"
        for name in [*manifest.content, *manifest.byproducts]:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            self.filesystem.get_file(f"{base}/{name}", str(part / name))
        write_json(part / MANIFEST, manifest.model_dump(mode="json"))
        try:
            part.rename(target)
        except OSError:  # an older copy, or that of another reader who was quicker
            if not target.exists():
                raise
            exchange(part, target)
            shutil.rmtree(part, ignore_errors=True)
        return target

    def put(self, work: Path, manifest: Manifest) -> ArtifactRef:
        base = f"{self._base(manifest.stage, manifest.key)}/{manifest.digest[:12]}"
        for name in [*manifest.content, *manifest.byproducts]:
            self.filesystem.makedirs(f"{base}/{name}".rsplit("/", 1)[0], exist_ok=True)
            self.filesystem.put_file(str(work / name), f"{base}/{name}")
        self.filesystem.pipe_file(f"{base}/{MANIFEST}", manifest.model_dump_json().encode())
        current = {"version": manifest.digest[:12]}
        self.filesystem.pipe_file(
            f"{self._base(manifest.stage, manifest.key)}/current.json", json.dumps(current).encode()
        )
        shutil.rmtree(work)
        return manifest.ref(f"artifacts/{manifest.stage}/{manifest.key}/{manifest.digest[:12]}")

    def refs(self, stage: str | None = None) -> Iterator[ArtifactRef]:
        self.filesystem.invalidate_cache()
        for path in sorted(
            self.filesystem.glob(f"{self.root}/artifacts/{stage or '*'}/*/*/{MANIFEST}")
        ):
            stage_name, key, version = str(path).split("/")[-4:-1]
            manifest = self._manifest(stage_name, key, version)
            if manifest is not None:
                yield manifest.ref(f"artifacts/{stage_name}/{key}/{version}")

    def drop(self, ref: ArtifactRef) -> None:
        shutil.rmtree(self._copy(ref), ignore_errors=True)
        base = f"{self._base(ref.stage, ref.key)}/{ref.digest[:12]}"
        # the manifest first: half an artifact must never look whole
        with contextlib.suppress(OSError, ValueError):
            self.filesystem.rm_file(f"{base}/{MANIFEST}")
        with contextlib.suppress(OSError):
            self.filesystem.rm(base, recursive=True)

    def unlink_current(self, ref: ArtifactRef) -> None:
        current = f"{self._base(ref.stage, ref.key)}/current.json"
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads(self.filesystem.cat_file(current))["version"] == ref.digest[:12]:
                self.filesystem.rm_file(current)

    def lock(
        self, stage: str, key: str, who: str, waiting: Waiting | None
    ) -> contextlib.AbstractContextManager[None]:
        with contextlib.suppress(OSError):
            self.filesystem.makedirs(f"{self.root}/locks", exist_ok=True)
        return lease(self.filesystem, f"{self.root}/locks/{stage}-{key}.json", who, waiting)
