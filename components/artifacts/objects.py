"""Object storage with the two conditional writes the store is built on: create-only, and replace-if-unchanged.

`Objects` is the small interface; here on plain directories (file://, for tests and single machines), in s3.py on S3.
Keys are POSIX paths below the store's root. Every failure of the storage is an InfrastructureError, every wrong
credential or bucket a BadInput: nothing else leaves this floor.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from components.failures import BadInput, InfrastructureError, IntegrityError
from components.telemetry import metrics

BLOCK_BYTES = 1 << 20
# Of what is written as a stream: S3 takes 10,000 parts, so up to 160 GB in one object.
PART_BYTES = 16 << 20
PRIVATE = ".ringflow-"
TEMPORARY = re.compile(re.escape(PRIVATE) + "[0-9a-f]{32}")


@dataclass(frozen=True)
class Versioned:
    """Bytes of an object and the version (ETag) that names exactly these bytes."""

    data: bytes
    version: str


@dataclass(frozen=True)
class Upload:
    """An unfinished upload. token: the storage's own name for it; began: seconds since 1970."""

    key: str
    token: str
    began: float


def moved(direction: str, size: int) -> None:
    """Tells the metrics of bytes that went to the storage (`write`) or came from it (`read`), in one object."""
    metrics.add("ringflow_store_bytes_total", size, direction=direction)
    metrics.add("ringflow_store_requests_total", direction=direction)


class Objects(Protocol):
    """What the store needs of a storage. All methods raise InfrastructureError or BadInput, see the module text."""

    url: str

    def read(self, key: str) -> Versioned | None:
        """The whole object, None when absent. For small objects: markers, manifests, leases."""

    def create(self, key: str, data: bytes) -> bool:
        """Writes only if absent. True: these bytes are there now. `data` must hold a token of its writer's own, so
        that a success whose answer was lost can be told from another writer's object."""

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        """Writes only if the object still has `version`; the new version, or None when it has changed."""

    def put(self, path: Path, key: str, sha256: str) -> None:
        """Uploads a file; storage that can is made to check the digest. An existing object is replaced."""

    def write(self, key: str, parts: Iterator[bytes | bytearray]) -> None:
        """Stores the parts, one after another, as one object, which replaces an existing one once it is whole.

        parts: each but the last of PART_BYTES; a few of them are held at a time."""

    def copy(self, source: str, target: str) -> None:
        """Copies an object inside the storage: no byte of it comes here. Raises IntegrityError when it is absent."""

    def get(self, key: str, path: Path) -> bool:
        """Downloads to a local path. False when absent."""

    def read_part(self, key: str, start: int, size: int) -> bytes | None:
        """`size` bytes from `start`, fewer where the object ends before; None when absent."""

    def blocks(self, key: str) -> Iterator[bytes]:
        """The object's bytes, in order, without keeping it in memory. Raises FileNotFoundError when absent."""

    def files(self, prefix: str) -> dict[str, int]:
        """{key below prefix: bytes}, recursively."""

    def folders(self, prefix: str) -> list[str]:
        """Names directly below prefix that hold further keys, sorted."""

    def remove(self, prefix: str) -> None:
        """Deletes the object and everything below it; absent is fine."""

    def modified(self, prefix: str) -> float | None:
        """When anything below prefix was written last, in seconds since 1970 by the storage's clock; None if empty."""

    def uploads(self) -> list[Upload]:
        """Uploads that were begun and neither finished nor given up: they take space and are no objects."""

    def abort(self, upload: Upload) -> None:
        """Gives an unfinished upload up and frees its space; one that is gone is fine."""

    def check(self, deadline_s: float, create: bool) -> None:
        """Proves that the place exists and can be written, within the deadline."""


