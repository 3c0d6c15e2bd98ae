"""Parts of stored files, each with a digest of its own: a ranged read cannot check a whole file's sha256.

Whoever writes a file notes the digest of every CHUNK_BYTES of it; whoever needs some of it reads the chunks that cover
what it needs, neighbours in one request, several requests at a time, and uses nothing before its digest was compared.
XXH3 (128 bit) finds damage at memory speed, where SHA-256 would take a second per GiB; the digests themselves stand in
a file whose SHA-256 is recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

from components.failures import IntegrityError

if TYPE_CHECKING:
    from components.artifacts.folder import Folder

# A small part of a large block can be read without much of the rest, and 12 TB have 1.5 million digests: 50 MB.
CHUNK_BYTES = 8 << 20
# A request costs as much as some 2 MB more of an answer; half of that is read over without being asked for.
GAP_BYTES = 1 << 20
REQUEST_BYTES = 32 << 20
LANES = 8


@dataclass(frozen=True)
class Chunk:
    """path: below the place. start, size: in bytes. about: what it is a part of, for people. take: gets the bytes, in
    any thread, once they are proven."""

    path: str
    start: int
    size: int
    digest: str
    about: str
    take: Callable[[memoryview], None]


@dataclass
class Traffic:
    """requests, bytes: asked of the storage."""

    requests: int = 0
    bytes: int = 0


def chunk_digest(data: memoryview | bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


class ChunkDigests:
    """Digests of the chunks of a file that comes in pieces of any size."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._open, self._left = xxhash.xxh3_128(), CHUNK_BYTES

    def update(self, data: memoryview | bytes | bytearray) -> None:
        rest = memoryview(data)
        while len(rest):
            taken, rest = rest[: self._left], rest[self._left :]
            self._open.update(taken)
            self._left -= len(taken)
            if not self._left:
                self._done.append(self._open.hexdigest())
                self._open, self._left = xxhash.xxh3_128(), CHUNK_BYTES

    def digests(self) -> tuple[str, ...]:
        return (*self._done, self._open.hexdigest()) if self._left < CHUNK_BYTES else tuple(self._done)


def spans(size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the chunks of a block."""
    return ((start, min(start + CHUNK_BYTES, size)) for start in range(0, size, CHUNK_BYTES))


def read_chunks(place: Folder, chunks: Iterable[Chunk]) -> Traffic:
    """Reads, compares and hands over every chunk.

    Raises:
        IntegrityError: the first that differs or is missing; names file, block and bytes.
    """
    traffic, waiting = Traffic(), deque[Future]()

    def read(request: list[Chunk]) -> None:
        start, stop = _extent(request)
        data = memoryview(place.read_part(request[0].path, start, stop - start))
        for chunk in request:
            part = data[chunk.start - start : chunk.start - start + chunk.size]
            if (found := chunk_digest(part)) != chunk.digest:
                where = f"{place}/{chunk.path}: {chunk.about}, bytes {chunk.start} to {chunk.start + chunk.size}"
                raise IntegrityError(f"{where}: xxh3_128 is {found}, recorded {chunk.digest}")
            chunk.take(part)

    with ThreadPoolExecutor(LANES) as pool:
        try:
            for request in _requests(chunks):
                if len(waiting) == LANES:
                    waiting.popleft().result()
                waiting.append(pool.submit(read, request))
                start, stop = _extent(request)
                traffic.requests += 1
                traffic.bytes += stop - start
            for each in waiting:
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return traffic


def _requests(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Neighbours together, up to REQUEST_BYTES."""
    request: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda chunk: (chunk.path, chunk.start)):
        if request:
            start, stop = _extent(request)
            apart = chunk.path != request[0].path or chunk.start - stop > GAP_BYTES
            if apart or chunk.start + chunk.size - start > REQUEST_BYTES:
                yield request
                request = []
        request.append(chunk)
    if request:
        yield request


def _extent(request: list[Chunk]) -> tuple[int, int]:
    return request[0].start, max(chunk.start + chunk.size for chunk in request)
