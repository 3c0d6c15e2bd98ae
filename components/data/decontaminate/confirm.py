"""The verdict of the string levels on one candidate: a copy and at which level, a template sibling, or nothing.

- contained: the item's tokens stand in the text one after another.
- ngram: enough of the item's own n-grams do (GPT-3's practice), and the longest common subsequence agrees.
- lcs: so much of the item stands there in order that no single edit explains it away (an edit every few words leaves
  no 13-gram, as re-wrapped or slightly reworded copies show), or its long formula does, and half of its words.
- minhash: nearly the same shingles in another order, and the same numbers.
- template: the words agree and a number or operator does not. Reported, never removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.data.decontaminate.align import ARTICLES, Alignment, align
from components.data.decontaminate.evidence import Level
from components.data.decontaminate.index import SEED, SHORTEST, BenchmarkIndex, drawing
from components.data.decontaminate.kernels import densest_window, find_run, ngram_hashes
from components.data.text.kinds import KIND_LETTER, KIND_NUMBER, KIND_OPERATOR, KIND_WORD
from components.data.text.tokens import Tokens

LCS_SHARE = 0.7
# In a shorter item one word may be the whole question: "arrange the letters of the word ELLIPSE".
LONG_ITEM = 30
SHORT_LCS_SHARE = 0.9
# What an n-gram finding must also have, so that a shared passage of two problems is no copy of either.
NGRAM_SHARE = 0.6
FORMULA_SHARE = 0.95
TEMPLATE_SHARE = 0.6
# Numbers, operators and variables that may be missing or added, one in so many tokens of the item.
TOKENS_PER_SYMBOL = 15
FORMULA_TOKENS_PER_SYMBOL = 60
MINHASH = 0.6
MINHASH_WORDS = 0.9
# Below this length one other word is another problem: such items are found whole or not at all.
SHORTEST_EDITED = 13
# A formula of so many symbols that is the same, symbol by symbol, leaves half of the other words free.
LONG_FORMULA = 8
FORMULA_SYMBOLS = 10
SAME_FORMULA_SHARE = 0.5


@dataclass(frozen=True)
class Match:
    """`item` is a position in BenchmarkIndex.items. pairs: aligned positions (item's, text's); None for whole texts."""

    item: int
    level: Level
    score: float
    pairs: np.ndarray | None = None


def confirm(index: BenchmarkIndex, position: int, text: Tokens, min_coverage: float) -> Match | None:
    """What a text that holds a share of the item's seeds is to it."""
    item = index.single[position]
    size = len(item.hashes)
    run = find_run(text.hashes, item.hashes) if size >= SHORTEST else -1
    if run >= 0 and (not index.formula[position] or _stands_alone(text, run, run + size)):
        pairs = np.stack([np.arange(size), np.arange(run, run + size)], axis=1)
        return Match(position, "contained", 1.0, pairs)
    if size < SHORTEST_EDITED or not index.distinctive[position]:
        return None
    low, stretch = _stretch(index, position, text)
    weights, drawn = index.weights[position], index.drawn.get(position)
    places = np.arange(size)
    if drawn is not None and drawing(text) is None:  # the question without its picture
        places = np.flatnonzero(~drawn)
        item, weights, drawn, size = item.select(places), weights[places], None, len(places)
        if size < SHORTEST_EDITED:
            return None
    found = align(item, stretch, weights)
    if not len(found.pairs):
        return None
    share = found.share if drawn is None else float((~drawn[found.pairs[:, 0]]).sum() / (~drawn).sum())
    pairs = np.stack([places[found.pairs[:, 0]], found.pairs[:, 1] + low], axis=1)
    alone = _stands_alone(text, int(pairs[0, 1]), int(pairs[-1, 1]) + 1)
    question = item if drawn is None else item.select(~drawn)
    same = (
        alone and _same_formula(index, position, question, found) and min(found.weighted, share) >= SAME_FORMULA_SHARE
    )
    if index.formula[position]:
        near = found.symbols * FORMULA_TOKENS_PER_SYMBOL <= size and found.weighted >= FORMULA_SHARE and alone
        if near or same:
            return Match(position, "lcs", found.weighted, pairs)
        # A grid of numbers has no template: nothing is left when the numbers differ.
        words = bool((item.kinds != KIND_NUMBER).any())
        return Match(position, "template", 0.0, pairs) if share >= TEMPLATE_SHARE and alone and words else None
    if found.changed or found.symbols * TOKENS_PER_SYMBOL > size:
        return Match(position, "template", 0.0, pairs) if share >= TEMPLATE_SHARE else None
    grams = ngram_hashes(stretch.hashes, stretch.offsets, index.ngram)
    coverage = float(np.isin(index.ngrams[position], grams).mean())
    if coverage >= min_coverage and found.weighted >= NGRAM_SHARE:
        return Match(position, "ngram", coverage, pairs)
    needed = LCS_SHARE if len(question.hashes) >= LONG_ITEM else SHORT_LCS_SHARE
    if same or (found.weighted >= needed and share >= NGRAM_SHARE):
        return Match(position, "lcs", found.weighted, pairs)
    return None


