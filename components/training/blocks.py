"""The index of a learner's resume point: which block of which tensor lies where in which rank's file.

Each rank tells the driver what it sent; the driver writes all of it into one small file, whose digest the point
records. A rank that resumes reads the index and then knows every byte range it needs, under whatever layout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
