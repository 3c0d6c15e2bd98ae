"""Local copies of stored files, by digest: nothing is downloaded twice, and nothing is handed out unverified.

`<root>/objects/<aa>/<sha256>` holds each content once, read-only; `<root>/views/<manifest sha256>/` shows an artifact's
files under their names as hard links. A file enters the cache by one rename after its size and digest were compared,
so a killed download leaves nothing but a temporary file. A cached file is hashed again once per process before use.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.artifacts.digest import file_sha256
from components.artifacts.manifest import FileEntry
from components.artifacts.objects import Objects
from components.failures import InfrastructureError, IntegrityError

DOWNLOADS = 8


class Cache:
    """Threads may share one; processes may share one directory."""

    def __init__(self, root: Path, objects: Objects) -> None:
        self.root, self._objects = Path(root), objects
        self._verified: set[tuple[str, int, int]] = set()
        self._marking = threading.Lock()

    def view(self, manifest_sha256: str) -> Path:
        """Directory under which one artifact's files appear."""
        return self.root / "views" / manifest_sha256

    def link(self, prefix: str, entries: Sequence[FileEntry], base: Path) -> None:
        """Makes the entries appear, read-only, below `base`, downloading what is missing."""

        def place(entry: FileEntry) -> None:
            content, target = self._content(prefix, entry), base / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and target.samefile(content):
                return
            temporary = target.with_name(f".{uuid.uuid4().hex}")
            os.link(content, temporary)
            os.replace(temporary, target)

        self._each(place, entries)

    def copy(self, prefix: str, entries: Sequence[FileEntry], base: Path) -> None:
        """Writes the entries as ordinary files below `base`, each by one rename; existing files are replaced."""

        def place(entry: FileEntry) -> None:
            content, target = self._content(prefix, entry), base / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{uuid.uuid4().hex}")
            shutil.copyfile(content, temporary)
            os.replace(temporary, target)

        self._each(place, entries)

    def _each(self, place, entries: Sequence[FileEntry]) -> None:
        try:
            with ThreadPoolExecutor(DOWNLOADS) as pool:
                list(pool.map(place, entries))
        except OSError as error:
            raise InfrastructureError(f"local copy below {self.root}: {error}") from error

    def _content(self, prefix: str, entry: FileEntry) -> Path:
        path = self.root / "objects" / entry.sha256[:2] / entry.sha256
        if path.exists() and self._good(path, entry):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{entry.sha256}.{uuid.uuid4().hex}")
        where = f"{self._objects.url}/{prefix}/{entry.path}"
        try:
            if not self._objects.get(f"{prefix}/{entry.path}", temporary):
                raise IntegrityError(f"{where} is missing, though the manifest lists it ({entry.size} bytes)")
            size, actual = temporary.stat().st_size, file_sha256(temporary)
            if size != entry.size:
                raise IntegrityError(f"{where} has {size} bytes, recorded {entry.size}")
            if actual != entry.sha256:
                raise IntegrityError(f"{where} has sha256 {actual}, recorded {entry.sha256}")
            temporary.chmod(0o444)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self._remember(path)
        return path

    def _good(self, path: Path, entry: FileEntry) -> bool:
        state = path.stat()
        if state.st_size != entry.size:
            return False
        with self._marking:
            if (entry.sha256, state.st_ino, state.st_mtime_ns) in self._verified:
                return True
        if file_sha256(path) != entry.sha256:
            return False
        self._remember(path)
        return True

    def _remember(self, path: Path) -> None:
        state = path.stat()
        with self._marking:
            self._verified.add((path.name, state.st_ino, state.st_mtime_ns))
