"""Whether a text and a benchmark item state the same numbers and symbols, and how much it says that they do.

Numbers of the item must stand in the text, in digits or in words (`twice` is 2, `dozen` 12), and where one of them has
a formula its symbols must agree. How rare the shared numbers are in the benchmarks is the evidence, in nats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from components.data.decontaminate.align import ARTICLES, STRONG
from components.data.decontaminate.index import BenchmarkIndex
from components.data.text.kinds import KIND_LETTER, KIND_NUMBER, KIND_OPERATOR
from components.data.text.tokens import Tokens
from components.data.text.vocabulary import name_hash

EXTRA_NUMBERS = 3
# A multiple that the item says (`half`, `a third`) and the text does not.
NATS_PER_MULTIPLE = 2.0
# From so many symbols on a text has a formula, and this share of them must agree.
FORMULA_SYMBOLS = 3
FORMULA_SHARE = 0.8

# These come and go with the wording (`one of them`).
_WEAK = {0.0, 1.0, 2.0}
_MULTIPLES = {
    **dict.fromkeys(("twice", "double", "doubled", "half", "halved"), 2.0),
    **dict.fromkeys(("thrice", "triple", "tripled", "third"), 3.0),
    **dict.fromkeys(("quarter", "fourth", "quadruple"), 4.0),
    **dict.fromkeys(("dozen", "dozens"), 12.0),
}
_SAID = _MULTIPLES | dict.fromkeys(("pair", "couple", "both"), 2.0) | dict.fromkeys(("week", "weekly"), 7.0)
_MULTIPLES_BY_HASH = {name_hash(word): value for word, value in _MULTIPLES.items()}
_SAID_BY_HASH = {name_hash(word): value for word, value in _SAID.items()}


class Agreement:
    """positions: the items that will be asked about."""

    def __init__(self, index: BenchmarkIndex, positions: Sequence[int]) -> None:
        self._index = index
        self._numbers = {position: _numbers(index.single[position]) for position in positions}
        self._formulas = {position: _formula(index.single[position]) for position in positions}
        frequency = Counter(value for values in self._numbers.values() for value in values)
        total = max(1, len(positions))
        self._nats = {value: float(np.log(total / count)) for value, count in frequency.items()}
        self._unseen = float(np.log(total + 1))

    def nats(self, position: int, text: Tokens) -> float | None:
        """Evidence of the numbers that item and text share; None when numbers or formulas disagree."""
        item = self._index.single[position]
        mine, other = self._numbers[position], _numbers(text)
        also_said = _said(text, _SAID_BY_HASH)
        missing = mine - other - also_said
        extra = other - mine - _said(item, _SAID_BY_HASH) - _WEAK
        # A weak number may be missing, unless another number stands in its place or it was written as a digit.
        if missing - _WEAK or len(extra) > EXTRA_NUMBERS or (missing and extra) or missing & _written(item):
            return None
        if not _agree(self._formulas[position], _formula(text)):
            return None
        shared = sum(self._nats[value] for value in (mine & other) - _WEAK)
        lost = sum(self._nats.get(value, self._unseen) for value in extra) / 2
        return shared - lost - NATS_PER_MULTIPLE * len(_said(item, _MULTIPLES_BY_HASH) - other - also_said)


def _numbers(tokens: Tokens) -> frozenset[float]:
    """The numbers of a text; fractions by their hash, as values no whole number has."""
    places = np.flatnonzero(tokens.kinds == KIND_NUMBER)
    return frozenset(
        float(tokens.values[place]) if tokens.values[place] >= 0 else -1.0 - float(int(tokens.hashes[place]) >> 12)
        for place in places.tolist()
    )


def _said(tokens: Tokens, words: dict[int, float]) -> set[float]:
    """Numbers that words say: `twice`, `a dozen`."""
    return {words[token] for token in tokens.hashes.tolist() if token in words}


def _written(tokens: Tokens) -> set[float]:
    """2 where it is written as a digit: `two of them` comes and goes, `2 boxes` does not."""
    twos = tokens.starts[(tokens.kinds == KIND_NUMBER) & (tokens.values == 2.0)]
    return {2.0} if (tokens.points[twos] == ord("2")).any() else set()


def _formula(tokens: Tokens) -> tuple[Counter, int]:
    """(numbers, operators and one-letter names of a text; how many are no numbers), without the articles of prose."""
    places = np.flatnonzero(tokens.kinds == KIND_NUMBER).tolist()
    numbers = len(places)
    operators = (tokens.kinds == KIND_OPERATOR) & np.isin(tokens.hashes, STRONG)
    letters = (tokens.kinds == KIND_LETTER) & ~np.isin(tokens.hashes, ARTICLES)
    places += np.flatnonzero(operators | letters).tolist()
    return Counter(tokens.hashes[places].tolist()), len(places) - numbers


def _agree(one: tuple[Counter, int], other: tuple[Counter, int]) -> bool:
    if max(one[1], other[1]) < FORMULA_SYMBOLS:
        return True
    return (one[0] & other[0]).total() >= FORMULA_SHARE * max(one[0].total(), other[0].total())
