"""String level: an inverted index of the benchmarks' n-grams, searched for a whole batch of texts at once.

Every text becomes token ids (words unknown to the benchmarks share one id and can never match); n-grams are polynomial
hashes over the ids of the whole batch, computed by `n` vector operations, and looked up by binary search. Candidates
are confirmed on the tokens themselves, so a hash collision costs time and never a verdict.

- A benchmark item's score is the share of its n-grams found. n-grams that many items of the index share are the
  boilerplate of a template ("A very special island is inhabited only by ...") and say nothing about one item.
- Items shorter than an n-gram are looked for whole; very short ones only as a whole field, because "3 + 4" stands in
  every worked solution.
- The aligned tokens decide between a copy and a template sibling: same words, other numbers is `template`.

n = 13 follows GPT-3 (arXiv 2005.14165, app. C); coverage instead of one hit follows the audit notes in FACTS section 7.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.data.decontaminate.evidence import Level
from components.data.normalise import formula_like, is_number, is_operator, masked, plain

# An n-gram in more items than this is boilerplate of the benchmark, not text of an item.
BOILERPLATE_ITEMS = 2
# Shortest item that counts when found inside a longer text; shorter ones must be the whole field.
SHORTEST_CONTAINED = 8
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class IndexedItem:
    benchmark: str
    item: str
    text: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """`item` is a position in StringIndex.items."""

    item: int
    level: Level
    score: float


class StringIndex:
    """Built once from the benchmarks; `search` is pure and may be called from many threads.

    Args:
        items: benchmark items with their tokens; items without tokens are ignored.
        ngram: words per n-gram.
        min_coverage: share of an item's n-grams that makes a finding.
    """

    def __init__(self, items: Sequence[IndexedItem], ngram: int, min_coverage: float) -> None:
        self.items, self.ngram, self.min_coverage = list(items), ngram, min_coverage
        self.vocabulary: dict[str, int] = {}
        for item in self.items:
            for token in item.tokens:
                self.vocabulary.setdefault(token, len(self.vocabulary) + 1)
        generator = np.random.Generator(np.random.PCG64(0))
        self._codes = generator.integers(1, 2**63, size=len(self.vocabulary) + 1, dtype=np.uint64)
        self._whole: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._template: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for position, item in enumerate(self.items):
            if item.tokens:
                self._whole[item.tokens].append(position)
                self._template[masked(list(item.tokens))].append(position)
        self._item_lengths = {len(item.tokens) for item in self.items}
        self._tables = self._build_tables()

    def _length(self, item: IndexedItem) -> int:
        """Length of the windows an item is searched by; 0 when it is only compared whole."""
        size = len(item.tokens)
        return self.ngram if size >= self.ngram else size if size >= SHORTEST_CONTAINED else 0

    def _build_tables(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """{window length: (sorted hashes, item of each hash)}; also fills the distinctive n-grams of every item."""
        grams: list[set[int]] = []
        for item in self.items:
            length = self._length(item)
            ids = self._ids(item.tokens)
            grams.append(set(self._windows(ids, length).tolist()) if length and len(ids) >= length else set())
        frequency = Counter(gram for found in grams for gram in found)
        self._distinctive: list[int] = []
        self._boilerplate_only: list[bool] = []
        rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, found in enumerate(grams):
            own = {gram for gram in found if frequency[gram] <= BOILERPLATE_ITEMS}
            self._boilerplate_only.append(bool(found) and not own)
            used = own or found
            self._distinctive.append(len(used))
            rows[self._length(self.items[position])].extend((gram, position) for gram in used)
        tables = {}
        for length, pairs in rows.items():
            if length:
                hashes = np.array([gram for gram, _ in pairs], dtype=np.uint64)
                owners = np.array([position for _, position in pairs], dtype=np.int64)
                order = np.lexsort((owners, hashes))
                tables[length] = (hashes[order], owners[order])
        return tables

    def _ids(self, tokens: Sequence[str]) -> np.ndarray:
        get = self.vocabulary.get
        return np.array([get(token, 0) for token in tokens], dtype=np.int64)

    def _windows(self, ids: np.ndarray, length: int) -> np.ndarray:
        """[len(ids) - length + 1] uint64 hashes of every window."""
        codes = self._codes[ids]
        count = len(codes) - length + 1
        value = np.zeros(count, dtype=np.uint64)
        with np.errstate(over="ignore"):
            for offset in range(length):
                value = value * _MULTIPLIER + codes[offset : offset + count]
        return value

    def search(self, texts: Sequence[Sequence[str]], raw: Sequence[str]) -> list[list[Match]]:
        """Findings of each text, given as its tokens and as it is written; best first, at most one per item."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        coverage = self._coverage(texts, lengths)
        return [self._decide(tuple(text), raw[index], coverage.get(index, {})) for index, text in enumerate(texts)]

    def _coverage(self, texts: Sequence[Sequence[str]], lengths: np.ndarray) -> dict[int, dict[int, int]]:
        """{text: {item: distinct n-grams found}} over one concatenation of the batch."""
        get = self.vocabulary.get
        ids = np.fromiter((get(token, 0) for text in texts for token in text), dtype=np.int64, count=int(lengths.sum()))
        document = np.repeat(np.arange(len(texts)), lengths)
        found: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        unknown = np.concatenate([[0], np.cumsum(ids == 0)])
        for length, (hashes, owners) in self._tables.items():
            count = len(ids) - length + 1
            if count <= 0:
                continue
            inside = np.flatnonzero(
                (unknown[length:] == unknown[:count]) & (document[:count] == document[length - 1 : length - 1 + count])
            )
            if not len(inside):
                continue
            windows = self._windows(ids, length)[inside]
            low = np.searchsorted(hashes, windows, side="left")
            high = np.searchsorted(hashes, windows, side="right")
            for window in np.flatnonzero(high > low):
                text = int(document[inside[window]])
                for row in range(low[window], high[window]):
                    found[text][int(owners[row])].add(int(hashes[row]))
        return {text: {item: len(grams) for item, grams in items.items()} for text, items in found.items()}

    def _decide(self, text: tuple[str, ...], raw: str, coverage: dict[int, int]) -> list[Match]:
        if not text:
            return []
        matches: dict[int, Match] = {}
        for item in self._whole.get(text, ()):
            matches[item] = Match(item, "exact", 1.0)
        for item, count in coverage.items():
            share = count / self._distinctive[item]
            needed = 1.0 if self._boilerplate_only[item] else self.min_coverage
            if item not in matches and share >= needed:
                match = self._confirm(text, raw, item, share)
                if match:
                    matches[item] = match
        if not matches and len(text) in self._item_lengths:
            for item in self._template.get(masked(list(text)), ())[:1]:
                matches[item] = Match(item, "template", 0.0)
        return sorted(matches.values(), key=lambda match: (match.level == "template", -match.score, match.item))

    def _confirm(self, text: tuple[str, ...], raw: str, position: int, share: float) -> Match | None:
        """Compares the tokens themselves: a copy, a sibling with other numbers, or a coincidence of hashes (None)."""
        item = self.items[position].tokens
        if formula_like(item):
            return Match(position, "contained", 1.0) if _stands_alone(raw, self.items[position].text) else None
        if _contains(text, item):
            return Match(position, "contained", 1.0)
        window = _neighbourhood(text, item, self.ngram)
        operations = difflib.SequenceMatcher(None, item, window, autojunk=False).get_opcodes()
        agreeing = sum(end - start for kind, start, end, _, _ in operations if kind == "equal")
        if agreeing < min(self.ngram, len(item)):
            return None
        for kind, start, end, other_start, other_end in operations:
            if kind == "replace":
                mine = [token for token in item[start:end] if _is_number_or_operator(token)]
                other = [token for token in window[other_start:other_end] if _is_number_or_operator(token)]
                if mine and other and mine != other:
                    return Match(position, "template", 0.0)
        if self._boilerplate_only[position]:
            return None
        return Match(position, "ngram", share)


