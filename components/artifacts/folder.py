"""A folder of the store that processes on other hosts write to and read from by themselves.

What a learner holds is spread over hosts that share no directory, and all of it together is more than one host can
send. So the driver hands every rank a Folder, which names the folder and nothing secret; each rank opens the storage
with the credentials of its own host, sends what it holds, and reports name, size and digest. Only the driver knows when
all have reported, and writes the record and the marker that make the files count.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from components.artifacts.chunks import ChunkDigests
from components.artifacts.digest import bytes_sha256
from components.artifacts.manifest import FileEntry
from components.artifacts.objects import PART_BYTES, Objects, open_objects
from components.failures import BadInput, IntegrityError


@dataclass(frozen=True)
class Sent:
    """A file that was stored, its path below the folder. chunks: their digests (components.artifacts.chunks)."""

    file: FileEntry
    chunks: tuple[str, ...] = ()

    def below(self, folder: str) -> Sent:
        """The same, with its path from a folder above on."""
        return replace(self, file=self.file.model_copy(update={"path": join(folder, self.file.path)}))


@dataclass(frozen=True)
class Folder:
    """Travels to the ranks.

    url, key: the store's, and the folder's in it. endpoint, region: of S3, as the driver knows them; empty for AWS and
    for directories. files: what is known to lie there, paths below the folder.
    """

    url: str
    key: str
    endpoint: str = ""
    region: str = ""
    files: tuple[FileEntry, ...] = ()

    @classmethod
    def of(cls, objects: Objects, key: str, files: Iterable[FileEntry] = ()) -> Folder:
        return cls(
            objects.url, key, getattr(objects, "endpoint", "") or "", getattr(objects, "region", ""), tuple(files)
        )

    @classmethod
    def local(cls, directory: Path, files: Iterable[FileEntry] = ()) -> Folder:
        """A directory that whoever uses it sees."""
        return cls(Path(directory).absolute().parent.as_uri(), Path(directory).name, files=tuple(files))

    def __str__(self) -> str:
        return f"{self.url}/{self.key}"

    def holding(self, files: Iterable[FileEntry]) -> Folder:
        return replace(self, files=tuple(files))

    def below(self, folder: str, *names: str) -> Folder:
        """A folder of it, with what is recorded of the files of these names."""
        found = (entry for entry in self.files if entry.path in {f"{folder}/{name}" for name in names})
        files = tuple(entry.model_copy(update={"path": entry.path[len(folder) + 1 :]}) for entry in found)
        return replace(self, key=join(self.key, folder), files=files)

    def entry(self, path: str) -> FileEntry:
        """What is recorded of a file. Raises IntegrityError when nothing is."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise IntegrityError(f"{self}: there is no record of {path}")

    def send(self, path: str, blocks: Iterable[memoryview | bytes]) -> Sent:
        """Stores the blocks as one file, whole or not at all; of larger files a few parts are in memory at a time.

        Raises:
            BadInput, InfrastructureError: as components.artifacts.objects.Objects.
        """
        digest, chunks, size = hashlib.sha256(), ChunkDigests(), 0

        def parts() -> Iterator[bytes | bytearray]:
            nonlocal size
            for part in _parts(blocks):
                digest.update(part)
                chunks.update(part)
                size += len(part)
                yield part

        with self._opened() as objects:
            objects.write(f"{self.key}/{path}", parts())
        return Sent(FileEntry(path=path, size=size, sha256=digest.hexdigest()), chunks.digests())

    def read(self, path: str) -> bytes:
        """A small file, compared with its record. Raises IntegrityError when it differs or is missing."""
        entry = self.entry(path)
        with self._opened() as objects:
            stored = objects.read(f"{self.key}/{path}")
        if stored is None:
            raise IntegrityError(f"{self}/{path} is missing ({entry.size} bytes)")
        if bytes_sha256(stored.data) != entry.sha256:
            raise IntegrityError(f"{self}/{path} has sha256 {bytes_sha256(stored.data)}, recorded {entry.sha256}")
        return stored.data

    def read_part(self, path: str, start: int, size: int) -> bytes:
        """Bytes of a file, not compared with anything. Raises IntegrityError when they are not there."""
        with self._opened() as objects:
            found = objects.read_part(f"{self.key}/{path}", start, size)
        if found is None:
            raise IntegrityError(f"{self}/{path} is missing")
        if len(found) != size:
            raise IntegrityError(f"{self}/{path} ends at byte {start + len(found)}, recorded up to {start + size}")
        return found

    @contextmanager
    def _opened(self) -> Iterator[Objects]:
        try:
            yield _objects(self.url, self.endpoint, self.region, os.getpid())
        except BadInput as error:
            raise BadInput(
                error.problem,
                where=f"{error.where} from host {socket.gethostname()}",
                remedy=f"{error.remedy}. Every Ray node needs them in the environment it is started with",
            ) from error


def join(*parts: str) -> str:
    """A key or path of those that are not empty."""
    return "/".join(part for part in parts if part)


@lru_cache(maxsize=8)
def _objects(url: str, endpoint: str, region: str, process: int) -> Objects:
    """Opened once a process: connections are kept."""
    return open_objects(url, endpoint, region)


def _parts(blocks: Iterable[memoryview | bytes]) -> Iterator[bytes | bytearray]:
    """The blocks' bytes in parts of PART_BYTES, the last one shorter."""
    part = bytearray()
    for block in blocks:
        rest = memoryview(block)
        while len(rest):
            taken = rest[: PART_BYTES - len(part)]
            part += taken
            rest = rest[len(taken) :]
            if len(part) == PART_BYTES:
                yield part
                part = bytearray()
    if part:
        yield part
