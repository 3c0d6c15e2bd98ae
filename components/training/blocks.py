"""The index of a learner's resume point: which block of which tensor lies where in which rank's file.

Each rank tells the driver what it sent; the driver writes all of it into one small file, whose digest the point
records. A rank that resumes reads the index and then knows every byte range it needs, under whatever layout.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.artifacts.chunks import CHUNK_BYTES
from components.artifacts.folder import Folder
from components.artifacts.manifest import FileEntry
from components.failures import BadInput

INDEX = "index.json"
# Written with 1: digests of other chunks mean nothing.
FORMAT = 1


@dataclass(frozen=True)
class Block:
    """float32 values of `name` from `starts` on, with `sizes`, at byte `offset` of the file. digests: of its chunks."""

    path: str
    moment: str
    name: str
    starts: Sequence[int]
    sizes: Sequence[int]
    offset: int
    digests: Sequence[str]

    @property
    def bytes(self) -> int:
        return 4 * math.prod(self.sizes)

    @property
    def about(self) -> str:
        return f"{self.moment} of {self.name} from {list(self.starts)}"


@dataclass(frozen=True)
class Written:
    """What one rank sent. state: of the first rank, what belongs to no tensor."""

    file: FileEntry
    blocks: list[Block]
    state: Mapping[str, Any] | None


@dataclass(frozen=True)
class Index:
    """All blocks of a point."""

    state: Mapping[str, Any]
    blocks: Sequence[Block]

    def of(self, moment: str, name: str) -> Sequence[Block]:
        return self._named.get((moment, name), ())

    @cached_property
    def _named(self) -> dict[tuple[str, str], list[Block]]:
        named: dict[tuple[str, str], list[Block]] = {}
        for block in self.blocks:
            named.setdefault((block.moment, block.name), []).append(block)
        return named


def write_index(directory: Path, written: Sequence[Written]) -> None:
    """The index of what all ranks sent, rank 0 first."""
    directory.mkdir(parents=True, exist_ok=True)
    blocks = [asdict(block) for each in written for block in each.blocks]
    content = {"format": FORMAT, "chunk_bytes": CHUNK_BYTES, "state": written[0].state, "blocks": blocks}
    (directory / INDEX).write_text(json.dumps(content, separators=(",", ":")))


def read_index(place: Folder) -> Index:
    """Raises BadInput for a point of another ringflow, IntegrityError for an index that is not the recorded one."""
    if not any(entry.path == INDEX for entry in place.files):
        raise _other(place)
    content = json.loads(place.read(INDEX))
    if (content.get("format"), content.get("chunk_bytes")) != (FORMAT, CHUNK_BYTES):
        raise _other(place)
    return Index(content["state"], [Block(**block) for block in content["blocks"]])


def _other(place: Folder) -> BadInput:
    return BadInput(
        "not a learner's resume point, or one of another ringflow",
        where=f"{place}/{INDEX}",
        remedy="Start the stage afresh with --force STAGE",
    )


class Rows:
    """Whole rows of a stored block on their way into a piece. start, stop: their bytes in the block.

    Of a block that was cut by columns a rank needs a little of each row: reading rows whole is one request for many.

    Args:
        target: where the values go. there: their place in the block, of `sizes`.
    """

    def __init__(self, target: Tensor, there: tuple[slice, ...], sizes: Sequence[int]) -> None:
        width = 4 * math.prod(sizes[1:])
        self.start, self.stop = there[0].start * width, there[0].stop * width
        self._missing, self._lock = self.stop - self.start, threading.Lock()
        self._target, self._columns = target, there[1:]
        whole = all(place == slice(0, size) for place, size in zip(there[1:], sizes[1:], strict=True))
        self._rows = target
        if not whole or not target.is_contiguous():
            self._rows = torch.empty((there[0].stop - there[0].start, *sizes[1:]))

    def take(self, start: int, data: memoryview) -> None:
        """Bytes of the block from `start` on, of which some may belong to other rows."""
        low, high = max(start, self.start), min(start + len(data), self.stop)
        as_bytes(self._rows)[low - self.start : high - self.start] = data[low - start : high - start]
        with self._lock:
            self._missing -= high - low
            complete = self._missing == 0
        if complete and self._rows is not self._target:
            self._target.copy_(self._rows[(slice(None), *self._columns)])
            self._rows = self._target  # frees what is copied


def as_bytes(values: Tensor) -> memoryview:
    """A contiguous float32 tensor's own memory."""
    return memoryview(values.numpy().reshape(-1)).cast("B") if values.numel() else memoryview(b"")