class DirectoryObjects:
    """Objects as files below a directory. Atomic by link and rename on one filesystem, replaced under a file lock."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.url = self.root.absolute().as_uri()

    def path(self, key: str) -> Path:
        return self.root / key

    def read(self, key: str) -> Versioned | None:
        with self._errors(key):
            try:
                data = self.path(key).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None
        moved("read", len(data))
        return Versioned(data, hashlib.sha256(data).hexdigest())

    def create(self, key: str, data: bytes) -> bool:
        with self._errors(key):
            temporary = self._write_beside(key, data)
            try:
                os.link(temporary, self.path(key))
            except FileExistsError:
                current = self.read(key)
                return current is not None and current.data == data
            finally:
                temporary.unlink()
        moved("write", len(data))
        return True

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        with self._errors(key), self._lock(key):
            current = self.read(key)
            if current is None or current.version != version:
                return None
            os.replace(self._write_beside(key, data), self.path(key))
        moved("write", len(data))
        return hashlib.sha256(data).hexdigest()

    def put(self, path: Path, key: str, sha256: str) -> None:
        with self._errors(key):
            temporary = self._beside(key)
            shutil.copyfile(path, temporary)
            os.replace(temporary, self.path(key))
        moved("write", path.stat().st_size)

    def write(self, key: str, parts: Iterator[bytes | bytearray]) -> None:
        size = 0
        with self._errors(key):
            temporary = self._beside(key)
            try:
                with open(temporary, "wb") as stream:
                    for part in parts:
                        size += stream.write(part)
                os.replace(temporary, self.path(key))
            finally:
                temporary.unlink(missing_ok=True)
        moved("write", size)

    def copy(self, source: str, target: str) -> None:
        with self._errors(target):
            temporary = self._beside(target)
            try:
                shutil.copyfile(self.path(source), temporary)
            except FileNotFoundError as error:
                raise IntegrityError(f"{self.url}/{source} is missing") from error
            os.replace(temporary, self.path(target))

    def read_part(self, key: str, start: int, size: int) -> bytes | None:
        with self._errors(key):
            try:
                with open(self.path(key), "rb") as stream:
                    stream.seek(start)
                    data = stream.read(size)
            except FileNotFoundError:
                return None
        moved("read", len(data))
        return data

    def get(self, key: str, path: Path) -> bool:
        with self._errors(key):
            try:
                shutil.copyfile(self.path(key), path)
            except FileNotFoundError:
                if not path.parent.is_dir():
                    raise
                return False
        moved("read", path.stat().st_size)
        return True

    def blocks(self, key: str) -> Iterator[bytes]:
        with open(self.path(key), "rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block

    def files(self, prefix: str) -> dict[str, int]:
        base = self.path(prefix)
        found: dict[str, int] = {}
        for path in base.rglob("*"):
            try:
                if path.is_file() and not path.name.startswith(PRIVATE):
                    found[path.relative_to(base).as_posix()] = path.stat().st_size
            except FileNotFoundError:  # a temporary file of another writer went away between listing and looking
                continue
        return found

    def folders(self, prefix: str) -> list[str]:
        base = self.path(prefix)
        return sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []

    def remove(self, prefix: str) -> None:
        with self._errors(prefix):
            path = self.path(prefix)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def modified(self, prefix: str) -> float | None:
        base = self.path(prefix)
        times = [self._mtime(path) for path in ([base] if base.is_file() else base.rglob("*")) if path.is_file()]
        return max((time for time in times if time is not None), default=None)

    def uploads(self) -> list[Upload]:
        found = []
        for path in self.root.rglob(f"{PRIVATE}*"):
            if TEMPORARY.fullmatch(path.name) and (began := self._mtime(path)) is not None:
                key = path.relative_to(self.root).as_posix()
                found.append(Upload(key, path.name, began))
        return found

    def abort(self, upload: Upload) -> None:
        with self._errors(upload.key):
            self.path(upload.key).unlink(missing_ok=True)

    def check(self, deadline_s: float, create: bool) -> None:
        if not self.root.is_dir():
            if not create:
                raise BadInput(
                    "the store's directory does not exist",
                    where=self.url,
                    remedy="Create it, or point RINGFLOW_STORE elsewhere",
                )
            self.root.mkdir(parents=True, exist_ok=True)
        key = f"{PRIVATE}check/{uuid.uuid4().hex}"
        try:
            self.create(key, b"probe")
            self.remove(key)
        except BadInput as error:
            raise BadInput("the store's directory is not writable", where=self.url) from error

    @staticmethod
    def _mtime(path: Path) -> float | None:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:  # its writer finished or removed it meanwhile
            return None

    def _beside(self, key: str) -> Path:
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.parent / f"{PRIVATE}{uuid.uuid4().hex}"

    def _write_beside(self, key: str, data: bytes) -> Path:
        temporary = self._beside(key)
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        return temporary

    @contextmanager
    def _lock(self, key: str):
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.parent / f"{PRIVATE}lock-{target.name}", "a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _errors(self, key: str):
        try:
            yield
        except PermissionError as error:
            raise BadInput(f"not allowed: {error.strerror}", where=f"{self.url}/{key}") from error
        except OSError as error:
            raise InfrastructureError(f"{self.url}/{key}: {error.strerror or error}") from error


def open_objects(url: str, endpoint: str = "", region: str = "") -> Objects:
    """Objects for `s3://bucket[/prefix]`, `file:///directory` or a plain path.

    endpoint, region: of S3; from the environment when empty."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from components.artifacts.s3 import S3Objects

        return S3Objects(parts.netloc, parts.path.strip("/"), endpoint, region)
    if parts.scheme in ("file", ""):
        return DirectoryObjects(Path(unquote(parts.path)).absolute())
    raise BadInput(
        f"no store speaks {parts.scheme}://",
        where=url,
        remedy="Give s3://bucket or file:///directory as RINGFLOW_STORE",
    )
