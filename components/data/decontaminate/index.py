"""The benchmarks as an index: n-grams, whole texts, templates, MinHash bands and word weights, built once.

- Seeds (n-grams of SEED tokens) find candidates: short, so that an edit every few words leaves some; an n-gram in many
  items is boilerplate of a template ("A very special island is inhabited only by ...") and says nothing about one item.
- Items shorter than SHORTEST tokens are compared as a whole field or a whole paragraph only: "3 + 4" stands in every
  worked solution.
- A token weighs what it tells about its item: log of items over items with the token, inside its benchmark and over
  all, whichever is less, so the words of a template weigh next to nothing. The program of a drawing weighs nothing:
  many questions are asked about one picture.

13-grams and coverage follow GPT-3 (arXiv 2005.14165, app. C) and the audit notes in FACTS section 7.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.data.decontaminate.kernels import (
    build_table,
    known,
    ngram_hashes,
    paragraph_hashes,
    seed_candidates,
    whole_hashes,
)
from components.data.text.kinds import KIND_NUMBER, KIND_WORD
from components.data.text.minhash import band_keys, signatures
from components.data.text.tokens import Tokens, formula_like, tokenise
from components.data.text.vocabulary import name_hash

SEED = 5
SHINGLE = 3
BAND_ROWS = 4
# A seed in more distinct items, or an n-gram in more, is boilerplate.
BOILERPLATE_SEED = 8
BOILERPLATE_NGRAM = 2
# Shortest item that counts when found inside a longer text.
SHORTEST = 8
FEWEST_TOKENS = 4
SEED_SHARE = 0.25
FEWEST_SEEDS = 2
# N-grams that stand for an item without seeds of its own.
RAREST = 8
BASE_WEIGHT = 0.1
# Opens and closes an Asymptote drawing, as `[asy]` and `[/asy]`.
_DRAWING = np.uint64(name_hash("asy"))


def drawing(tokens: Tokens) -> np.ndarray | None:
    """[tokens] bool: which tokens of one text belong to a drawing; None when it has none."""
    marks = tokens.hashes == _DRAWING
    return (np.cumsum(marks) % 2 == 1) | marks if marks.any() else None


@dataclass(frozen=True)
class IndexedItem:
    """One text of a benchmark item; `field` is question or solution."""

    benchmark: str
    item: str
    text: str
    field: str = "question"


class BenchmarkIndex:
    """Built once from the benchmarks; every method is pure and may be called from many threads."""

    def __init__(self, items: Sequence[IndexedItem], ngram: int) -> None:
        self.items, self.ngram = list(items), ngram
        self.tokens = tokenise([item.text for item in self.items])
        self.single = [self.tokens.text(position) for position in range(len(self.items))]
        self.lengths = np.diff(self.tokens.offsets)
        self.formula = formula_like(self.tokens).tolist()
        whole = whole_hashes(self.tokens.hashes, self.tokens.kinds, self.tokens.offsets, False)
        masked = whole_hashes(self.tokens.hashes, self.tokens.kinds, self.tokens.offsets, True)
        # Of a grid of numbers nothing is left without them.
        masked[[bool((single.kinds == KIND_NUMBER).all()) for single in self.single]] = 0
        self.whole, self.masked = self._positions(whole), self._positions(masked)
        self.masked.pop(0, None)
        self._whole_keys, self._masked_keys = _keys(self.whole), _keys(self.masked)
        self._short = {
            key: places
            for key, places in self.whole.items()
            if FEWEST_TOKENS <= self.lengths[places[0]] < SHORTEST and self._informative(places[0])
        }
        self._short_keys = _keys(self._short)
        self._short_table = build_table(self._short_keys)
        # Equal items in two benchmarks are one text: they do not make each other boilerplate.
        self._identity = np.unique(whole, return_inverse=True)[1] if len(whole) else whole.astype(np.int64)
        self.weights = self._weights()
        self.drawn = self._drawings()
        self._seeds()
        self.ngrams, self.distinctive = self._ngrams()
        shingles = ngram_hashes(self.tokens.hashes, self.tokens.offsets, SHINGLE)
        self.signatures = signatures(shingles, self.tokens.offsets)
        bands = band_keys(self.signatures, BAND_ROWS)
        bands[self.lengths < SHORTEST] = 0
        self._bands: dict[int, list[int]] = defaultdict(list)
        for position, row in enumerate(bands.tolist()):
            for key in row:
                if key:
                    self._bands[key].append(position)
        self._band_keys = _keys(self._bands)
        self._band_table = build_table(self._band_keys)

    def _positions(self, hashes: np.ndarray) -> dict[int, list[int]]:
        places: dict[int, list[int]] = defaultdict(list)
        for position, key in enumerate(hashes.tolist()):
            if self.lengths[position]:
                places[key].append(position)
        return places

    def _informative(self, position: int) -> bool:
        """A short item with a word and a number: neither `3 + 4` nor `Prove it.`"""
        kinds = self.single[position].kinds
        return bool((kinds == KIND_WORD).any() and (kinds == KIND_NUMBER).any())

    def _weights(self) -> list[np.ndarray]:
        """Weight of every token of every item."""
        everywhere: Counter = Counter()
        inside: dict[str, Counter] = defaultdict(Counter)
        distinct: dict[str, set] = defaultdict(set)
        for position, item in enumerate(self.items):
            identity = int(self._identity[position])
            words = set(self.single[position].hashes.tolist())
            if identity not in distinct[item.benchmark]:
                inside[item.benchmark].update(words)
            distinct[item.benchmark].add(identity)
        for counter in inside.values():
            everywhere.update(counter)
        total = sum(map(len, distinct.values()))
        weights = []
        for position, item in enumerate(self.items):
            own, size = inside[item.benchmark], len(distinct[item.benchmark])
            weights.append(
                BASE_WEIGHT
                + np.array(
                    [
                        min(np.log(total / everywhere[word]), np.log(size / own[word]) if size > 1 else np.inf)
                        for word in self.single[position].hashes.tolist()
                    ]
                )
            )
        return weights

    def _drawings(self) -> dict[int, np.ndarray]:
        """Mask of the drawing in every item that is more than one: a picture does not say what is asked of it."""
        found = {}
        for position, single in enumerate(self.single):
            mask = drawing(single)
            if mask is not None and (~mask).sum() >= FEWEST_TOKENS:
                found[position] = mask
                self.weights[position][mask] = 0.0
                self.formula[position] = bool(formula_like(single.select(~mask))[0])
        return found

    def _grams(self, n: int) -> np.ndarray:
        """[tokens] n-grams of all items; those of a drawing only where the question alone has too few."""
        grams = ngram_hashes(self.tokens.hashes, self.tokens.offsets, n)
        for position, mask in self.drawn.items():
            if (~mask).sum() >= self.ngram:
                grams[self.tokens.offsets[position] : self.tokens.offsets[position + 1]][mask] = 0
        return grams

    def _frequency(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(distinct (gram, item) rows' grams, their items, distinct texts that hold each gram)."""
        owner = np.repeat(np.arange(len(self.items)), self.lengths)
        used = grams != 0
        rows = np.unique(np.stack([grams[used], owner[used].astype(np.uint64)], axis=1), axis=0)
        gram, item = rows[:, 0], rows[:, 1].astype(np.int64)
        texts = np.unique(np.stack([gram, self._identity[item].astype(np.uint64)], axis=1), axis=0)[:, 0]
        keys, counts = np.unique(texts, return_counts=True)
        return gram, item, counts[np.searchsorted(keys, gram)]

    def _seeds(self) -> None:
        gram, item, frequency = self._frequency(self._grams(SEED))
        kept = (frequency <= BOILERPLATE_SEED) & (self.lengths[item] >= SHORTEST)
        self._tables = [_Seeds(SEED, gram[kept], item[kept], len(self.items))]
        self.seeds: list[np.ndarray] = [np.empty(0, dtype=np.uint64)] * len(self.items)
        gram, item = gram[kept], item[kept]
        order = np.argsort(item, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(item[order])) + 1):
            if len(part):
                self.seeds[int(item[part[0]])] = np.sort(gram[part])
        # A grid of zeros consists of boilerplate: its rarest long n-grams find it.
        bare = (self._tables[0].totals < FEWEST_SEEDS) & (self.lengths >= self.ngram)
        if bare.any():
            gram, item, frequency = self._frequency(self._grams(self.ngram))
            order = np.lexsort((gram, frequency, item))
            order = order[bare[item[order]]]
            first = np.concatenate([[True], np.diff(item[order]) != 0])
            rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
            chosen = order[rank < RAREST]
            self._tables.append(_Seeds(self.ngram, gram[chosen], item[chosen], len(self.items)))

    def _ngrams(self) -> tuple[list[np.ndarray], list[bool]]:
        """Sorted n-grams of every item, boilerplate left out where something remains; False where nothing did."""
        empty = np.empty(0, dtype=np.uint64)
        grams, distinctive = [empty] * len(self.items), [False] * len(self.items)
        gram, item, frequency = self._frequency(self._grams(self.ngram))
        order = np.argsort(item, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(item[order])) + 1):
            if len(part):
                own = part[frequency[part] <= BOILERPLATE_NGRAM]
                position = int(item[part[0]])
                grams[position], distinctive[position] = np.sort(gram[own if len(own) else part]), len(own) > 0
        return grams, distinctive

    def equal(self, batch: Tokens) -> list[tuple[int, list[int]]]:
        """(text, items) whose whole token sequences are equal."""
        return self._same(whole_hashes(batch.hashes, batch.kinds, batch.offsets, False), self._whole_keys, self.whole)

    def lines(self, batch: Tokens) -> list[tuple[int, list[int]]]:
        """(text, short items) that stand in a text as a paragraph of their own."""
        if not len(self._short_keys):
            return []
        text, hashes = paragraph_hashes(batch.points, batch.hashes, batch.starts, batch.ends, batch.offsets, SHORTEST)
        return [
            (int(text[place]), self._short[int(hashes[place])])
            for place in np.flatnonzero(known(hashes, self._short_keys, *self._short_table))
        ]

    def siblings(self, batch: Tokens) -> list[tuple[int, list[int]]]:
        """(text, items) whose token sequences are equal but for numbers."""
        keys = whole_hashes(batch.hashes, batch.kinds, batch.offsets, True)
        return self._same(keys, self._masked_keys, self.masked)

    @staticmethod
    def _same(keys: np.ndarray, known: np.ndarray, places: dict[int, list[int]]) -> list[tuple[int, list[int]]]:
        return [(int(text), places[int(keys[text])]) for text in np.flatnonzero(np.isin(keys, known))]

    def overlapping(self, batch: Tokens, grams: np.ndarray) -> np.ndarray:
        """[pairs, 3] (text, item, seeds found): texts that hold a share of an item's seeds.

        grams: ngram_hashes of the batch for SEED.
        """
        found = [
            table.candidates(batch, grams if table.n == SEED else ngram_hashes(batch.hashes, batch.offsets, table.n))
            for table in self._tables
            if len(table.keys)
        ]
        return np.concatenate([np.empty((0, 3), dtype=np.int64), *found])

    def resembling(self, batch: Tokens) -> list[tuple[int, int, float]]:
        """(text, item, estimated Jaccard similarity of shingles) of texts that share a MinHash band with an item."""
        own = signatures(ngram_hashes(batch.hashes, batch.offsets, SHINGLE), batch.offsets)
        keys = band_keys(own, BAND_ROWS)
        keys[np.diff(batch.offsets) < SHORTEST] = 0
        pairs = set()
        for text, band in zip(
            *np.nonzero(known(keys.reshape(-1), self._band_keys, *self._band_table).reshape(keys.shape)), strict=True
        ):
            pairs.update((int(text), item) for item in self._bands[int(keys[text, band])])
        return [(text, item, float((own[text] == self.signatures[item]).mean())) for text, item in sorted(pairs)]


class _Seeds:
    """The n-grams by which items are found, as a table: gram and item are rows of it."""

    def __init__(self, n: int, gram: np.ndarray, item: np.ndarray, items: int) -> None:
        self.n = n
        order = np.argsort(gram, kind="stable")
        gram, self._owners = gram[order], item[order]
        self.keys, first = np.unique(gram, return_index=True)
        self._starts = np.append(first, len(gram)).astype(np.int64)
        self.totals = np.bincount(item, minlength=items).astype(np.int64)
        self._slots, self._bits = build_table(self.keys)

    def candidates(self, batch: Tokens, grams: np.ndarray) -> np.ndarray:
        """[pairs, 3] (text, item, seeds found)."""
        room = 4 * len(batch) + 64
        while True:
            out = np.empty((room, 3), dtype=np.int64)
            count = seed_candidates(
                grams,
                batch.offsets,
                self.keys,
                self._slots,
                self._bits,
                self._starts,
                self._owners,
                self.totals,
                SEED_SHARE,
                FEWEST_SEEDS,
                out,
            )
            if count <= room:
                return out[:count]
            room = count


def _keys(places: dict[int, list[int]]) -> np.ndarray:
    return np.array(sorted(places), dtype=np.uint64)
