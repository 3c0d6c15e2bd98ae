"""Packing of documents into rows of one length: no document is split, no token attends across documents.

Best-fit decreasing (Johnson 1973): longest first, into the fullest row that still has room, found by bisection, so that
a corpus packs in n log n comparisons. A few long rows, where one row more is a large share, are packed again by exact
subset sums (minimum bin slack, Gupta and Ho 1999), which is kept when it needs fewer rows. The fill on real length
distributions stands in docs/ingestion.md. Rows are budgets of compute and memory; inside a micro-batch their documents
are laid into one stream without any padding (see model.layers).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from components.failures import BadInput

# Below this fill, and in rows of so many places, a second search is worth its time: at most a second.
ENOUGH_FILL = 0.97
LONG_ROW = 4096
MOST_SUMS = 500_000


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
    for document, length in enumerate(lengths):
        if not 0 < length <= row_length:
            raise BadInput(
                f"document {document} has {length} tokens, a row holds 1 to {row_length}",
                where="sequence_length",
                remedy="Raise sequence_length, or shorten or drop the document before packing",
            )
    rows, total = _best_fit(lengths, row_length), sum(map(int, lengths))
    few = len(rows) > -(-total // row_length) and len(rows) * len(lengths) <= MOST_SUMS
    if few and row_length >= LONG_ROW and total < ENOUGH_FILL * len(rows) * row_length:
        rows = min(rows, _subset_sums(lengths, row_length), key=len)
    places = len(rows) * row_length
    return Packing(tuple(tuple(row) for row in rows), total / places if places else 1.0)


def _best_fit(lengths: Many[int], row_length: int) -> list[list[int]]:
    free: list[tuple[int, int]] = []  # (room left, row), sorted: the first that fits leaves the least room
    rows: list[list[int]] = []
    for document in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = int(lengths[document])
        place = bisect_left(free, (length, -1))
        if place == len(free):
            room, row = row_length, len(rows)
            rows.append([])
        else:
            room, row = free.pop(place)
        rows[row].append(document)
        insort(free, (room - length, row))
    return rows


def _subset_sums(lengths: Many[int], row_length: int) -> list[list[int]]:
    """Row by row: the longest document left, and of the others those that fill its row best."""
    left = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows: list[list[int]] = []
    while left:
        first, *others = left
        within = (1 << (row_length - int(lengths[first]) + 1)) - 1
        sums, before = 1, []  # bit n: some of the documents so far have n tokens together
        for document in others:
            before.append(sums)
            sums |= (sums << int(lengths[document])) & within
        row, total = [first], sums.bit_length() - 1
        for document, known in zip(reversed(others), reversed(before), strict=True):
            if not known >> total & 1:
                row.append(document)
                total -= int(lengths[document])
        rows.append(row)
        taken = set(row)
        left = [document for document in left if document not in taken]
    return rows


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
