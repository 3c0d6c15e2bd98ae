"""manifest.json: every file of an artifact with size and sha256, what it was made from, and by what.

The manifest is the truth about an artifact; the ArtifactRef, MLflow and Prefect only point at it. It holds the full
hashed identity, so that a later run can say which field made it different, and references to the inputs, so that
lineage needs nothing but the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from components.artifacts.digest import tree_digests
from components.artifacts.provenance import Provenance
from components.artifacts.ref import ArtifactKind, ModelContract
from components.failures import BadInput, IntegrityError


class FileEntry(BaseModel):
    """One file: path relative to `files/`, bytes, hex digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or str(PurePosixPath(path)) != path:
            raise ValueError(f"{path!r} is not a plain relative path")
        return path


class Manifest(BaseModel):
    """The content of manifest.json. `identity` is what the fingerprint is the digest of.

    records: files about the making (recipe, diff), beside the artifact's own: `attempts/<id>/records/`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    kind: ArtifactKind
    stage: str
    fingerprint: str
    identity: dict[str, Any]
    files: tuple[FileEntry, ...]
    contract: ModelContract | None = None
    summary: dict[str, float | int | str] = {}
    provenance: Provenance
    records: tuple[FileEntry, ...] = ()

    def to_bytes(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str, sha256: str | None = None) -> Manifest:
        """Parses, after comparing the digest when one is known. Raises IntegrityError that names `where`."""
        actual = hashlib.sha256(data).hexdigest()
        if sha256 is not None and actual != sha256:
            raise IntegrityError(f"{where}: manifest sha256 is {actual}, recorded {sha256}")
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise IntegrityError(f"{where}: not a manifest: {error}") from error

    def entry(self, path: str) -> FileEntry | None:
        return next((file for file in self.files if file.path == path), None)

    def below(self, subpath: str) -> list[FileEntry]:
        """Entries equal to `subpath` or inside it; all when empty. Raises BadInput, naming what there is, for none."""
        subpath = subpath.strip("/")
        found = [file for file in self.files if not subpath or file.path == subpath or _inside(file.path, subpath)]
        if not found and subpath:
            names = sorted({file.path.split("/")[0] for file in self.files})
            raise BadInput(
                f"the artifact has no {subpath}",
                where=f"{self.stage}@{self.fingerprint[:12]}",
                remedy=f"It holds: {', '.join(names[:12])}",
            )
        return found


def entries_of(directory: Path) -> tuple[FileEntry, ...]:
    """Size and sha256 of every file below a directory, hashed in parallel, sorted by path."""
    return tuple(
        FileEntry(path=path, size=size, sha256=digest) for path, (size, digest) in tree_digests(directory).items()
    )


def compare(entries: tuple[FileEntry, ...], found: Mapping[str, tuple[int, str]]) -> list[str]:
    """Differences between recorded entries and what is there ({path: (bytes, sha256)}): one line per bad file."""
    problems = []
    recorded = {entry.path: entry for entry in entries}
    for path, entry in recorded.items():
        if path not in found:
            problems.append(f"missing: {path} ({entry.size} bytes)")
        elif found[path][0] != entry.size:
            problems.append(f"wrong size: {path} has {found[path][0]} bytes, recorded {entry.size}")
        elif found[path][1] != entry.sha256:
            problems.append(f"wrong content: {path} has sha256 {found[path][1]}, recorded {entry.sha256}")
    problems += [f"extra: {path} is not in the manifest" for path in found if path not in recorded]
    return problems


def _inside(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")
