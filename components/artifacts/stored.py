"""An artifact's files where they lie, for ranks on other hosts that read for themselves what they need of them.

The manifest has the sha256 of every file, which only a reader of the whole file can compare. So beside an artifact with
safetensors files lies the record `chunks.json` with the digests of their chunks (components.artifacts.chunks), listed
in the manifest like every record. Of an artifact without it, one of an older ringflow, files are read whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from components.artifacts.chunks import CHUNK_BYTES, Chunk, Traffic, chunk_digest, read_chunks, spans
from components.artifacts.folder import Folder, Sent
from components.artifacts.manifest import FileEntry, entries_of

RECORD = "records/chunks.json"
# From byte `start` of the file on.
Take = Callable[[int, memoryview], None]


@dataclass(frozen=True)
class Stored:
    """Files below `folder` of a place, which knows all of the artifact's files and records."""

    place: Folder
    folder: str

    @classmethod
    def local(cls, directory: Path) -> Stored:
        """A directory that all ranks see."""
        return cls(Folder.local(directory, entries_of(directory)), "")

    def __str__(self) -> str:
        return f"{self.place}/{self.folder}".rstrip("/")

    def below(self, folder: str) -> Stored:
        return Stored(self.place, self.path(folder))

    def path(self, name: str) -> str:
        """Below the place."""
        return f"{self.folder}/{name}" if self.folder else name

    def names(self) -> list[str]:
        """Of the files directly below, sorted."""
        below = (entry.path.rpartition("/") for entry in self.place.files)
        return sorted(name for folder, _, name in below if folder == self.folder)

    def read(self, name: str) -> bytes:
        """A small file, verified."""
        return self.place.read(self.path(name))

    def files(self) -> list[Sent]:
        """All below, paths from here on."""
        digests = self.digests()
        inside = self.path("")
        return [
            Sent(entry.model_copy(update={"path": entry.path[len(inside) :]}), tuple(digests.get(entry.path, ())))
            for entry in self.place.files
            if entry.path.startswith(inside)
        ]

    def digests(self) -> dict[str, list[str]]:
        """Of the chunks of files, by their paths in the place; none where they are not recorded."""
        if not any(entry.path == RECORD for entry in self.place.files):
            return {}
        content = json.loads(self.place.read(RECORD))
        return content["files"] if content["chunk_bytes"] == CHUNK_BYTES else {}

    def parts(self) -> Parts:
        return Parts(self)


class Parts:
    """Byte ranges of files, read and proven together."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._digests = stored.digests()
        self._sizes = {entry.path: entry.size for entry in stored.place.files}
        self._wanted: dict[tuple[str, int], _Wanted] = {}
        self._known: dict[tuple[str, int], memoryview] = {}
        self.traffic = Traffic()

    def fronts(self, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """The first bytes of files, as many as asked for. What was read with them is kept for ranges that need it."""
        found: dict[str, bytearray] = {}
        for name, size in sizes.items():
            path = self._stored.path(name)
            found[name] = bytearray(min(size, self._sizes[path]))
            self._want(path, 0, len(found[name]), partial(_begin, found[name]), keep=True)
        self.read()
        return {name: bytes(front) for name, front in found.items()}

    def want(self, name: str, start: int, stop: int, take: Take) -> None:
        """`take` gets what of the file has to be read for these bytes, in pieces and in any thread, by `read`."""
        self._want(self._stored.path(name), start, stop, take, keep=False)

    def read(self) -> None:
        """Raises IntegrityError for the first range that is not what was recorded."""
        wanted, self._wanted = self._wanted, {}
        chunks = []
        for (path, start), each in wanted.items():
            if (known := self._known.get((path, start))) is not None:
                each.give(start, known)
            elif path in self._digests:
                chunks.append(Chunk(path, start, each.size, each.digest, "part", self._taker(path, start, each)))
            else:
                data = self._stored.place.read(path)
                self._count(len(data))
                self._taker(path, start, each)(memoryview(data))
        found = read_chunks(self._stored.place, chunks)
        self.traffic.requests += found.requests
        self.traffic.bytes += found.bytes

    def _want(self, path: str, start: int, stop: int, take: Take, keep: bool) -> None:
        size, digests = self._sizes[path], self._digests.get(path)
        for number, (low, high) in enumerate(spans(size) if digests else [(0, size)]):
            if low < stop and start < high:
                digest = digests[number] if digests else ""
                each = self._wanted.setdefault((path, low), _Wanted(high - low, digest))
                each.takers.append(take)
                each.keep = each.keep or keep

    def _taker(self, path: str, start: int, wanted: _Wanted) -> Callable[[memoryview], None]:
        def take(data: memoryview) -> None:
            if wanted.keep:
                self._known[path, start] = data
            wanted.give(start, data)

        return take

    def _count(self, size: int) -> None:
        self.traffic.requests += 1
        self.traffic.bytes += size


def _begin(front: bytearray, start: int, data: memoryview) -> None:
    end = min(start + len(data), len(front))
    if start < end:
        front[start:end] = data[: end - start]


@dataclass
class _Wanted:
    size: int
    digest: str
    takers: list[Take] = field(default_factory=list)
    keep: bool = False

    def give(self, start: int, data: memoryview) -> None:
        for take in self.takers:
            take(start, data)


def chunk_record(directory: Path, entries: Sequence[FileEntry], sent: Sequence[Sent] = ()) -> dict[str, bytes]:
    """The record of an artifact's safetensors files, by its name; none when it has no such file.

    entries: of the directory. sent: files that were sent already."""
    digests: dict[str, Sequence[str]] = {
        f"files/{each.file.path}": each.chunks
        for each in sent
        if each.file.path.endswith(".safetensors") and each.chunks
    }
    for entry in entries:
        if entry.path.endswith(".safetensors"):
            with open(directory / entry.path, "rb") as stream:
                found = [chunk_digest(stream.read(stop - start)) for start, stop in spans(entry.size)]
            digests[f"files/{entry.path}"] = found
    if not digests:
        return {}
    content = {"chunk_bytes": CHUNK_BYTES, "files": digests}
    return {RECORD.rpartition("/")[2]: json.dumps(content, separators=(",", ":")).encode()}