def _same_formula(index: BenchmarkIndex, position: int, question: Tokens, found: Alignment) -> bool:
    """A long formula that is the same in a question. Worked solutions share theirs: 30 - 2 = 28, 28 / 2 = 14."""
    symbols = (question.kinds >= KIND_NUMBER) & (question.kinds <= KIND_LETTER) & ~np.isin(question.hashes, ARTICLES)
    size = int(symbols.sum())
    return (
        index.items[position].field == "question"
        and not found.changed
        and size >= LONG_FORMULA
        and found.symbols * FORMULA_SYMBOLS <= size
    )


def confirm_resembling(index: BenchmarkIndex, position: int, text: Tokens, similarity: float) -> Match | None:
    """What a text with nearly the item's shingles is to it: the numbers decide, wherever they stand."""
    item = index.single[position]
    if similarity < MINHASH or index.formula[position] or not index.distinctive[position]:
        return None
    if not np.array_equal(
        np.sort(item.hashes[item.kinds == KIND_NUMBER]), np.sort(text.hashes[text.kinds == KIND_NUMBER])
    ):
        return None
    known = np.isin(item.hashes, text.hashes)
    weights = index.weights[position]
    if weights[known].sum() < MINHASH_WORDS * weights.sum():
        return None
    places = {token: place for place, token in enumerate(text.hashes.tolist())}
    pairs = [(own, places[token]) for own, token in enumerate(item.hashes.tolist()) if token in places]
    return Match(position, "minhash", similarity, np.array(pairs, dtype=np.int64).reshape(-1, 2))


def _stretch(index: BenchmarkIndex, position: int, text: Tokens) -> tuple[int, Tokens]:
    """(first token, tokens) of the part of a longer text where the item's seeds are densest."""
    size = len(index.single[position].hashes)
    width = size + size // 4 + 2 * SEED
    if len(text.hashes) <= width:
        return 0, text
    grams = ngram_hashes(text.hashes, text.offsets, SEED)
    low = max(0, int(densest_window(grams, index.seeds[position], width)) - SEED)
    return low, text.slice(low, min(len(text.hashes), low + width + SEED))


def _stands_alone(text: Tokens, start: int, end: int) -> bool:
    """True when a formula is whole: `6a+4` is not in `6a+4b`, nor in `6a+4 + 2`."""
    if start > 0:
        touching = text.ends[start - 1] == text.starts[start]
        if touching and text.kinds[start - 1] in (KIND_NUMBER, KIND_OPERATOR, KIND_LETTER):
            return False
    if end < len(text.hashes):
        kind, touching = text.kinds[end], text.ends[end - 1] == text.starts[end]
        if touching and kind in (KIND_WORD, KIND_NUMBER, KIND_LETTER):
            return False
        if kind == KIND_OPERATOR and chr(int(text.points[text.starts[end]])) in "+-*/^|&=<>":
            return False
    return True
