"""Which records repeat an earlier one, and which questions stand in two places, in bounded memory.

Keys are logged with group (split or benchmark) and position. What does not fit the memory goes to partition files by
its first bits, so equal keys meet in one partition, and a partition is sorted alone: time is linear, memory is that of
the log's buffer plus one partition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("group", "<u4"), ("position", "<u8")])
PARTITIONS = 64
MEMORY_BYTES = 64 << 20


@dataclass
class Found:
    """counts: group -> positions that were found. flagged: group -> those of them that were asked about."""

    counts: Counter = field(default_factory=Counter)
    flagged: dict[str, set[int]] = field(default_factory=dict)


class KeyLog:
    """directory: for the partitions, made when they are needed. memory_bytes: buffered before they are."""

    def __init__(self, directory: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        self._directory, self._memory = Path(directory), memory_bytes
        self._buffer = bytearray()
        self._groups: dict[str, int] = {}
        self._spilled = False

    def add(self, key: bytes, group: str, position: int) -> None:
        """key: 16 bytes."""
        number = self._groups.setdefault(group, len(self._groups))
        self._buffer += key + number.to_bytes(4, "little") + position.to_bytes(8, "little")
        if len(self._buffer) >= self._memory:
            self._spill()

    def repeated(self, asked: Mapping[str, set[int]]) -> Found:
        """Positions whose key stands earlier in the same group."""
        return self._find(asked, list(self._groups), within=True)

    def elsewhere(self, asked: Mapping[str, set[int]], order: list[str]) -> Found:
        """Positions whose key also stands in a group that comes before theirs in `order`."""
        return self._find(asked, order, within=False)

    def _find(self, asked: Mapping[str, set[int]], order: list[str], within: bool) -> Found:
        found = Found(flagged={group: set() for group in asked})
        names = {number: group for group, number in self._groups.items()}
        ranks = np.zeros(max(len(names), 1), dtype=np.int64)
        for number, group in names.items():
            ranks[number] = order.index(group)
        for rows in self._partitions():
            rank = ranks[rows["group"]]
            rows = rows[np.lexsort((rows["position"], rank, rows["low"], rows["high"]))]
            rank = ranks[rows["group"]]
            same_key = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
            if within:
                hit = np.flatnonzero(same_key & (rank[1:] == rank[:-1])) + 1
            else:
                starts = np.flatnonzero(np.concatenate([[True], ~same_key]))
                first_rank = np.repeat(rank[starts], np.diff(np.append(starts, len(rows))))
                hit = np.flatnonzero(rank != first_rank)
            for number, positions in _by_group(rows[hit]):
                group = names[number]
                found.counts[group] += len(positions)
                if asked.get(group):
                    found.flagged[group].update(asked[group].intersection(positions.tolist()))
        return found

    def _partitions(self):
        if not self._spilled:
            if self._buffer:
                yield np.frombuffer(bytes(self._buffer), dtype=KEY)
            return
        self._spill()
        for path in sorted(self._directory.glob("*.keys")):
            yield np.fromfile(path, dtype=KEY)

    def _spill(self) -> None:
        if not self._buffer:
            return
        self._spilled = True
        self._directory.mkdir(parents=True, exist_ok=True)
        rows = np.frombuffer(bytes(self._buffer), dtype=KEY)
        self._buffer.clear()
        parts = (rows["high"] % PARTITIONS).astype(np.int64)
        for part in np.unique(parts):
            with (self._directory / f"{part:03d}.keys").open("ab") as stream:
                stream.write(rows[parts == part].tobytes())


def _by_group(rows: np.ndarray):
    for number in np.unique(rows["group"]):
        yield int(number), rows["position"][rows["group"] == number]
