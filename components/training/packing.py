"""Packing of documents into rows of one length: no document is split, no token attends across documents.

Best-fit decreasing (Johnson 1973): longest first, into the fullest row that still has room, found by bisection, so that
a corpus packs in n log n comparisons. Its fill on real length distributions stands in docs/ingestion.md. Rows are
budgets of compute and memory; inside a micro-batch their documents are laid into one stream without any padding (see
model.layers).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from components.failures import BadInput


@dataclass(frozen=True)
class Packing:
    """rows: indices of the documents in each row. fill: tokens over places, 1.0 when no place is left empty."""

    rows: tuple[tuple[int, ...], ...]
    fill: float


def pack(lengths: Many[int], row_length: int) -> Packing:
    """Packs documents of `lengths` tokens into rows of `row_length`; equal input gives equal rows.

    Raises:
        BadInput: a document is empty or longer than a row.
    """
    free: list[tuple[int, int]] = []  # (room left, row), sorted: the first that fits leaves the least room
    rows: list[list[int]] = []
    for document in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = int(lengths[document])
        if not 0 < length <= row_length:
            raise BadInput(
                f"document {document} has {length} tokens, a row holds 1 to {row_length}",
                where="sequence_length",
                remedy="Raise sequence_length, or shorten or drop the document before packing",
            )
        place = bisect_left(free, (length, -1))
        if place == len(free):
            room, row = row_length, len(rows)
            rows.append([])
        else:
            room, row = free.pop(place)
        rows[row].append(document)
        insort(free, (room - length, row))
    places = len(rows) * row_length
    return Packing(tuple(tuple(row) for row in rows), sum(map(int, lengths)) / places if places else 1.0)


def micro_batches(packing: Packing, row_length: int, tokens: int) -> Iterator[list[int]]:
    """Documents of as many whole rows as `tokens` places hold, at least one row at a time."""
    per_batch = max(1, tokens // row_length)
    for start in range(0, len(packing.rows), per_batch):
        yield [document for row in packing.rows[start : start + per_batch] for document in row]


def shard(lengths: Many[int], ranks: int) -> list[list[int]]:
    """Splits documents over data-parallel ranks with near equal token counts: longest to the emptiest rank."""
    loads = np.zeros(ranks, dtype=np.int64)
    shards: list[list[int]] = [[] for _ in range(ranks)]
    for document in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rank = int(loads.argmin())
        shards[rank].append(document)
        loads[rank] += int(lengths[document])
    return shards