def _is_number_or_operator(token: str) -> bool:
    return is_number(token) or is_operator(token)


def _contains(text: tuple[str, ...], item: tuple[str, ...]) -> bool:
    """True when `item` stands in `text` as consecutive tokens."""
    if len(item) > len(text):
        return False
    # A separator that no token holds turns the question into substring search, which runs in C.
    return f"\0{chr(0).join(item)}\0" in f"\0{chr(0).join(text)}\0"


def _stands_alone(text: str, item: str) -> bool:
    """True when a formula stands in `text` whole: `6a+4` is not in `6a+4b`, nor in `6a+4 + 2`. White space is free."""
    body = r"\s+".join(map(re.escape, plain(item).split()))
    return re.search(rf"(?<![\w+\-*/^|&=<>]){body}(?!\w|\s*[+\-*/^|&=<>])", plain(text)) is not None


def _neighbourhood(text: tuple[str, ...], item: tuple[str, ...], ngram: int) -> tuple[str, ...]:
    """The stretch of a longer text that can hold the item: around the first of the item's n-grams found in it."""
    if len(text) <= 2 * len(item) + ngram:
        return text
    joined, width = list(text), min(ngram, len(item))
    places: dict[tuple[str, ...], int] = {}
    for start in range(len(joined) - width + 1):
        places.setdefault(tuple(joined[start : start + width]), start)
    for start in range(len(item) - width + 1):
        place = places.get(item[start : start + width])
        if place is not None:
            low = max(0, place - start - ngram)
            return text[low : low + len(item) + 2 * ngram]
    return text[: 2 * len(item)]
