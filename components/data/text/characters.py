"""What the kernels ask about single characters and what is around them, and the hash a token is made of.

Everything looks at a few characters only, so one pass over a batch of texts is enough.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from components.data.text.fold import CJK, LETTER
from components.data.text.vocabulary import OFFSET, PRIME

HASH_OFFSET = np.uint64(OFFSET)
_PRIME = np.uint64(PRIME)
_LOOKAHEAD = 400


@njit(cache=True, nogil=True)
def class_of(table, point):
    if point < 0x10000:
        return table[point]
    if 0x20000 <= point < 0x40000:
        return CJK
    return LETTER if point < 0x1F000 else 0


@njit(cache=True, nogil=True)
def step(value, point):
    return (value ^ np.uint64(point)) * _PRIME


@njit(cache=True, nogil=True)
def lower(point):
    return point + 32 if 65 <= point <= 90 else point


@njit(cache=True, nogil=True)
def find_sorted(keys, key):
    """Position of `key` in the sorted `keys`, or -1."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(keys) and keys[low] == key else -1


@njit(cache=True, nogil=True)
def is_space(point):
    return point == 32 or 9 <= point <= 13 or point == 160


@njit(cache=True, nogil=True)
def group_end(cp, start, hi):
    """Position of the brace that closes the one at `start`, or -1 when it is not near."""
    depth = 0
    for i in range(start, min(hi, start + _LOOKAHEAD)):
        if cp[i] == 123:
            depth += 1
        elif cp[i] == 125:
            depth -= 1
            if depth == 0:
                return i
    return -1


@njit(cache=True, nogil=True)
def line_start(cp, i, lo):
    """True when only white space stands between `i` and the beginning of its line."""
    i -= 1
    while i >= lo:
        if cp[i] == 10 or cp[i] == 13:
            return True
        if not is_space(cp[i]):
            return False
        i -= 1
    return True


@njit(cache=True, nogil=True)
def begins_word(cp, table, i, hi):
    """True for a word of two letters or more, and for the articles of English prose."""
    if i + 1 >= hi or class_of(table, cp[i]) != LETTER:
        return False
    return class_of(table, cp[i + 1]) == LETTER or (is_space(cp[i + 1]) and (cp[i] | 32 == 97 or cp[i] == 73))
