"""The manifest of an artifact: its settings, its inputs, and its files: content, which the digest
covers, and by-products, which it does not.
"""

from __future__ import annotations

import contextlib
import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gan_core.contract import ArtifactRef, StageOutcome
from gan_core.files import canonical_json, read_json, sha256_file, sha256_text, write_json

MANIFEST = "manifest.json"
# Next to the manifest: modification times (ns) of the content files when they were last hashed.
STAMPS = "stamps.json"
FORMAT = 1


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """`manifest.json` of an artifact, written last. The digest is over `content` alone."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    stage: str
    version: int
    key: str
    digest: str
    node: str = Field("", description="its node in the recipe that first made it")
    part: dict[str, Any] = Field(
        default_factory=dict, description="the settings that are in the key"
    )
    inputs: dict[str, list[ArtifactRef]] = Field(default_factory=dict)
    content: dict[str, FileEntry] = Field(default_factory=dict)
    byproducts: dict[str, FileEntry] = Field(default_factory=dict)
    outcome: StageOutcome = StageOutcome()
    made: dict[str, Any] = Field(
        default_factory=dict,
        description="clock, seconds, peak memory, versions: never in the digest",
    )

    def ref(self, address: str = "") -> ArtifactRef:
        """The name of this version."""
        return ArtifactRef(stage=self.stage, key=self.key, digest=self.digest, address=address)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an artifact's folder; None where it is missing or cannot be read."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None


def make_key(stage: str, version: int, part: dict[str, Any], inputs: dict[str, list[str]]) -> str:
    """The key of a request: 32 hex digits over stage, version, settings and the digests of its
    inputs.
    """
    return sha256_text(
        canonical_json({"stage": stage, "version": version, "part": part, "inputs": inputs})
    )[:32]


def digest_of(content: dict[str, FileEntry]) -> str:
    """The digest of an artifact: over the names and hashes of its content files."""
    return sha256_text(canonical_json([[name, content[name].sha256] for name in sorted(content)]))


def describe_files(
    folder: Path, patterns: tuple[str, ...]
) -> tuple[dict[str, FileEntry], dict[str, FileEntry]]:
    """Hashes every file below `folder` and sorts it into (content, by-products). `scratch/` and the
    manifest are left out.
    """
    content: dict[str, FileEntry] = {}
    rest: dict[str, FileEntry] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (
            not path.is_file()
            or name in (MANIFEST, STAMPS)
            or name.startswith("scratch/")
            or name.endswith(".tmp")
        ):
            continue
        entry = FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)
        (content if any(fnmatch.fnmatch(name, pattern) for pattern in patterns) else rest)[name] = (
            entry
        )
    return content, rest


def problems(
    folder: Path, manifest: Manifest, *, deep: bool, byproducts: bool | None = None
) -> list[str]:
    """What is wrong with an artifact's files: missing, of another size, or of another hash.

    A content file is hashed where its modification time is not that of the last hashing, and
    always when `deep`. By-products count only when deep: a missing preview must not make a training
    run again.

    Args:
        byproducts: whether they count; None: as `deep` says.
    """
    found: list[str] = []
    known, stamps = _stamps(folder), {}
    wanted = deep if byproducts is None else byproducts
    for name, entry in {**manifest.content, **(manifest.byproducts if wanted else {})}.items():
        path = folder / name
        try:
            status = path.stat()
        except OSError:
            found.append(f"{name} is missing")
            continue
        if not path.is_file():
            found.append(f"{name} is missing")
        elif status.st_size != entry.bytes:
            found.append(f"{name} has {status.st_size} bytes instead of {entry.bytes}")
        elif (deep or known.get(name) != status.st_mtime_ns) and sha256_file(path) != entry.sha256:
            found.append(f"{name} has other content than when it was written")
        elif name in manifest.content:
            stamps[name] = status.st_mtime_ns
    if not found and stamps != known:
        with contextlib.suppress(OSError):  # a home that is only read is hashed every time
            write_json(folder / STAMPS, stamps)
    return found


def _stamps(folder: Path) -> dict[str, int]:
    try:
        stamps = read_json(folder / STAMPS)
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def stamp(folder: Path, manifest: Manifest) -> None:
    """Notes the modification times of content files that have just been hashed."""
    times = {name: (folder / name).stat().st_mtime_ns for name in manifest.content}
    write_json(folder / STAMPS, times)
