"""Longest common subsequence of an item and a stretch of text, and what lies in its gaps.

The gaps decide what a share of equal words cannot: a number that stands where another number stood makes another
problem of the same template, and in a formula every symbol does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from components.data.text.tokens import Tokens
from components.data.text.vocabulary import name_hash

# Longer items are compared by their beginning; the table of the recursion grows with the product of both lengths.
LONGEST = 2000
# Operators that make another formula; brackets and bars are often dress.
STRONG = np.array(sorted(name_hash(mark) for mark in "+-*/=<>^&~!≤≥≠±√∑∫"), dtype=np.uint64)
# One-letter words that are no variables.
ARTICLES = np.array([name_hash("a"), name_hash("i")], dtype=np.uint64)


@dataclass(frozen=True)
class Alignment:
    """share: of the item's tokens that stand in the text in order; weighted: the same by weight of tokens.

    changed: numbers or operators replaced by others; symbols: formula tokens in gaps between aligned ones.
    pairs: [matches, 2] positions in the item and in the stretch.
    """

    share: float
    weighted: float
    changed: int
    symbols: int
    pairs: np.ndarray


def align(item: Tokens, stretch: Tokens, weights: np.ndarray) -> Alignment:
    """Aligns one item (its tokens and their weights) with one stretch of text."""
    pairs, changed, symbols = _align(item.hashes[:LONGEST], item.kinds, stretch.hashes, stretch.kinds, STRONG)
    total = weights[:LONGEST].sum()
    size = min(LONGEST, len(item.hashes))
    weighted = float(weights[pairs[:, 0]].sum() / total) if total > 0 else len(pairs) / size
    return Alignment(len(pairs) / size, weighted, changed, symbols, pairs)


@njit(cache=True, nogil=True)
def _align(a, a_kinds, b, b_kinds, strong):
    n, m = len(a), len(b)
    table = np.zeros((n + 1, m + 1), dtype=np.int16)
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            if a[i] == b[j]:
                table[i, j] = table[i + 1, j + 1] + 1
            else:
                table[i, j] = max(table[i + 1, j], table[i, j + 1])
    pairs = np.empty((table[0, 0], 2), dtype=np.int64)
    i = j = size = 0
    while i < n and j < m:
        if a[i] == b[j]:
            pairs[size, 0], pairs[size, 1] = i, j
            size += 1
            i += 1
            j += 1
        elif table[i + 1, j] >= table[i, j + 1]:
            i += 1
        else:
            j += 1
    changed = symbols = 0
    for gap in range(size + 1):
        a_low = 0 if gap == 0 else pairs[gap - 1, 0] + 1
        b_low = 0 if gap == 0 else pairs[gap - 1, 1] + 1
        a_high = n if gap == size else pairs[gap, 0]
        b_high = m if gap == size else pairs[gap, 1]
        inside = 0 < gap < size
        if not inside:  # around the item there is other text: as much of it counts as the item has there
            width = a_high - a_low
            if gap == 0:
                b_low = max(b_low, b_high - width)
            else:
                b_high = min(b_high, b_low + width)
        if a_low == a_high and b_low == b_high:
            continue
        lost = gained = lost_mark = gained_mark = 0
        for i in range(a_low, a_high):
            if 1 <= a_kinds[i] <= 3:
                symbols += 1
            if _decides(a[i], a_kinds[i], strong) and not _has(b, b_low, b_high, a[i]):
                lost += a_kinds[i] == 1
                lost_mark += a_kinds[i] == 2
        for j in range(b_low, b_high):
            if inside and 1 <= b_kinds[j] <= 3:
                symbols += 1
            if _decides(b[j], b_kinds[j], strong) and not _has(a, a_low, a_high, b[j]):
                gained += b_kinds[j] == 1
                gained_mark += b_kinds[j] == 2
        changed += min(lost, gained) + min(lost_mark, gained_mark)
    return pairs, changed, symbols


@njit(cache=True, nogil=True)
def _decides(token, kind, strong):
    if kind == 1:
        return True
    if kind != 2:
        return False
    low, high = 0, len(strong)
    while low < high:
        middle = (low + high) >> 1
        if strong[middle] < token:
            low = middle + 1
        else:
            high = middle
    return low < len(strong) and strong[low] == token


@njit(cache=True, nogil=True)
def _has(tokens, low, high, token):
    for i in range(low, high):  # noqa: SIM110 (numba)
        if tokens[i] == token:
            return True
    return False
