"""What is remembered of the records that were kept, so that later ones are compared without reading them again.

A record costs 16 bytes of identity and, for near duplicates, a MinHash signature, its bands and the numbers of a long
text: one to two kilobytes whatever its length. The survivor is the first occurrence in the order given, so the result
depends neither on workers nor on hash order. Numbers decide: two problems of one template with other numbers, operators
or variables are two problems, however alike they read. In texts of more than LONG tokens (documents, with dates and
page numbers) nine in ten numbers must agree.

MinHash-LSH: Broder 1997; band sizes as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from components.data.decontaminate.kernels import ngram_hashes
from components.data.text.kinds import KIND_LETTER, KIND_NUMBER, KIND_OPERATOR
from components.data.text.minhash import BINS, band_keys, signatures
from components.data.text.tokens import Tokens, formula_like, tokenise

SHINGLE = 3
# 16 bands of 8 rows: a pair of Jaccard similarity 0.8 shares one with probability 0.95, of 0.5 with 0.06.
BAND_ROWS = 8
BANDS = BINS // BAND_ROWS
LONG = 200
LONG_NUMBERS = 0.9
FEWEST_NUMBERS = 10
# In texts of fewer tokens, and in formulas, one other word is another text: they are only compared whole.
SHORTEST = 40
# Earlier texts of one bucket that a text is compared with: buckets of many copies stay linear.
COMPARED = 4
_NONE = np.empty(0, dtype=np.uint32)


class Survivor(NamedTuple):
    """position: of the record that survives. similarity: 1.0, or the estimated Jaccard of word triples."""

    position: int
    kind: str
    similarity: float


class Survivors:
    """threshold: Jaccard similarity from which two records are near duplicates; None: exact duplicates only."""

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._size = 0
        self._first: dict[bytes, int] = {}
        self._roots: dict[int, int] = {}
        # Of survivors alone, by their number among them.
        self._positions: list[int] = []
        self._numbers: list[np.ndarray] = []
        self._signatures = np.empty((1024, BINS), dtype=np.uint16)  # enough to compare, a quarter of the memory
        self._buckets = _Buckets()

    def add(self, keys: Sequence[bytes], texts: Sequence[str]) -> list[Survivor | None]:
        """The survivor of each record, None where it survives itself; records come in the order of the corpus.

        keys: identity of each record after normalisation; texts: all that it teaches, as one text.
        """
        found: list[Survivor | None] = []
        fresh: list[int] = []
        for offset, key in enumerate(keys):
            position = self._size + offset
            earlier = self._first.setdefault(key, position)
            found.append(None if earlier == position else Survivor(earlier, "exact", 1.0))
            if earlier == position:
                fresh.append(offset)
        if self._threshold is not None and fresh:
            for offset, near in zip(fresh, self._near([texts[offset] for offset in fresh], fresh), strict=True):
                if near is not None:
                    found[offset] = near
                    self._roots[self._size + offset] = near.position
        self._size += len(keys)
        # The copy of a near duplicate has its survivor.
        return [
            each if each is None else each._replace(position=self._roots.get(each.position, each.position))
            for each in found
        ]

    def _near(self, texts: list[str], offsets: list[int]) -> list[Survivor | None]:
        tokens = tokenise(texts)
        full = signatures(ngram_hashes(tokens.hashes, tokens.offsets, SHINGLE), tokens.offsets)
        keys, own = band_keys(full, BAND_ROWS), full.astype(np.uint16)
        short = (np.diff(tokens.offsets) < SHORTEST) | formula_like(tokens)
        results: list[Survivor | None] = []
        for text in range(len(tokens)):
            if short[text]:
                results.append(None)
                continue
            numbers, long = _numbers(tokens, text)
            if not long:
                keys[text] ^= np.uint64(hash(tuple(numbers.tolist())) & 0xFFFFFFFFFFFFFFFF)
                numbers = _NONE  # they are in the keys
            best: tuple[float, int] | None = None
            for other in self._buckets.find(keys[text]):
                similarity = float((own[text] == self._signatures[other]).mean())
                closer = similarity >= self._threshold and (best is None or (similarity, -other) > best)
                if closer and _agree(numbers, self._numbers[other]):
                    best = (similarity, -other)
            if best is not None:
                results.append(Survivor(self._positions[-best[1]], "near", best[0]))
                continue
            results.append(None)
            number = len(self._positions)
            if number == len(self._signatures):
                self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
            self._signatures[number] = own[text]
            self._positions.append(self._size + offsets[text])
            self._numbers.append(numbers)
            self._buckets.add(keys[text], number)
        return results


def _numbers(tokens: Tokens, text: int) -> tuple[np.ndarray, bool]:
    """(numbers, operators and one-letter names of a short text in order, False), or (numbers of a long one, True)."""
    own = tokens.text(text)
    if len(own.hashes) < LONG:
        return own.hashes[np.isin(own.kinds, (KIND_NUMBER, KIND_OPERATOR, KIND_LETTER))], False
    return np.sort(own.hashes[own.kinds == KIND_NUMBER].astype(np.uint32)), True


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    if np.array_equal(one, other):
        return True
    if min(len(one), len(other)) <= FEWEST_NUMBERS:
        return False
    return _shared(one, other) >= LONG_NUMBERS * max(len(one), len(other))


@njit(cache=True, nogil=True)
def _shared(one, other):
    """Size of the intersection of two sorted multisets."""
    i = j = count = 0
    while i < len(one) and j < len(other):
        if one[i] == other[j]:
            count += 1
            i += 1
            j += 1
        elif one[i] < other[j]:
            i += 1
        else:
            j += 1
    return count


class _Buckets:
    """Band keys and the texts that have them, in open addressing: 16 keys of a text take some 400 bytes."""

    def __init__(self) -> None:
        self._keys, self._texts = np.zeros(1 << 15, dtype=np.uint64), np.full(1 << 15, -1, dtype=np.int32)
        self._used = 0
        self._found = np.empty(BANDS * COMPARED, dtype=np.int64)

    def find(self, keys: np.ndarray) -> list[int]:
        """Texts that share a key, each once."""
        count = _find(self._keys, self._texts, keys, self._found)
        return sorted(set(self._found[:count].tolist()))

    def add(self, keys: np.ndarray, text: int) -> None:
        if 2 * (self._used + BANDS) > len(self._keys):
            old = self._keys, self._texts
            self._keys, self._texts = np.zeros(2 * len(old[0]), np.uint64), np.full(2 * len(old[0]), -1, np.int32)
            _move(*old, self._keys, self._texts)
        self._used += _insert(self._keys, self._texts, keys, text)


@njit(cache=True, nogil=True)
def _find(slots, texts, keys, found):
    mask = np.uint64(len(slots) - 1)
    count = 0
    for key in keys:
        at = key & mask
        while texts[at] >= 0:
            if slots[at] == key:
                found[count] = texts[at]
                count += 1
            at = (at + np.uint64(1)) & mask
    return count


@njit(cache=True, nogil=True)
def _insert(slots, texts, keys, text):
    """How many keys were added; a bucket takes COMPARED texts, the first."""
    mask = np.uint64(len(slots) - 1)
    added = 0
    for key in keys:
        at = key & mask
        same = 0
        while texts[at] >= 0:
            same += slots[at] == key
            at = (at + np.uint64(1)) & mask
        if same < COMPARED:
            slots[at], texts[at] = key, text
            added += 1
    return added


@njit(cache=True, nogil=True)
def _move(old_slots, old_texts, slots, texts):
    mask = np.uint64(len(slots) - 1)
    for place in range(len(old_slots)):
        if old_texts[place] >= 0:
            at = old_slots[place] & mask
            while texts[at] >= 0:
                at = (at + np.uint64(1)) & mask
            slots[at], texts[at] = old_slots[place], old_texts[place]
